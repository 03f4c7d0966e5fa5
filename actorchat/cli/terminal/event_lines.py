"""What is said on one line about each event, for a terminal without a screen."""

from uuid import UUID

from actorchat.cli.terminal.chat_list_view import ChatListView
from actorchat.cli.terminal.chat_view import OTHER_HISTORY, ChatView, is_note
from actorchat.cli.terminal.drawing import row_line
from actorchat.cli.terminal.formatting import name_of
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
    """What an event of a room says: a line for each thing that is new."""
    after = before.after(event)
    told = [f"# {change}" for change in _changes(before.chat, after.chat)]
    match event:
        case MessageAdded(message):
            told.append(_message(after, message))
        case MessageUpdated(message):
            told.append(f"# changed: {_message(after, message)}")
        case Receipts() if after.read > before.read:
            told.append(f"# read up to {after.read}")
        case Receipts() if after.delivered > before.delivered:
            told.append(f"# delivered up to {after.delivered}")
        case UserConnected(user) if user.role is before.other:
            told.append(f"# {name_of(user)} is here")
        case UserDisconnected(user) if user.role is before.other:
            told.append(f"# {name_of(user)} left")
        case TypingUpdated(user=user) if after.typing != before.typing:
            told.append(f"# {name_of(user)} {_writing(after.typing)}")
        case ResyncRequired():
            told.append(f"# {OTHER_HISTORY}")
        case ErrorEvent(code=code, detail=detail):
            told.append(f"# the server: {code}: {one_line(detail)}")
        case _:
            pass
    return told


def chat_of(item: FeedItem) -> UUID | None:
    """The chat that an item of the feed is about, None if it is about no single one."""
    match item:
        case ChatUpdated(chat) | MessageAdded(message=Message(chat=chat)):
            return chat.uuid
        case TypingUpdated(chat_id=chat):
            return chat
        case _:
            return None


def describe_item(before: ChatListView, item: FeedItem) -> list[str]:
    """What an item of the feed says: the row it changed, if there is something to see."""
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
    """How the connection stands."""
    return f"# {connection.value}{': ' + one_line(reason) if reason else ''}"


def _message(view: ChatView, message: Message) -> str:
    author = "you" if view.is_mine(message) else name_of(message.user)
    files = "".join(f" [{attachment.filename} {attachment.url}]" for attachment in message.attachments)
    text = f"{one_line(message.text)}{files}"
    if message.type is MessageType.SYSTEM and not is_note(message):
        said = f"— {text}" + ("" if message.user is None else f" ({author})")
    else:
        said = f"{author}{' (note)' if is_note(message) else ''}: {text}"
    return f"[{message.message_index}] {said}"


def _writing(text: str | None) -> str:
    return "stopped writing" if text is None else f"is writing: {one_line(text)}" if text else "is writing"


def _changes(before: Chat, after: Chat) -> list[str]:
    changes = []
    if before.status is not after.status:
        changes.append(f"the chat is {after.status.value}")
    if before.operator_user != after.operator_user and after.status is not ChatStatus.CLOSED:
        owner = after.operator_user
        changes.append("nobody has the chat" if owner is None else f"{name_of(owner)} has the chat")
    return changes
