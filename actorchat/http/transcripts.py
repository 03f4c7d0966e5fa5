"""Writes the transcript of a chat as text, JSON or HTML, page by page."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from enum import StrEnum
from html import escape
from typing import Final

from actorchat.chat.model import ChatState, StoredMessage
from actorchat.chat.ports import Page, StorageUnavailable
from actorchat.http.streamed_response import StreamedResponse
from actorchat.protocol import Message, MessageType, Role, User, encode_entity, wire_time

__all__ = ["TranscriptFormat", "transcript_parts", "transcript_response"]

ReadPage = Callable[[int], Awaitable[Page | None]]
"""Reads the messages after an index."""

Wire = Callable[[ChatState, StoredMessage], Message]

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters except tab and line feed, which could change the display of a terminal, and marks of direction."""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:45em;margin:2em auto;padding:0 1em;"
    "color:#1c1c1e;background:#fff}"
    "ol{list-style:none;padding:0}li{margin:0 0 .75em;padding:.5em .75em;border-radius:.5em;background:#f2f2f4}"
    "li.operator{background:#e5f0ff}li.system{background:none;color:#636366;font-size:.875em}"
    "li.note{background:#fff6d6}p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}"
    "small{color:#636366}@media(prefers-color-scheme:dark){body{color:#f2f2f7;background:#1c1c1e}"
    "li{background:#2c2c2e}li.operator{background:#1d3557}li.note{background:#4a3f12}small,li.system{color:#aeaeb2}}"
)


class TranscriptFormat(StrEnum):
    """How a transcript is written."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


_MEDIA_TYPES: Final = {
    TranscriptFormat.TEXT: ("text/plain", "txt"),
    TranscriptFormat.JSON: ("application/json", "json"),
    TranscriptFormat.HTML: ("text/html", "html"),
}


async def transcript_response(
    chat: ChatState, format: TranscriptFormat, read: ReadPage, wire: Wire
) -> StreamedResponse:
    """Return a response that streams the transcript. Raises `StorageUnavailable` if the first page can't be read."""
    parts = _encoded(transcript_parts(chat, format, await read(-1), read, wire))
    media_type, extension = _MEDIA_TYPES[format]
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="chat-{chat.uuid}.{extension}"',
        "Content-Security-Policy": f"{_POLICY}; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return StreamedResponse(parts, headers=headers, media_type=media_type)


async def _encoded(parts: AsyncGenerator[str, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
        try:
            async for part in parts:
                yield part.encode()
        except StorageUnavailable as error:
            # Closes the connection, so that nobody takes the transcript for complete.
            raise OSError(f"the transcript can't be read on: {error}") from error


async def transcript_parts(
    chat: ChatState, format: TranscriptFormat, page: Page | None, read: ReadPage, wire: Wire
) -> AsyncGenerator[str, None]:
    """Yield the transcript in parts: the messages of the first `page`, and those that `read` returns after it.

    Raises `StorageUnavailable`.
    """
    index, separator = -1, ""
    yield _head(chat, format)
    while page is not None and page.messages:
        written: list[str] = []
        for message in page.messages:
            match format:
                case TranscriptFormat.TEXT:
                    written.append(_as_text(message))
                case TranscriptFormat.HTML:
                    written.append(_as_html(message))
                case TranscriptFormat.JSON:
                    written.append(separator + encode_entity(wire(page.chat, message)).decode())
                    separator = ",\n"
        yield "".join(written)
        index = page.messages[-1].index
        page = await read(index) if page.has_more else None
    yield _TAILS[format]


_TAILS: Final = {
    TranscriptFormat.TEXT: "",
    TranscriptFormat.JSON: "\n]}\n",
    TranscriptFormat.HTML: "</ol>\n</body>\n</html>\n",
}


def _head(chat: ChatState, format: TranscriptFormat) -> str:
    title = f"Chat {chat.uuid} at {chat.source}, {chat.stage.status.value}"
    people = f"Customer: {_name(chat.owner)}"
    if chat.operator is not None:
        people += f". Operator: {_name(chat.operator)}"
    match format:
        case TranscriptFormat.JSON:
            return f'{{"chat":{encode_entity(chat.wire()).decode()},"messages":[\n'
        case TranscriptFormat.HTML:
            return (
                f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
                f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n'
                '<meta name="viewport" content="width=device-width">\n<meta name="robots" content="noindex">\n'
                f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
                f"<h1>{escape(title)}</h1>\n<p>{escape(people)}</p>\n<ol>\n"
            )
        case TranscriptFormat.TEXT:
            return f"{title}\n{people}\n\n"


def _as_text(message: StoredMessage) -> str:
    text = "\n    ".join(_lines(message))
    return f"[{wire_time(message.time)}] {_by(message)}: {text}\n"


def _as_html(message: StoredMessage) -> str:
    kind = message.type_role.value if message.type is MessageType.STANDARD else "system"
    if _is_note(message):
        kind = "note"
    time = wire_time(message.time)
    text = escape("\n".join(_lines(message)))
    return (
        f'<li class="{kind}"><small>{escape(_by(message))}, <time datetime="{time}">{time}</time></small>'
        f'<p dir="auto">{text}</p></li>\n'
    )


def _lines(message: StoredMessage) -> list[str]:
    if message.redacted:
        return ["(removed)"]
    lines = _CONTROLS.sub("\ufffd", message.text).split("\n") if message.text else []
    lines += [
        f"({file.type.value}: {_CONTROLS.sub('', file.filename)}, {file.size} bytes)" for file in message.attachments
    ]
    if message.edited_at is not None and lines:
        lines[-1] += " (edited)"
    return lines


def _is_note(message: StoredMessage) -> bool:
    return message.type is MessageType.SYSTEM and message.type_role is Role.OPERATOR and message.author is not None


def _by(message: StoredMessage) -> str:
    author = "System" if message.author is None else _name(message.author)
    return f"{author} (note)" if _is_note(message) else author


def _name(user: User) -> str:
    name = " ".join(part for part in (user.firstname, user.patronymic, user.lastname) if part)
    role = "Visitor" if user.role is Role.USER else "Operator"
    return _CONTROLS.sub("", name.replace("\n", " ")) or f"{role} {user.id}"
