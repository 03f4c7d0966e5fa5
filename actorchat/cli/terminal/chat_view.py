"""Models what the screen shows of one chat, and how each event of the room changes it."""

from typing import Final

import attrs

from actorchat.client import ConnectionState, Delivery, NotAdded
from actorchat.client.server_urls import ServerAddress
from actorchat.protocol.entities import Attachment, Chat, Message, MessageStatus, MessageType, Role, User
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

MAX_ENTRIES: Final = 500
"""Older entries are dropped."""


OTHER_HISTORY: Final = "the server has a different history of this chat, perhaps from a backup; it follows here"


@attrs.frozen
class Notice:
    """A line from the program itself, not from the server."""

    text: str


@attrs.frozen
class Pending:
    """A message of this user that the room has not echoed yet; ``error`` says why it was not sent.

    ``message_id`` is set once the message is stored: a replay echoes a message without its ``client_id``.
    """

    client_id: str
    text: str
    error: str = ""
    message_id: int | None = None


_SERVER_TEXTS: Final = frozenset({"The chat was passed to another operator.", "The chat was returned to the queue."})
"""System messages with an operator as their author that the server writes; only their text tells them from notes."""


def is_note(message: Message) -> bool:
    """Whether an operator wrote this message for operators only. The server wrote every other system message."""
    return (
        message.type is MessageType.SYSTEM
        and message.type_role is Role.OPERATOR
        and message.user is not None
        and message.text not in _SERVER_TEXTS
    )


Entry = Message | Notice | Pending


