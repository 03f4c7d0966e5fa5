"""Reads request bodies and query parameters, and validates them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated, Final, TypeVar
from uuid import UUID

import attrs
import trio
from msgspec import Meta
from starlette.requests import Request

from actorchat.chat.ports import ListPlace
from actorchat.http.cursors import place_of
from actorchat.http.ports import Sender
from actorchat.http.problems import Problem
from actorchat.http.source_names import SourceName
from actorchat.protocol import (
    MAX_TAG_CHARS,
    MAX_TAGS,
    ChatStatus,
    Malformed,
    MessageType,
    NotUtf8,
    PageContext,
    Role,
    parse_json,
    structure,
)
from actorchat.protocol.entities import ClientId, SafeInt

__all__ = [
    "MAX_LIMIT",
    "ChatBody",
    "EditBody",
    "MessageBody",
    "Query",
    "Tag",
    "TagsBody",
    "TransferBody",
    "VisitorBody",
    "check_parameters",
    "check_tag",
    "check_tags",
    "read_body",
    "read_json",
    "sender_of",
]

MAX_BODY_BYTES: Final = 131_072
"""Enough for a message of 16,000 characters with each character written as a six-byte escape."""

BODY_SECONDS: Final = 15.0
"""The time limit for receiving a body."""

_DISCARDED_BYTES: Final = 1_048_576
"""How much of a body over the limit is read and discarded. Closing at once could reset the connection, and a client
that is still sending would lose the answer.
"""

MAX_TOKEN_CHARS: Final = 8_192
"""Characters of a token in a body."""

MAX_LIMIT: Final = 200
_DEFAULT_LIMIT: Final = 50
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,16}")

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

Tag = Annotated[str, Meta(min_length=1, max_length=MAX_TAG_CHARS)]
"""The tag of a chat in a JSON body."""


@attrs.frozen(slots=False)
class VisitorBody:
    """`anonymous` is the token of the anonymous visitor whose chats are to become those of the caller."""

    source: SourceName
    context: PageContext | None = None
    anonymous: Annotated[str, Meta(max_length=MAX_TOKEN_CHARS)] | None = None


@attrs.frozen(slots=False)
class ChatBody:
    source: SourceName
    owner: SafeInt


@attrs.frozen(slots=False)
class TransferBody:
    operator_id: SafeInt


@attrs.frozen(slots=False)
class EditBody:
    text: str


@attrs.frozen(slots=False)
class TagsBody:
    tags: tuple[Tag, ...]


@attrs.frozen(slots=False)
class MessageBody:
    """The body of a message. `type_role` is the recipients' role of a system message; a standard one ignores it."""

    text: str
    attachments: tuple[UUID, ...] = ()
    type: MessageType = MessageType.STANDARD
    type_role: Role | None = None
    client_id: ClientId | None = None


def sender_of(request: Request) -> Sender:
    """Return where the request comes from."""
    address = request.client.host if request.client else ""
    return Sender(address, request.headers.get("origin"), request.headers.get("host"))


async def read_body(request: Request) -> bytes:
    """Read the whole body. Raises Problem 413 if it is too large, 408 if it is too slow."""
    body = bytearray()
    size = 0
    with trio.move_on_after(BODY_SECONDS) as deadline:
        async with aclosing(request.stream()) as parts:
            async for part in parts:
                size += len(part)
                if size <= MAX_BODY_BYTES:
                    body += part
                elif size > MAX_BODY_BYTES + _DISCARDED_BYTES:
                    break
    if deadline.cancelled_caught:
        raise Problem("timeout", f"the body took longer than {BODY_SECONDS:.0f} s")
    if size > MAX_BODY_BYTES:
        raise Problem("too_large", f"a body may have at most {MAX_BODY_BYTES} bytes")
    return bytes(body)


def read_json(body: bytes, cls: type[T]) -> T:
    """Parse the body as `cls`. Raises Problem 400 if it is not JSON, 422 with all faults if it does not match `cls`."""
    try:
        value = parse_json(body)
    except (NotUtf8, Malformed) as error:
        raise Problem("malformed", error.detail, path=error.path, status=400) from None
    try:
        return structure(value, cls)
    except Malformed as error:
        raise Problem("malformed", error.detail, path=error.path) from None


