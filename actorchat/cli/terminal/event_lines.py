"""Describes each event on one line of text, for output that is not a terminal."""

from uuid import UUID

from actorchat.cli.terminal.chat_list_view import ChatListView
from actorchat.cli.terminal.chat_view import OTHER_HISTORY, ChatView, is_note
from actorchat.cli.terminal.drawing import row_line
from actorchat.cli.terminal.formatting import display_name
from actorchat.cli.text import one_line
from actorchat.client import ConnectionState, FeedItem
from actorchat.protocol.entities import Chat, ChatStatus, Message, MessageType, Role
from actorchat.protocol.events import (
    ChatUpdated,
    ErrorEvent,
    Event,
    MessageAdded,
    MessageUpdated,
    Receipts,
    ResyncRequired,
    TypingUpdated,
    UserConnected,
    UserDisconnected,
)


def describe_event(before: ChatView, event: Event) -> list[str]:
    """Describe an event of a room: a line for each thing that changed."""
    after = before.after(event)
    lines = [f"# {change}" for change in _changes(before.chat, after.chat)]
    match event:
        case MessageAdded(message):
            lines.append(_message(after, message))
        case MessageUpdated(message):
            lines.append(f"# changed: {_message(after, message)}")
        case Receipts() if after.read > before.read:
            lines.append(f"# read up to {after.read}")
        case Receipts() if after.delivered > before.delivered:
            lines.append(f"# delivered up to {after.delivered}")
        case UserConnected(user) if user.role is before.other:
            lines.append(f"# {display_name(user)} is online")
        case UserDisconnected(user) if user.role is before.other:
            lines.append(f"# {display_name(user)} left")
        case TypingUpdated(user=user) if after.typing != before.typing:
            lines.append(f"# {display_name(user)} {_typing(after.typing)}")
        case ResyncRequired():
            lines.append(f"# {OTHER_HISTORY}")
        case ErrorEvent(code=code, detail=detail):
            lines.append(f"# error from the server: {code}: {one_line(detail)}")
        case _:
            pass
    return lines


def chat_of(item: FeedItem) -> UUID | None:
    """The chat that an item of the feed is about, or None."""
    match item:
        case ChatUpdated(chat) | MessageAdded(message=Message(chat=chat)):
            return chat.uuid
        case TypingUpdated(chat_id=chat):
            return chat
        case _:
            return None


def describe_item(before: ChatListView, item: FeedItem) -> list[str]:
    """Describe an item of the feed: the row that it changed, or nothing if the row looks the same."""
    match item:
        case ChatUpdated(chat) | MessageAdded(message=Message(chat=chat)):
            old, new = before.rows.get(chat.uuid), before.after(item).rows[chat.uuid]
            return [] if old is not None and row_line(old) == row_line(new) else [f"# {row_line(new)}"]
        case TypingUpdated(chat_id=chat_id, user=user) if user.role is Role.USER:
            row = before.after(item).rows.get(chat_id)
            return [f"# {row_line(row)}"] if row is not None and row.typing is not None else []
        case _:
            return []


def describe_connection(connection: ConnectionState, reason: str) -> str:
    """Describe the state of the connection and why the last one was lost."""
    return f"# {connection.value}{': ' + one_line(reason) if reason else ''}"


def _message(view: ChatView, message: Message) -> str:
    author = "you" if view.is_mine(message) else display_name(message.user)
    files = "".join(f" [{attachment.filename} {view.link(attachment)}]" for attachment in message.attachments)
    text = f"{one_line(message.text)}{files}"
    if message.type is MessageType.SYSTEM and not is_note(message):
        line = f"— {text}" + ("" if message.user is None else f" ({author})")
    else:
        line = f"{author}{' (note)' if is_note(message) else ''}: {text}"
    return f"[{message.message_index}] {line}"


def _typing(text: str | None) -> str:
    return "stopped typing" if text is None else f"is typing: {one_line(text)}" if text else "is typing"


def _changes(before: Chat, after: Chat) -> list[str]:
    changes = []
    if before.status is not after.status:
        changes.append(f"the chat is {after.status.value}")
    if before.operator_user != after.operator_user and after.status is not ChatStatus.CLOSED:
        operator = after.operator_user
        changes.append("the chat is unassigned" if operator is None else f"{display_name(operator)} has the chat")
    return changes
