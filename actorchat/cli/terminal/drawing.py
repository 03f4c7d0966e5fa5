"""Owns how views become lines of styled text.

Refuses to know terminals: a line is a list of (style, text), and a style is a name.
"""

from typing import Final

from actorchat.cli.terminal.chat_view import ChatView, Notice, Pending, is_note
from actorchat.cli.terminal.desk_view import DeskView, Row
from actorchat.cli.terminal.people import clock_of, name_of
from actorchat.cli.text import QUOTED_WIDTH, clean, counted, one_line, shorten
from actorchat.client import ConnectionState
from actorchat.protocol.entities import ChatStatus, Message, MessageStatus, MessageType, Role

Line = list[tuple[str, str]]

TICKS: Final = {
    MessageStatus.NEW: ("class:tick", "✓"),
    MessageStatus.DELIVERED: ("class:tick", "✓✓"),
    MessageStatus.READ: ("class:tick.read", "✓✓ read"),
}


def chat_title(view: ChatView) -> str:
    """Who the chat is with and how it stands."""
    if view.me.role is Role.USER:
        owner = view.chat.operator_user
        who = "waiting for an operator" if owner is None else f"with {name_of(owner)}"
    else:
        owner = view.chat.operator_user
        who = f"{name_of(view.chat.owner_user)} · {'nobody has it' if owner is None else name_of(owner)}"
    here = [name_of(user) for user in view.present if user.role is view.other]
    return f"{who} · {view.chat.status.value}" + (f" · here: {', '.join(here)}" if here else "")


def connection_line(connection: ConnectionState, reason: str) -> Line:
    """How the connection stands; empty while all is well."""
    if connection is ConnectionState.LIVE:
        return []
    if connection is ConnectionState.WAITING:
        return [("class:warning", f"not connected: {one_line(reason)}; trying again")]
    if connection is ConnectionState.CONNECTING:
        return [("class:warning", f"connecting{': ' + one_line(reason) if reason else ''}…")]
    return [("class:warning", "closed")]


def chat_lines(view: ChatView) -> list[Line]:
    """The messages, oldest first; a message of several lines takes several."""
    lines: list[Line] = []
    for entry in view.entries:
        match entry:
            case Notice(text):
                lines.append([("class:notice", f"  {text}")])
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


def desk_title(view: DeskView) -> str:
    """How much waits, and who is there."""
    online = [
        f"{name_of(each.user)} ({each.user.id}: {each.new_chats} new, {each.open_chats} open)"
        for each in view.operators.values()
        if each.is_online
    ]
    if view.connection is not ConnectionState.LIVE and not view.operators:
        return "nothing is known yet"
    return f"{counted(view.unread_chats, 'unread chat')} · operators: {', '.join(online) or 'none'}"


def desk_lines(view: DeskView) -> list[Line]:
    """The chats, one a line."""
    rows = view.sorted_rows()
    known = bool(rows) or view.connection is not ConnectionState.LIVE
    lines: list[Line] = [] if known else [[("class:notice", "  no chats yet")]]
    for row in rows:
        style = "class:unread" if row.unread or row.chat.status is ChatStatus.NEW else ""
        lines.append([(style, row_line(row))])
    if view.notice:
        lines.extend([("class:notice", f"  {part}")] for part in view.notice.split("\n"))
    return lines


def desk_hint(view: DeskView) -> Line:
    """What to type, for somebody who sees the list for the first time."""
    if not view.rows:
        return []
    first = view.sorted_rows()[0].number
    return [("class:notice", f"type a chat's number to open it: {first} and Enter")]


def row_line(row: Row) -> str:
    """One chat of the list: number, state, visitor, unread, owner, and what was or is being written."""
    owner = row.chat.operator_user
    unread = f"{row.unread} unread" if row.unread else ""
    if row.typing is not None:
        what = f"is writing: {shorten(row.typing, QUOTED_WIDTH)}" if row.typing else "is writing…"
    else:
        what = "" if row.last is None else shorten(row.last.text, QUOTED_WIDTH)
    holder = "" if owner is None else f"[{name_of(owner)}]"
    parts = (f"{row.number:>3}", f"{row.chat.status.value:<6}", name_of(row.chat.owner_user), unread, holder, what)
    return "  ".join(part for part in parts if part)


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
