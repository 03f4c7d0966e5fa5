"""Defines the events that a server sends over a socket, and the codes with which it refuses a message."""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

import attrs

from actorchat.protocol.entities import Chat, ClientId, Message, Role, SafeInt, User


class RefusalCode(StrEnum):
    """Why a message was not added."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    ATTACHMENT_UNKNOWN = "attachment_unknown"
    ATTACHMENT_REJECTED = "attachment_rejected"
    TOO_MANY_ATTACHMENTS = "too_many_attachments"
    CHAT_CLOSED = "chat_closed"
    NOT_PARTICIPANT = "not_participant"
    NOT_OWNER = "not_owner"
    BLOCKED = "blocked"
    RATE_LIMITED = "rate_limited"
    CONFLICT = "conflict"
    OVER_CAPACITY = "over_capacity"
    OVERLOADED = "overloaded"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    DRAINING = "draining"


RETRYABLE: Final[frozenset[RefusalCode]] = frozenset(
    {
        RefusalCode.RATE_LIMITED,
        RefusalCode.OVERLOADED,
        RefusalCode.STORAGE_UNAVAILABLE,
        RefusalCode.DRAINING,
    }
)
"""The codes after which sending the same message again later may succeed."""


@attrs.frozen(slots=False)
class MessageAdded:
    """A message was stored. ``client_id`` is sent to the author's extended sockets only."""

    type: ClassVar[str] = "message_added"

    message: Message
    client_id: ClientId | None = None


@attrs.frozen(slots=False)
class MessageUpdated:
    """The status or the text of a stored message changed."""

    type: ClassVar[str] = "message_updated"

    message: Message


@attrs.frozen(slots=False)
class UserConnected:
    """A user is in the room."""

    type: ClassVar[str] = "user_connected"

    user: User


@attrs.frozen(slots=False)
class UserDisconnected:
    """A user has left the room: the last of their sockets is closed."""

    type: ClassVar[str] = "user_disconnected"

    user: User


@attrs.frozen(slots=False)
class ChatUpdated:
    """A chat was created, or its status, owner, operator or widget changed. ``chat`` is its new state."""

    type: ClassVar[str] = "chat_updated"

    chat: Chat


@attrs.frozen(slots=False)
class OperatorUpdated:
    """The presence, the counters or the profile of an operator changed. Has the new values."""

    type: ClassVar[str] = "operator_updated"

    user: User
    is_online: bool
    new_chats: SafeInt
    open_chats: SafeInt


@attrs.frozen(slots=False)
class TypingUpdated:
    """A user is typing. ``text`` is ``""`` if they stopped or if the recipient may not see it."""

    type: ClassVar[str] = "typing_updated"

    text: str
    stopped: bool
    chat_id: UUID
    user: User


@attrs.frozen(slots=False)
class GlobalUpdated:
    """The counters of the recipient's sources changed. Has the new values."""

    type: ClassVar[str] = "global_updated"

    unread_chats: SafeInt


@attrs.frozen(slots=False)
class MessageNotAdded:
    """A message was refused: it is not stored and will not be.

    ``text`` and ``client_id`` are as sent. ``retry_after`` is in seconds or None. ``attachments`` lists the refused
    ones.
    """

    type: ClassVar[str] = "message_not_added"

    code: RefusalCode
    detail: str
    retryable: bool
    retry_after: float | None
    text: str
    client_id: str | None
    chat_id: UUID
    attachments: tuple[UUID, ...]


@attrs.frozen(slots=False)
class ErrorEvent:
    """A frame had no effect. ``path`` names the faulty field, ``""`` the whole frame. *(ext)*"""

    type: ClassVar[str] = "error"

    code: str
    detail: str
    path: str


@attrs.frozen(slots=False)
class Receipts:
    """The highest message indexes that one role has received and read; -1 for none. *(ext)*"""

    type: ClassVar[str] = "receipts"

    chat_id: UUID
    role: Role
    delivered: SafeInt
    read: SafeInt


@attrs.frozen(slots=False)
class ResyncRequired:
    """A socket tried to resume from a position that this chat has not reached, as after restoring a backup. *(ext)*

    It is the first event. The whole history follows, and clients discard the messages that they have. ``last_index`` is
    the index of the newest message, -1 if there is none.
    """

    type: ClassVar[str] = "resync_required"

    chat_id: UUID
    last_index: SafeInt


Event = (
    MessageAdded
    | MessageUpdated
    | UserConnected
    | UserDisconnected
    | ChatUpdated
    | OperatorUpdated
    | TypingUpdated
    | GlobalUpdated
    | MessageNotAdded
    | ErrorEvent
    | Receipts
    | ResyncRequired
)
"""Any event of a server on a socket."""

EVENTS: Final[Mapping[str, type[Event]]] = {
    cls.type: cls
    for cls in (
        MessageAdded,
        MessageUpdated,
        UserConnected,
        UserDisconnected,
        ChatUpdated,
        OperatorUpdated,
        TypingUpdated,
        GlobalUpdated,
        MessageNotAdded,
        ErrorEvent,
        Receipts,
        ResyncRequired,
    )
}
"""The class of each event by its type on the wire."""

EXTENDED_EVENTS: Final[frozenset[type[Event]]] = frozenset({ErrorEvent, Receipts, ResyncRequired})
"""Events that are sent to extended sockets only."""
