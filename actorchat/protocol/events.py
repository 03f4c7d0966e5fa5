"""The events that a server sends over a socket, and the codes with which it refuses a message."""

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
"""The codes after which the same message may be sent again later."""


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
    """A chat as it is now."""

    type: ClassVar[str] = "chat_updated"

    chat: Chat


@attrs.frozen(slots=False)
class OperatorUpdated:
    """An operator as they are now."""

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
    """The counters of the recipient's sources as they are now."""

    type: ClassVar[str] = "global_updated"

    unread_chats: SafeInt


@attrs.frozen(slots=False)
class MessageNotAdded:
    """A message is not stored and will not be.

    ``text`` and ``client_id`` are as sent. ``retry_after`` is in seconds or None. ``attachments`` lists the ones that
    were refused.
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
    """Up to which message index one role has received and read the chat; -1 for nothing. *(ext)*"""

    type: ClassVar[str] = "receipts"

    chat_id: UUID
    role: Role
    delivered: SafeInt
    read: SafeInt


@attrs.frozen(slots=False)
class ResyncRequired:
    """The position that a socket resumes from is none of this chat's history, as after a backup was restored. *(ext)*

    Comes before anything else; then follows everything, from the first message on. Clients forget what they had.
    ``last_index`` is the newest message's, -1 if there is none.
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
"""What a server sends on a socket."""

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
"""Each event's class by its wire type."""

EXTENDED_EVENTS: Final[frozenset[type[Event]]] = frozenset({ErrorEvent, Receipts, ResyncRequired})
"""Events that are sent to extended sockets only."""
