"""Owns the values of the domain: a chat, a stored message, counters, the policy. Knows no IO and no clock.

A `ChatState` is one chat's row. It never changes: `actorchat.chat.rules` makes the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

import attrs
import msgspec

from actorchat.protocol import (
    Attachment,
    AttachmentType,
    Chat,
    ChatStatus,
    Message,
    MessageStatus,
    MessageType,
    Role,
    User,
    Widget,
    wire_time,
)

__all__ = [
    "ANONYMOUS_IDS",
    "ENDLESS",
    "ChatState",
    "Contribution",
    "Identity",
    "OnClosed",
    "OperatorCounters",
    "PersonRecord",
    "Policy",
    "ProfileToken",
    "SourceCounters",
    "Stage",
    "StoredAttachment",
    "StoredMessage",
    "Upload",
    "contribution",
    "endless",
    "identity_of",
    "message_status",
    "visible_to",
    "wire_message",
]


class Stage(StrEnum):
    """Where a chat stands. `RESERVED` is `new` on the wire, but in no list, feed or counter."""

    RESERVED = "reserved"
    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"

    @property
    def status(self) -> ChatStatus:
        return ChatStatus.NEW if self is Stage.RESERVED else ChatStatus(self.value)


class OnClosed(StrEnum):
    """What a closed chat does when its visitor writes or reopens."""

    REOPEN = "reopen"
    QUEUE = "queue"
    REFUSE = "refuse"


ANONYMOUS_IDS: Final = 2**52
"""Users' ids from here on are those of anonymous visitors, whom the server numbers."""


