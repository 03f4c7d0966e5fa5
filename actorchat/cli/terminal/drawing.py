"""Draws views as lines of styled text, each a list of (style, text) pairs."""

from collections.abc import Callable
from typing import Final
from uuid import UUID

from actorchat.cli.terminal.chat_list_view import ChatListView, Row
from actorchat.cli.terminal.chat_view import ChatView, Notice, Pending, is_note
from actorchat.cli.terminal.formatting import clock_time, display_name
from actorchat.cli.text import QUOTED_WIDTH, clean, counted, fit, one_line, shorten
from actorchat.client import ConnectionState
from actorchat.protocol.entities import ChatStatus, Message, MessageStatus, MessageType, Role

Line = list[tuple[str, str]]

TICKS: Final = {
    MessageStatus.NEW: ("class:tick", "✓"),
    MessageStatus.DELIVERED: ("class:tick", "✓✓"),
    MessageStatus.READ: ("class:tick.read", "✓✓ read"),
}


_NAME_WIDTH: Final = 24
"""Longer names are cut in the list; in terminal cells."""

Measure = Callable[[str], int]
"""Returns how many terminal cells a text takes."""


def chat_title(view: ChatView) -> str:
    """The people in the chat and its status; while disconnected, the connection state in place of the status."""
    operator = view.chat.operator_user
    if view.me.role is Role.USER:
        people = "waiting for an operator" if operator is None else f"with {display_name(operator)}"
    else:
        assigned = "unassigned" if operator is None else display_name(operator)
        people = f"{display_name(view.chat.owner_user)} · {assigned}"
    disconnected = _disconnected_text(view.connection, view.reason)
    if disconnected:
        return f"{people} · {disconnected}"
    online = [display_name(user) for user in view.present if user.role is view.other]
    return f"{people} · {view.chat.status.value}" + (f" · online: {', '.join(online)}" if online else "")


def _disconnected_text(connection: ConnectionState, reason: str) -> str:
    """The title's words while there is no connection; empty while there is one."""
    if connection is ConnectionState.CONNECTING:
        return "reconnecting" if reason else "connecting"
    return "" if connection is ConnectionState.LIVE else "disconnected"


def connection_line(connection: ConnectionState, reason: str) -> Line:
    """A warning about the connection; empty while connected."""
    if connection is ConnectionState.LIVE:
        return []
    if connection is ConnectionState.WAITING:
        return [("class:warning", f"not connected: {one_line(reason)}; trying again")]
    if connection is ConnectionState.CONNECTING:
        return [("class:warning", f"connecting{': ' + one_line(reason) if reason else ''}…")]
    return [("class:warning", "closed")]


def status_lines(view: ChatView | ChatListView) -> list[Line]:
    """The lines between body and input: connection, typing, unread messages in other chats, notices, hints."""
    lines = [connection_line(view.connection, view.reason)]
    if isinstance(view, ChatView):
        lines.append(typing_line(view))
        lines.append([("class:unread", one_line(view.other_chats))] if view.other_chats else [])
    elif view.notice:
        lines.extend([("class:notice", part)] for part in view.notice.split("\n"))
    else:
        lines.append(chat_list_hint(view))
    return [line for line in lines if line]


def wrap(line: Line, width: int, measure: Measure = len) -> list[Line]:
    """Wrap the cleaned line into rows of at most `width` cells, at a space if one is in the second half of the row."""
    rows: list[Line] = []
    row: Line = []
    used = 0
    for style, text in line:
        for char in one_line(text):
            size = measure(char)
            if row and used + size > width:
                # A space that does not fit is dropped at the end of the row.
                spaces = [at for at, (_, each) in enumerate(row) if each == " "]
                cut = spaces[-1] + 1 if spaces and spaces[-1] >= len(row) // 2 and char != " " else len(row)
                rows.append(_join(row[:cut]))
                row = row[cut:]
                used = sum(measure(each) for _, each in row)
                if char == " " and not row:
                    continue
            row.append((style, char))
            used += size
    return [*rows, _join(row)]


def _join(chars: Line) -> Line:
    """Merge neighbours with the same style."""
    joined: Line = []
    for style, char in chars:
        if joined and joined[-1][0] == style:
            joined[-1] = (style, joined[-1][1] + char)
        else:
            joined.append((style, char))
    return joined


def chat_lines(view: ChatView) -> list[Line]:
    """The entries of the chat, oldest first; a message with line breaks takes several lines."""
    lines: list[Line] = []
    for entry in view.entries:
        match entry:
            case Notice(text):
                lines.append([("class:notice", f"  {one_line(text)}")])
            case Pending(text=text, error=error):
                mark = ("class:error", f"✗ {error}") if error else ("class:tick", "…")
                quoted = shorten(text, QUOTED_WIDTH) if error else text
                lines.extend(_entry_lines("--:-- you: ", "class:mine", quoted, mark))
            case _:
                lines.extend(_message_lines(view, entry))
    return lines