@attrs.frozen
class ChatView:
    """One chat as ``me`` sees it. ``typing`` is what the other side is typing, None if nothing.

    ``delivered`` and ``read`` are the highest indexes of our messages that the other side has received and read.
    ``other_chats`` is a line about unread messages in other chats. ``server`` is the address
    that relative links are on.
    """

    me: User
    chat: Chat
    entries: tuple[Entry, ...] = ()
    present: tuple[User, ...] = ()
    typing: str | None = None
    delivered: int = -1
    read: int = -1
    connection: ConnectionState = ConnectionState.CONNECTING
    reason: str = ""
    other_chats: str = ""
    server: str = ""

    def link(self, attachment: Attachment) -> str:
        """The address of a file, for a browser."""
        return ServerAddress.parse(self.server).link(attachment.url) if self.server else attachment.url

    @property
    def other(self) -> Role:
        """The role on the other side."""
        return Role.OPERATOR if self.me.role is Role.USER else Role.USER

    def is_ours(self, message: Message) -> bool:
        """Whether someone on our side wrote it to the other side."""
        return message.type is MessageType.STANDARD and message.type_role is self.me.role

    def is_mine(self, message: Message) -> bool:
        """Whether ``me`` wrote it."""
        return message.user is not None and _same_user(message.user, self.me)

    def status_of(self, message: Message) -> MessageStatus:
        """Whether the other side has received or read a message of ours."""
        if message.status is MessageStatus.READ or message.message_index <= self.read:
            return MessageStatus.READ
        if message.status is MessageStatus.DELIVERED or message.message_index <= self.delivered:
            return MessageStatus.DELIVERED
        return MessageStatus.NEW

    def with_notice(self, text: str) -> "ChatView":
        """Return the view with a line from the program at the end."""
        return self._with_entries(*self.entries, Notice(text))

    def with_pending(self, delivery: Delivery) -> "ChatView":
        """Return the view with a message that was handed to the client for sending."""
        return self._with_entries(*self.entries, Pending(delivery.client_id, delivery.text))

    def with_stored(self, client_id: str, message: Message) -> "ChatView":
        """Return the view after the server confirmed a message; it stays pending until the room echoes it."""
        echoed = any(isinstance(entry, Message) and entry.id == message.id for entry in self.entries)
        return self._with_entries(
            *(
                attrs.evolve(entry, message_id=message.id)
                if isinstance(entry, Pending) and entry.client_id == client_id
                else entry
                for entry in self.entries
                if not (echoed and isinstance(entry, Pending) and entry.client_id == client_id)
            )
        )

    def with_failure(self, error: NotAdded) -> "ChatView":
        """Return the view with a pending message marked as not sent, and the reason."""
        reason = f"not sent: {error.code.replace('_', ' ')}"
        return self._with_entries(
            *(
                attrs.evolve(entry, error=reason)
                if isinstance(entry, Pending) and entry.client_id == error.client_id
                else entry
                for entry in self.entries
            )
        )

    def with_connection(self, connection: ConnectionState, reason: str) -> "ChatView":
        """Return the view with a new connection state; ``reason`` is why the last connection was lost."""
        return attrs.evolve(self, connection=connection, reason=reason)

    def after(self, event: Event) -> "ChatView":
        """Return the view after an event of the room."""
        match event:
            case MessageAdded(message, client_id):
                return self._with_message(message, client_id)
            case MessageUpdated(message):
                replaced = (
                    message if isinstance(entry, Message) and entry.id == message.id else entry
                    for entry in self.entries
                )
                return self._with_entries(*replaced)
            case Receipts(role=role, delivered=delivered, read=read) if role is self.other:
                return attrs.evolve(self, delivered=max(self.delivered, delivered), read=max(self.read, read))
            case ResyncRequired():
                return self._resynced()
            case ChatUpdated(chat):
                return attrs.evolve(self, chat=chat)
            case UserConnected(user):
                others = tuple(known for known in self.present if not _same_user(known, user))
                return attrs.evolve(self, present=(*others, user))
            case UserDisconnected(user):
                return attrs.evolve(self, present=tuple(known for known in self.present if not _same_user(known, user)))
            case TypingUpdated(text=text, stopped=stopped, user=user) if user.role is self.other:
                # Only the feed's typing events carry the text; an empty one from the room must not erase it.
                return attrs.evolve(self, typing=None if stopped else text or self.typing or "")
            case ErrorEvent(code=code, detail=detail):
                return self.with_notice(f"error from the server: {code}: {detail}")
            case _:
                return self

    def newest_from_other(self) -> Message | None:
        """The newest message from the other side: the one to mark as delivered and read."""
        for entry in reversed(self.entries):
            if isinstance(entry, Message) and entry.type is MessageType.STANDARD and entry.type_role is self.other:
                return entry
        return None

    def unconfirmed_texts(self) -> list[str]:
        """The texts of pending messages that the server has neither confirmed by an echo nor refused."""
        return [entry.text for entry in self.entries if isinstance(entry, Pending) and not entry.error]

    def _resynced(self) -> "ChatView":
        """Return the view without messages, because the server sends a different history. Pending messages stay."""
        kept = [
            attrs.evolve(entry, message_id=None) if isinstance(entry, Pending) else entry
            for entry in self.entries
            if not isinstance(entry, Message)
        ]
        return attrs.evolve(self._with_entries(*kept, Notice(OTHER_HISTORY)), delivered=-1, read=-1)

    def _with_message(self, message: Message, client_id: str | None) -> "ChatView":
        rest = [entry for entry in self.entries if not _is_echo(entry, message, client_id)]
        pending = [entry for entry in rest if isinstance(entry, Pending) and not entry.error]
        others = [entry for entry in rest if not (isinstance(entry, Pending) and not entry.error)]
        typing = None if message.type_role is self.other else self.typing
        return attrs.evolve(self._with_entries(*others, message, *pending), chat=message.chat, typing=typing)

    def _with_entries(self, *entries: Entry) -> "ChatView":
        return attrs.evolve(self, entries=entries[-MAX_ENTRIES:])


def _same_user(one: User, other: User) -> bool:
    return (one.role, one.id) == (other.role, other.id)


def _is_echo(entry: Entry, message: Message, client_id: str | None) -> bool:
    return isinstance(entry, Pending) and (entry.client_id == client_id or entry.message_id == message.id)
