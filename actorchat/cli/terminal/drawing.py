"""Draws views as lines of styled text: a line is a list of (style, text), and a style is a name."""

from collections.abc import Callable
from typing import Final
from uuid import UUID

from actorchat.cli.terminal.chat_list_view import ChatListView, Row
from actorchat.cli.terminal.chat_view import ChatView, Notice, Pending, is_note
from actorchat.cli.terminal.formatting import clock_of, name_of
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
"""Of a long name in the list, so many cells are shown."""

Measure = Callable[[str], int]
"""How many cells of the terminal a text takes."""


def chat_title(view: ChatView) -> str:
    """Who the chat is with and how it stands; without a connection only that there is none."""
    owner = view.chat.operator_user
    if view.me.role is Role.USER:
        who = "waiting for an operator" if owner is None else f"with {name_of(owner)}"
    else:
        who = f"{name_of(view.chat.owner_user)} · {'nobody has it' if owner is None else name_of(owner)}"
    lost = _disconnected(view.connection, view.reason)
    if lost:
        return f"{who} · {lost}"
    here = [name_of(user) for user in view.present if user.role is view.other]
    return f"{who} · {view.chat.status.value}" + (f" · here: {', '.join(here)}" if here else "")


def _disconnected(connection: ConnectionState, reason: str) -> str:
    """What stands in the title while there is no connection; empty while there is one."""
    if connection is ConnectionState.CONNECTING:
        return "reconnecting" if reason else "connecting"
    return "" if connection is ConnectionState.LIVE else "disconnected"


def connection_line(connection: ConnectionState, reason: str) -> Line:
    """How the connection stands; empty while all is well."""
    if connection is ConnectionState.LIVE:
        return []
    if connection is ConnectionState.WAITING:
        return [("class:warning", f"not connected: {one_line(reason)}; trying again")]
    if connection is ConnectionState.CONNECTING:
        return [("class:warning", f"connecting{': ' + one_line(reason) if reason else ''}…")]
    return [("class:warning", "closed")]


def status_lines(view: ChatView | ChatListView) -> list[Line]:
    """What stands between the body and the input: the connection, who writes, what happens elsewhere, what to type."""
    lines = [connection_line(view.connection, view.reason)]
    if isinstance(view, ChatView):
        lines.append(typing_line(view))
        lines.append([("class:unread", one_line(view.elsewhere))] if view.elsewhere else [])
    elif view.notice:
        lines.extend([("class:notice", part)] for part in view.notice.split("\n"))
    else:
        lines.append(chat_list_hint(view))
    return [line for line in lines if line]


def wrap(line: Line, width: int, measure: Measure = len) -> list[Line]:
    """The cleaned line as rows of at most `width` cells, broken after a space where one is near."""
    rows: list[Line] = []
    row: Line = []
    used = 0
    for style, text in line:
        for char in one_line(text):
            size = measure(char)
            if row and used + size > width:
                # A space beyond the edge is not seen, and begins no row.
                spaces = [at for at, (_, each) in enumerate(row) if each == " "]
                cut = spaces[-1] + 1 if spaces and spaces[-1] >= len(row) // 2 and char != " " else len(row)
                rows.append(_joined(row[:cut]))
                row = row[cut:]
                used = sum(measure(each) for _, each in row)
                if char == " " and not row:
                    continue
            row.append((style, char))
            used += size
    return [*rows, _joined(row)]


def _joined(chars: Line) -> Line:
    joined: Line = []
    for style, char in chars:
        if joined and joined[-1][0] == style:
            joined[-1] = (style, joined[-1][1] + char)
        else:
            joined.append((style, char))
    return joined


def chat_lines(view: ChatView) -> list[Line]:
    """The messages, oldest first; a message of several lines takes several."""
    lines: list[Line] = []
    for entry in view.entries:
        match entry:
            case Notice(text):
                lines.append([("class:notice", f"  {one_line(text)}")])
            case Pending(text=text, fault=fault):
                mark = ("class:error", f"✗ {fault}") if fault else ("class:tick", "…")
                quoted = shorten(text, QUOTED_WIDTH) if fault else text
                lines.extend(_spoken("--:-- you: ", "class:mine", quoted, mark))
            case _:
                lines.extend(_message_lines(view, entry))
    return lines


def typing_line(view: ChatView) -> Line:
    """What the other side is writing, as far as it may be seen."""
    if view.typing is None:
        return []
    what = f": {shorten(view.typing, QUOTED_WIDTH)}" if view.typing else ""
    who = "the visitor" if view.other is Role.USER else "the operator"
    return [("class:typing", f"{who} is writing{what}…")]


