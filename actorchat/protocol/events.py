"""Defines the events that a server sends over a socket, and the codes with which it refuses a message."""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

import attrs

from actorchat.protocol.entities import Chat, ClientId, Closing, LastMessage, Message, Role, SafeInt, User, WireTime


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
    """A message was stored. ``client_id`` is sent to the author's extended sockets only.

    ``edited_at`` and ``redacted`` are as in `MessageUpdated`, for messages that were changed before a replay. *(ext)*
    """

    type: ClassVar[str] = "message_added"

    message: Message
    client_id: ClientId | None = None
    edited_at: WireTime | None = None
    redacted: bool = False


@attrs.frozen(slots=False)
class MessageUpdated:
    """The status or the text of a stored message changed.

    ``edited_at`` is when the text was last changed or removed, None if it never was. ``redacted``: the text and the
    files were removed. *(ext)*
    """

    type: ClassVar[str] = "message_updated"

    message: Message
    edited_at: WireTime | None = None
    redacted: bool = False


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
    """The presence, the counters or the profile of an operator changed. Has the new values.

    ``away``: the operator has set that they are away, and so is not online. *(ext)*
    """

    type: ClassVar[str] = "operator_updated"

    user: User
    is_online: bool
    new_chats: SafeInt
    open_chats: SafeInt
    away: bool = False


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


@attrs.frozen(slots=False)
class Pong:
    """The answer to a ``ping``, with its ``n``. *(ext)*"""

    type: ClassVar[str] = "pong"

    n: SafeInt


@attrs.frozen(slots=False)
class FeedReady:
    """The snapshot of a feed is over, and live events follow. *(ext)*

    ``complete`` is false if there are more unclosed chats than a snapshot has; the snapshot has the newest.
    """

    type: ClassVar[str] = "feed_ready"

    complete: bool


@attrs.frozen(slots=False)
class ChatSummary:
    """One chat as a list of chats shows it, on the feed. *(ext)*

    ``last`` is null in a chat without messages. ``unread`` is the number of the visitor's messages that no operator has
    read, 1000 for more. ``waiting_since`` is the time since which the visitor waits for an answer, null if they don't.
    ``activity`` is the time of the last message or transition, ``created`` that of the first message. ``viewers`` are
    the operators that have the room open, quietly or not. ``closed`` is null unless the chat is closed, and in a chat
    that was closed because it continues in another one.
    """

    type: ClassVar[str] = "chat_summary"

    chat: Chat
    last: LastMessage | None
    unread: SafeInt
    waiting_since: WireTime | None
    activity: WireTime
    created: WireTime
    tags: tuple[str, ...]
    viewers: tuple[User, ...]
    closed: Closing | None = None


@attrs.frozen(slots=False)
class NoteAdded:
    """A system message for operators was stored: a note, or what happened to the chat. On the feed only. *(ext)*"""

    type: ClassVar[str] = "note_added"

    message: Message


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
    | Pong
    | FeedReady
    | ChatSummary
    | NoteAdded
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
        Pong,
        FeedReady,
        ChatSummary,
        NoteAdded,
    )
}
"""The class of each event by its type on the wire."""

EXTENDED_EVENTS: Final[frozenset[type[Event]]] = frozenset(
    {ErrorEvent, Receipts, ResyncRequired, Pong, FeedReady, ChatSummary, NoteAdded}
)
"""Events that are sent to extended sockets only."""
