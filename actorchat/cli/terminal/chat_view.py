"""What the screen of one chat shows, as a value, and how each event changes it."""

from typing import Final

import attrs

from actorchat.client import ConnectionState, Delivery, NotAdded
from actorchat.protocol.entities import Chat, Message, MessageStatus, MessageType, Role, User
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
"""Older lines leave the screen's memory."""


OTHER_HISTORY: Final = "the server has another history of this chat, perhaps from a backup: it follows anew"


@attrs.frozen
class Notice:
    """A line of the terminal's own."""

    text: str


@attrs.frozen
class Pending:
    """A message of one's own that is not announced yet; ``fault`` says why it will not be.

    ``message_id`` is known once it is stored: a replay announces it without its ``client_id``.
    """

    client_id: str
    text: str
    fault: str = ""
    message_id: int | None = None


_HAND_OVERS: Final = frozenset({"The chat was passed to another operator.", "The chat was returned to the queue."})
"""What the server itself tells operators in the name of one of them: nothing else tells it from a note."""


def is_note(message: Message) -> bool:
    """Whether it is an operator's own words to operators; any other system message is the server's."""
    return (
        message.type is MessageType.SYSTEM
        and message.type_role is Role.OPERATOR
        and message.user is not None
        and message.text not in _HAND_OVERS
    )


Entry = Message | Notice | Pending


@attrs.frozen
class ChatView:
    """One chat as ``me`` sees it; ``typing`` is what the other side writes, None if nothing.

    ``delivered`` and ``read`` are how far the other side has got with our messages. ``elsewhere`` is a line about
    other chats.
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
    elsewhere: str = ""

    @property
    def other(self) -> Role:
        """The role on the other side."""
        return Role.OPERATOR if self.me.role is Role.USER else Role.USER

    def is_ours(self, message: Message) -> bool:
        """Whether this side wrote it for the other to read."""
        return message.type is MessageType.STANDARD and message.type_role is self.me.role

    def is_mine(self, message: Message) -> bool:
        """Whether this very person wrote it."""
        return message.user is not None and _same(message.user, self.me)

    def status_of(self, message: Message) -> MessageStatus:
        """How far the other side has got with a message of ours."""
        if message.status is MessageStatus.READ or message.message_index <= self.read:
            return MessageStatus.READ
        if message.status is MessageStatus.DELIVERED or message.message_index <= self.delivered:
            return MessageStatus.DELIVERED
        return MessageStatus.NEW

    def noticed(self, text: str) -> "ChatView":
        """With a line of the terminal's own below the others."""
        return self._with(*self.entries, Notice(text))

    def sent(self, delivery: Delivery) -> "ChatView":
        """With a message that is on its way, unless it is known to be stored already."""
        return self._with(*self.entries, Pending(delivery.client_id, delivery.text))

    def stored(self, client_id: str, message: Message) -> "ChatView":
        """With that message known to be stored; it leaves its place when it is announced."""
        announced = any(isinstance(entry, Message) and entry.id == message.id for entry in self.entries)
        return self._with(
            *(
                attrs.evolve(entry, message_id=message.id)
                if isinstance(entry, Pending) and entry.client_id == client_id
                else entry
                for entry in self.entries
                if not (announced and isinstance(entry, Pending) and entry.client_id == client_id)
            )
        )

    def failed(self, error: NotAdded) -> "ChatView":
        """With that message marked as not stored, and why."""
        fault = f"not sent: {error.code.replace('_', ' ')}"
        return self._with(
            *(
                attrs.evolve(entry, fault=fault)
                if isinstance(entry, Pending) and entry.client_id == error.client_id
                else entry
                for entry in self.entries
            )
        )

    def connected(self, connection: ConnectionState, reason: str) -> "ChatView":
        """With the connection in that state."""
        return attrs.evolve(self, connection=connection, reason=reason)

    def after(self, event: Event) -> "ChatView":
        """What the screen shows once the event happened."""
        match event:
            case MessageAdded(message, client_id):
                return self._added(message, client_id)
            case MessageUpdated(message):
                replaced = (
                    message if isinstance(entry, Message) and entry.id == message.id else entry
                    for entry in self.entries
                )
                return self._with(*replaced)
            case Receipts(role=role, delivered=delivered, read=read) if role is self.other:
                return attrs.evolve(self, delivered=max(self.delivered, delivered), read=max(self.read, read))
            case ResyncRequired():
                return self._forgotten()
            case ChatUpdated(chat):
                return attrs.evolve(self, chat=chat)
            case UserConnected(user):
                others = tuple(known for known in self.present if not _same(known, user))
                return attrs.evolve(self, present=(*others, user))
            case UserDisconnected(user):
                return attrs.evolve(self, present=tuple(known for known in self.present if not _same(known, user)))
            case TypingUpdated(text=text, stopped=stopped, user=user) if user.role is self.other:
                # The room tells that somebody types, the feed also what: an empty text hides nothing known.
                return attrs.evolve(self, typing=None if stopped else text or self.typing or "")
            case ErrorEvent(code=code, detail=detail):
                return self.noticed(f"the server: {code}: {detail}")
            case _:
                return self

    def newest_from_other(self) -> Message | None:
        """The newest message that waits to be marked by this side."""
        for entry in reversed(self.entries):
            if isinstance(entry, Message) and entry.type is MessageType.STANDARD and entry.type_role is self.other:
                return entry
        return None

    def unsent(self) -> list[str]:
        """The texts of which nobody knows yet whether they are stored."""
        return [entry.text for entry in self.entries if isinstance(entry, Pending) and not entry.fault]

    def _forgotten(self) -> "ChatView":
        """Without messages: the chat has another history, which follows. What is on its way stays so."""
        kept = [
            attrs.evolve(entry, message_id=None) if isinstance(entry, Pending) else entry
            for entry in self.entries
            if not isinstance(entry, Message)
        ]
        return attrs.evolve(self._with(*kept, Notice(OTHER_HISTORY)), delivered=-1, read=-1)

    def _added(self, message: Message, client_id: str | None) -> "ChatView":
        rest = [entry for entry in self.entries if not _announces(entry, message, client_id)]
        waiting = [entry for entry in rest if isinstance(entry, Pending) and not entry.fault]
        shown = [entry for entry in rest if not (isinstance(entry, Pending) and not entry.fault)]
        typing = None if message.type_role is self.other else self.typing
        return attrs.evolve(self._with(*shown, message, *waiting), chat=message.chat, typing=typing)

    def _with(self, *entries: Entry) -> "ChatView":
        return attrs.evolve(self, entries=entries[-MAX_ENTRIES:])


def _same(one: User, other: User) -> bool:
    return (one.role, one.id) == (other.role, other.id)


def _announces(entry: Entry, message: Message, client_id: str | None) -> bool:
    return isinstance(entry, Pending) and (entry.client_id == client_id or entry.message_id == message.id)