class Identity(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """Who somebody is: ids are unique per role only."""

    role: Role
    id: int


def identity_of(user: User) -> Identity:
    return Identity(user.role, user.id)


@attrs.frozen(kw_only=True)
class Policy:
    """The deployment's choices that decisions depend on. Times in seconds, 0 = off; capacity 0 = unlimited.

    `upload_timeout` is how long an upload waits for its message.
    """

    capacity: int = 0
    answer_timeout: float = 0
    idle_timeout: float = 0
    on_closed: OnClosed = OnClosed.REOPEN
    reserved_timeout: float = 0
    upload_timeout: float = 86_400


class ChatState(msgspec.Struct, frozen=True, gc=False):
    """One chat as it stands after revision `rev`.

    `operator` stays set on a closed chat: the chat reopens with it. Watermarks are the highest index that a side has
    received or read, -1 for none.

    Timers start from the other fields, in whole seconds since the epoch, rounded up so that no timer ends early.
    `last_activity` is the last message or transition. Since `awaiting_since` somebody owes the customer an answer;
    it is None on the customer's turn, and handing the chat on doesn't change it. `assigned_at` is when `operator` got
    the chat, in any way.

    Lists are ordered by `place`, the highest first, and by no clock. The ids of one database's messages ascend in
    commit order; a chat's place is the id of its newest message, or a number from the same sequence if something
    happened to the chat since that left no message. It is 0 while the chat is reserved.
    """

    uuid: UUID
    source: str
    owner: User
    stage: Stage = Stage.RESERVED
    operator: User | None = None
    rev: int = 0
    next_index: int = 0
    visitor_delivered: int = -1
    visitor_read: int = -1
    operators_delivered: int = -1
    operators_read: int = -1
    last_visitor_index: int = -1
    last_activity: int = 0
    awaiting_since: int | None = None
    place: int = 0
    assigned_at: int | None = None

    def wire(self) -> Chat:
        return Chat(
            uuid=self.uuid,
            widget=Widget(self.source),
            status=self.stage.status,
            owner_user=self.owner,
            operator_user=self.operator,
        )

    @property
    def listed(self) -> bool:
        """Whether lists, feeds and counters show it."""
        return self.stage is not Stage.RESERVED

    @property
    def active(self) -> bool:
        return self.stage is Stage.NEW or self.stage is Stage.OPEN

    def due_at(self, policy: Policy) -> float | None:
        """When the one timer that runs ends, or None if none does.

        While an operator owes an answer, the answer timer; on the customer's turn, the idle timer. A chat that waits in
        the queue has no timer: it is never closed unanswered.
        """
        if not self.active:
            return None
        if self.awaiting_since is None:
            return self.last_activity + policy.idle_timeout if policy.idle_timeout else None
        if self.operator is None or not policy.answer_timeout:
            return None
        return max(self.awaiting_since, self.assigned_at or 0) + policy.answer_timeout


class StoredAttachment(msgspec.Struct, frozen=True, gc=False):
    """A file of a message. Sizes are in bytes; `preview_size` is 0 if the file has no preview."""

    uuid: UUID
    type: AttachmentType
    filename: str
    extension: str
    size: int
    preview_size: int = 0


class Upload(msgspec.Struct, frozen=True, gc=False):
    """A file that `uploader` has uploaded, and that one message of theirs may take: then it is `bound`.

    `source` is the widget source that the uploader's token named, "" if it named several. `media_type` was found by
    looking at the bytes. `created` is epoch seconds.
    """

    file: StoredAttachment
    uploader: Identity
    source: str
    media_type: str
    created: int
    bound: bool = False


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """One message as committed. `author` is None for the server's own system messages; `time` is epoch seconds."""

    id: int
    index: int
    rev: int
    type: MessageType
    type_role: Role
    text: str
    author: User | None
    time: int
    client_id: str | None = None
    attachments: tuple[StoredAttachment, ...] = ()


def visible_to(message: StoredMessage, role: Role) -> bool:
    """System messages reach only those whose role is `type_role`: live, history, resume."""
    return message.type is MessageType.STANDARD or message.type_role is role


def message_status(chat: ChatState, message: StoredMessage) -> MessageStatus:
    """Computed from the counterpart's watermarks; system messages stay `new`."""
    if message.type is MessageType.SYSTEM:
        return MessageStatus.NEW
    if message.type_role is Role.USER:
        delivered, read = chat.operators_delivered, chat.operators_read
    else:
        delivered, read = chat.visitor_delivered, chat.visitor_read
    if message.index <= read:
        return MessageStatus.READ
    return MessageStatus.DELIVERED if message.index <= delivered else MessageStatus.NEW


def wire_message(chat: ChatState, message: StoredMessage, attachments: tuple[Attachment, ...] = ()) -> Message:
    """The contract's message, with the chat as `chat` says, and its files with the reader's links."""
    return Message(
        id=message.id,
        type=message.type,
        type_role=message.type_role,
        status=message_status(chat, message),
        text=message.text,
        send_time=wire_time(message.time),
        message_index=message.index,
        chat=chat.wire(),
        user=message.author,
        attachments=attachments,
    )


@attrs.frozen
class OperatorCounters:
    """An operator's chats, absolute, after the commit that carries revision `rev` of these counters."""

    operator_id: int
    new_chats: int = 0
    open_chats: int = 0
    rev: int = 0


@attrs.frozen
class SourceCounters:
    """A source's `unread_chats`, absolute, after the commit that carries revision `rev` of this counter."""

    source: str
    unread_chats: int = 0
    rev: int = 0


@attrs.frozen
class Contribution:
    """What one chat adds to the counters."""

    operator_id: int | None
    new: int
    open: int
    unread: int


def contribution(chat: ChatState) -> Contribution:
    """The only definition of the counters: counters are the sum of this over all chats."""
    active = chat.active
    unread = int(active and chat.last_visitor_index > chat.operators_read)
    if not active or chat.operator is None:
        return Contribution(None, 0, 0, unread)
    is_open = chat.stage is Stage.OPEN
    return Contribution(chat.operator.id, int(not is_open), int(is_open), unread)


ENDLESS: Final = 2**53 - 1
"""The end, in epoch seconds, of a membership that has none."""


def endless(sources: Iterable[str]) -> dict[str, int]:
    """Memberships in these widget sources that have no end."""
    return dict.fromkeys(sources, ENDLESS)


@attrs.frozen
class ProfileToken:
    """The token that a stored profile was taken from.

    `at` is its place in the order of tokens: when it was issued or, if it doesn't say so (`dated` is false), when it
    was first used. Both that and `until`, its end, are in epoch seconds.
    """

    token: str
    at: float
    until: int
    dated: bool


@attrs.frozen
class PersonRecord:
    """What is stored of a person. All but `user`, `profile` and `superseded` is about operators only.

    `memberships` has, for each widget source that a token named, until when the person belongs to it, in epoch seconds.
    `online` is the contract's `is_online`, as last committed. `leaving`: the operator went offline, and not all chats
    that were theirs are back in the queue yet. `superseded` has older tokens that must not bring their profile back and
    don't say when they were issued, each with its end.
    """

    user: User
    memberships: Mapping[str, int] = attrs.field(factory=dict)
    online: bool = False
    leaving: bool = False
    profile: ProfileToken | None = None
    superseded: Mapping[str, int] = attrs.field(factory=dict)

    def sources(self, now: float) -> frozenset[str]:
        """The widget sources that the person belongs to at `now`."""
        return frozenset([source for source, until in self.memberships.items() if until > now])