def typing_line(view: ChatView) -> Line:
    """A line while the other side is typing, with the text if it is known."""
    if view.typing is None:
        return []
    text = f": {shorten(view.typing, QUOTED_WIDTH)}" if view.typing else ""
    author = "the visitor" if view.other is Role.USER else "the operator"
    return [("class:typing", f"{author} is typing{text}…")]


def chat_list_title(view: ChatListView) -> str:
    """The number of unread chats and the online operators; while disconnected, the connection state."""
    disconnected = _disconnected_text(view.connection, view.reason)
    if disconnected:
        return f"{disconnected} · {'the list may be out of date' if view.operators else 'the list is not loaded yet'}"
    if view.showing_closed:
        return f"{counted(len(view.sorted_rows()), 'closed chat')}, newest first"
    online = [
        f"{display_name(each.user)} ({each.user.id}: {each.new_chats} new, {each.open_chats} open)"
        for each in view.operators.values()
        if each.is_online
    ]
    return f"{counted(view.unread_chats, 'unread chat')} · operators: {', '.join(online) or 'none'}"


def chat_list_lines(view: ChatListView, width: int | None = None, measure: Measure = len) -> list[Line]:
    """The rows of the list, one line each, of at most `width` cells."""
    rows = view.sorted_rows()
    if not rows and view.connection is ConnectionState.LIVE:
        return [[("class:notice", "  no closed chats" if view.showing_closed else "  no chats yet")]]
    return [[("class:unread" if _needs_answer(row) else "", row_line(row, width, measure))] for row in rows]


def _needs_answer(row: Row) -> bool:
    return row.chat.status is ChatStatus.NEW or bool(row.unread)


def chat_list_hint(view: ChatListView) -> Line:
    """How to open a chat, and how to get back from the closed ones."""
    rows = view.sorted_rows()
    back = " · /list shows the open chats" if view.showing_closed else ""
    if not rows:
        return [("class:notice", back.removeprefix(" · "))] if back else []
    return [("class:notice", f"type a chat's number to open it, for example {rows[0].number} and Enter{back}")]


def row_line(row: Row, width: int | None = None, measure: Measure = len) -> str:
    """One row of the list: number, status, visitor, unread count, operator, and a preview or what is being typed.

    The line is cut to `width` cells. Without a width, only the preview is cut, to `QUOTED_WIDTH` characters.
    """
    operator = row.chat.operator_user
    if row.typing is not None:
        preview = f"is typing: {row.typing}" if row.typing else "is typing…"
    else:
        preview = "" if row.last is None else _preview(row.last)
    parts = (
        f"{row.number:>3}",
        f"{row.chat.status.value:<6}",
        fit(display_name(row.chat.owner_user), _NAME_WIDTH, measure),
        f"{row.unread}{'+' if row.more_unread else ''} unread" if row.unread else "",
        "" if operator is None else f"[{fit(display_name(operator), _NAME_WIDTH, measure)}]",
        shorten(preview, QUOTED_WIDTH) if width is None else one_line(preview),
    )
    line = "  ".join(part for part in parts if part)
    return line if width is None else fit(line, width, measure)


def other_chats_line(view: ChatListView, shown: UUID) -> str:
    """The latest unread chat other than the shown one, and how many more there are; empty if there is none."""
    rows = view.unread_rows(shown)
    if not rows:
        return ""
    first = rows[0]
    text = f": {shorten(first.last.text, QUOTED_WIDTH)}" if first.last is not None else ""
    more = f" · {counted(len(rows) - 1, 'more unread chat')}" if len(rows) > 1 else ""
    return f"chat {first.number}, {display_name(first.chat.owner_user)}{text}{more} · /open {first.number}"


def _preview(message: Message) -> str:
    text = message.text or ", ".join(attachment.filename for attachment in message.attachments)
    return text if message.type_role is Role.USER else f"{display_name(message.user)}: {text}"


def _message_lines(view: ChatView, message: Message) -> list[Line]:
    author = "you" if view.is_mine(message) else display_name(message.user)
    head = f"{clock_time(message.send_time)} {author}"
    text = message.text
    for attachment in message.attachments:
        text += f"{chr(10) if text else ''}[{attachment.filename} {view.link(attachment)}]"
    if message.type is MessageType.SYSTEM:
        if is_note(message):
            return _entry_lines(f"{head} (note): ", "class:system", text, None)
        by = "" if message.user is None else f" ({author})"
        return _entry_lines(f"{clock_time(message.send_time)} — ", "class:system", text + by, None)
    tick = TICKS[view.status_of(message)] if view.is_ours(message) else None
    return _entry_lines(f"{head}: ", "class:mine" if view.is_ours(message) else "class:theirs", text, tick)


def _entry_lines(head: str, style: str, text: str, mark: tuple[str, str] | None) -> list[Line]:
    first, *more = clean(text).split("\n")
    lines: list[Line] = [[(style, head), ("", first)], *([("", f"      {part}")] for part in more)]
    if mark is not None:
        lines[-1].extend([("", " "), mark])
    return lines