def chat_list_title(view: ChatListView) -> str:
    """How much waits, and who is there."""
    lost = _disconnected(view.connection, view.reason)
    if lost:
        return f"{lost} · {'the list may be out of date' if view.operators else 'nothing is known yet'}"
    if view.showing_closed:
        return f"{counted(len(view.sorted_rows()), 'closed chat')}, newest first"
    online = [
        f"{name_of(each.user)} ({each.user.id}: {each.new_chats} new, {each.open_chats} open)"
        for each in view.operators.values()
        if each.is_online
    ]
    return f"{counted(view.unread_chats, 'unread chat')} · operators: {', '.join(online) or 'none'}"


def chat_list_lines(view: ChatListView, width: int | None = None, measure: Measure = len) -> list[Line]:
    """The chats, one a line of at most `width` cells."""
    rows = view.sorted_rows()
    if not rows and view.connection is ConnectionState.LIVE:
        return [[("class:notice", "  no closed chats" if view.showing_closed else "  no chats yet")]]
    return [[("class:unread" if _waits(row) else "", row_line(row, width, measure))] for row in rows]


def _waits(row: Row) -> bool:
    return row.chat.status is ChatStatus.NEW or bool(row.unread)


def chat_list_hint(view: ChatListView) -> Line:
    """What to type, for somebody who sees the list for the first time."""
    rows = view.sorted_rows()
    back = " · /list shows the open chats" if view.showing_closed else ""
    if not rows:
        return [("class:notice", back.removeprefix(" · "))] if back else []
    return [("class:notice", f"type a chat's number to open it: {rows[0].number} and Enter{back}")]


def row_line(row: Row, width: int | None = None, measure: Measure = len) -> str:
    """One chat of the list: number, state, visitor, unread, owner, and what was or is being written.

    The last part is cut so that the line takes at most `width` cells, or itself at most `QUOTED_WIDTH`.
    """
    owner = row.chat.operator_user
    if row.typing is not None:
        what = f"is writing: {row.typing}" if row.typing else "is writing…"
    else:
        what = "" if row.last is None else _preview(row.last)
    parts = (
        f"{row.number:>3}",
        f"{row.chat.status.value:<6}",
        fit(name_of(row.chat.owner_user), _NAME_WIDTH, measure),
        f"{row.unread}{'+' if row.more_unread else ''} unread" if row.unread else "",
        "" if owner is None else f"[{fit(name_of(owner), _NAME_WIDTH, measure)}]",
        shorten(what, QUOTED_WIDTH) if width is None else one_line(what),
    )
    line = "  ".join(part for part in parts if part)
    return line if width is None else fit(line, width, measure)


def elsewhere_line(view: ChatListView, shown: UUID) -> str:
    """Which chats beside the shown one have unread messages, the latest first; empty if none has."""
    rows = view.unread_rows(shown)
    if not rows:
        return ""
    first = rows[0]
    said = f": {shorten(first.last.text, QUOTED_WIDTH)}" if first.last is not None else ""
    more = f" · {counted(len(rows) - 1, 'more unread chat')}" if len(rows) > 1 else ""
    return f"chat {first.number}, {name_of(first.chat.owner_user)}{said}{more} · /open {first.number}"


def _preview(message: Message) -> str:
    text = message.text or ", ".join(attachment.filename for attachment in message.attachments)
    return text if message.type_role is Role.USER else f"{name_of(message.user)}: {text}"


def _message_lines(view: ChatView, message: Message) -> list[Line]:
    author = "you" if view.is_mine(message) else name_of(message.user)
    head = f"{clock_of(message.send_time)} {author}"
    text = message.text
    for attachment in message.attachments:
        text += f"{chr(10) if text else ''}[{attachment.filename} {attachment.url}]"
    if message.type is MessageType.SYSTEM:
        if is_note(message):
            return _spoken(f"{head} (note): ", "class:system", text, None)
        by = "" if message.user is None else f" ({author})"
        return _spoken(f"{clock_of(message.send_time)} — ", "class:system", text + by, None)
    tick = TICKS[view.status_of(message)] if view.is_ours(message) else None
    return _spoken(f"{head}: ", "class:mine" if view.is_ours(message) else "class:theirs", text, tick)


def _spoken(head: str, style: str, text: str, mark: tuple[str, str] | None) -> list[Line]:
    first, *more = clean(text).split("\n")
    lines: list[Line] = [[(style, head), ("", first)], *([("", f"      {part}")] for part in more)]
    if mark is not None:
        lines[-1].extend([("", " "), mark])
    return lines