def check_parameters(given: Iterable[str], known: Collection[str]) -> None:
    """Raise Problem 400 for the first query parameter in `given` that is not in `known`."""
    for name in given:
        if name not in known:
            hint = f"expected one of {', '.join(sorted(known))}" if known else "this path has none"
            raise _bad(name, f"there is no such query parameter; {hint}")


def check_tag(tag: str, path: str) -> None:
    """Raise Problem 422 for a tag that no chat may have. `path` names the field."""
    if not 1 <= len(tag) <= MAX_TAG_CHARS:
        raise Problem("malformed", f"{path}: a tag has 1 to {MAX_TAG_CHARS} characters", path=path)
    if tag != tag.strip() or not tag.isprintable():
        detail = f"{path}: a tag has no control characters, and no space at its beginning or end"
        raise Problem("malformed", detail, path=path)


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags sorted and without repeats. Raises Problem 422 for one that is not allowed, and for too many."""
    for number, tag in enumerate(tags):
        check_tag(tag, f"tags[{number}]")
    unique = tuple(sorted(set(tags)))
    if len(unique) > MAX_TAGS:
        raise Problem("malformed", f"tags: a chat has at most {MAX_TAGS} tags", path="tags")
    return unique


class Query:
    """A request's query parameters. Methods raise Problem 400 for invalid values.

    The constructor raises it for parameters that are not in `known`, so that misspelt ones are not ignored.
    """

    def __init__(self, request: Request, known: Collection[str] = ()) -> None:
        self._parameters = request.query_params
        check_parameters(self._parameters, known)

    def limit(self) -> int:
        limit = self.number("limit")
        if limit is None:
            return _DEFAULT_LIMIT
        if not 1 <= limit <= MAX_LIMIT:
            raise _bad("limit", f"expected 1 to {MAX_LIMIT}, got {limit}")
        return limit

    def number(self, name: str) -> int | None:
        text = self._one(name)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text) or abs(int(text)) > 2**53:
            raise _bad(name, "expected an integer")
        return int(text)

    def text(self, name: str) -> str | None:
        return self._one(name)

    def chosen(self, name: str, choices: Collection[str]) -> str | None:
        text = self._one(name)
        if text is not None and text not in choices:
            raise _bad(name, f"expected one of {', '.join(choices)}")
        return text

    def place(self, name: str) -> ListPlace | UUID | None:
        """Return the position in a list: the cursor of a `Link` header, or a chat's UUID."""
        text = self._one(name)
        try:
            if text is None or _UUID.fullmatch(text):
                return None if text is None else UUID(text)
            return place_of(text)
        except ValueError:
            raise _bad(name, "expected the cursor of a Link header or a chat's UUID") from None

    def status(self) -> ChatStatus | None:
        text = self._one("status")
        try:
            return None if text is None else ChatStatus(text)
        except ValueError:
            raise _bad("status", f"expected one of {', '.join(ChatStatus)}") from None

    def uuid(self, name: str) -> UUID | None:
        text = self._one(name)
        if text is not None and not _UUID.fullmatch(text):
            raise _bad(name, "expected a UUID")
        return None if text is None else UUID(text)

    def one_of(self, name: str, choices: type[E], default: E) -> E:
        """Return the member of an enum of texts that is named."""
        text = self._one(name)
        try:
            return default if text is None else choices(text)
        except ValueError:
            raise _bad(name, f"expected one of {', '.join(choices)}") from None

    def all_values(self, name: str) -> tuple[str, ...]:
        return tuple(self._parameters.getlist(name))

    def _one(self, name: str) -> str | None:
        texts = self._parameters.getlist(name)
        if len(texts) > 1:
            raise _bad(name, "given more than once")
        return texts[0] if texts else None


def _bad(name: str, detail: str) -> Problem:
    return Problem("malformed", f"{name}: {detail}", path=name, status=400)
