"""Defines the immutable values of the domain: chats, stored messages, people, counters and the policy.

A `ChatState` is the row of one chat; `actorchat.chat.rules` computes the next state from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

import attrs
import msgspec

from actorchat.chat.file_rules import FileRules
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
    """The stage of a chat. `RESERVED` is `new` on the wire, but such a chat is in no list, feed or counter."""

    RESERVED = "reserved"
    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"

    @property
    def status(self) -> ChatStatus:
        return ChatStatus.NEW if self is Stage.RESERVED else ChatStatus(self.value)


class OnClosed(StrEnum):
    """The reaction to a visitor who writes in a closed chat or reopens it."""

    REOPEN = "reopen"
    QUEUE = "queue"
    REFUSE = "refuse"


ANONYMOUS_IDS: Final = 2**52
"""The lowest user id of anonymous visitors, which the server assigns; ids in tokens are below."""


class Identity(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """A user's role and id; ids are unique only within a role."""

    role: Role
    id: int


def identity_of(user: User) -> Identity:
    return Identity(user.role, user.id)


@attrs.frozen
class Retention:
    """For how many seconds a closed chat is kept after its last activity, 0 means for ever.

    `sources` has the times of single widget sources, `default` is for all others.
    """

    default: float = 0
    sources: Mapping[str, float] = attrs.Factory(dict)

    def __bool__(self) -> bool:
        return bool(self.default or any(self.sources.values()))

    def of(self, source: str) -> float:
        """The seconds for chats of `source`, 0 means for ever."""
        return self.sources.get(source, self.default)


@attrs.frozen(kw_only=True)
class Policy:
    """The settings that decisions depend on. Times are in seconds, 0 means off; capacity 0 means unlimited.

    `upload_timeout` is how long an uploaded file is kept without a message. `edit_within` is for how long an author may
    change a message, 0 means never. `files` are the rules for files in messages; None: all files are accepted.
    `retention` says when closed chats are deleted.
    """

    capacity: int = 0
    answer_timeout: float = 0
    idle_timeout: float = 0
    on_closed: OnClosed = OnClosed.REOPEN
    reserved_timeout: float = 0
    upload_timeout: float = 86_400
    edit_within: float = 900
    files: FileRules | None = None
    retention: Retention = attrs.Factory(Retention)


class ChatState(msgspec.Struct, frozen=True, gc=False):
    """The state of one chat after revision `rev`.

    A closed chat keeps its `operator`, with whom it reopens. Watermarks are the highest message index that a side has
    received or read, -1 for none.

    Times are in whole seconds since the epoch, rounded up so that no timer expires early. `last_activity` is the time
    of the last message or transition. `awaiting_since` is the time since which the customer waits for an answer, None
    if it is the customer's turn; passing the chat to another operator does not change it. `assigned_at` is when
    `operator` got the chat.

    Lists are ordered by `place`, highest first, and not by time. Message ids ascend in commit order; a chat's place is
    the id of its newest message, or a number from the same sequence if a later change left no message. The place of a
    reserved chat is 0.
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
        """Whether the chat is in lists, feeds and counters."""
        return self.stage is not Stage.RESERVED

    @property
    def active(self) -> bool:
        return self.stage is Stage.NEW or self.stage is Stage.OPEN

    def due_at(self, policy: Policy) -> float | None:
        """When the chat's timer expires, in epoch seconds, or None if no timer is running.

        It is the answer timer while the customer waits for an answer, else the idle timer. A chat that waits in the
        queue has no timer: it is never closed unanswered.
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
    """An uploaded file. It is `bound` once one of the uploader's messages has it as an attachment.

    `source` is the widget source of the uploader's token, "" if the token names several. `media_type` is detected from
    the content. `created` is in epoch seconds.
    """

    file: StoredAttachment
    uploader: Identity
    source: str
    media_type: str
    created: int
    bound: bool = False


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """One committed message. `author` is None for system messages of the server; `time` is in epoch seconds.

    `edited_at` is when the text was last changed or removed, in epoch seconds, None if it never was. `edit_rev` is the
    chat's revision of that change.
    """

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
    edited_at: int | None = None
    redacted: bool = False
    edit_rev: int = 0


def visible_to(message: StoredMessage, role: Role) -> bool:
    """Whether users of this role may see the message, live and in the history; system messages are for one role."""
    return message.type is MessageType.STANDARD or message.type_role is role


def message_status(chat: ChatState, message: StoredMessage) -> MessageStatus:
    """The status of a message, from the other side's watermarks; system messages are always `new`."""
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
    """The message in its wire form, with `chat` as its chat; `attachments` have links for this reader."""
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
    """The numbers of an operator's new and open chats; `rev` increases with each change."""

    operator_id: int
    new_chats: int = 0
    open_chats: int = 0
    rev: int = 0


@attrs.frozen
class SourceCounters:
    """The number of a source's unread chats; `rev` increases with each change."""

    source: str
    unread_chats: int = 0
    rev: int = 0


@attrs.frozen
class Contribution:
    """The amounts that one chat adds to the counters of its operator and its source."""

    operator_id: int | None
    new: int
    open: int
    unread: int


def contribution(chat: ChatState) -> Contribution:
    """Return what `chat` adds to the counters. Each counter is by definition the sum of this over all chats."""
    active = chat.active
    unread = int(active and chat.last_visitor_index > chat.operators_read)
    if not active or chat.operator is None:
        return Contribution(None, 0, 0, unread)
    is_open = chat.stage is Stage.OPEN
    return Contribution(chat.operator.id, int(not is_open), int(is_open), unread)


ENDLESS: Final = 2**53 - 1
"""The expiry time, in epoch seconds, of a membership that never expires."""


def endless(sources: Iterable[str]) -> dict[str, int]:
    """Memberships in these widget sources that never expire."""
    return dict.fromkeys(sources, ENDLESS)


@attrs.frozen
class ProfileToken:
    """The token that a stored profile comes from.

    `at` orders tokens: it is the issue date or, for a token without one (`dated` is false), the time of its first use.
    `until` is when the token expires. Both are in epoch seconds.
    """

    token: str
    at: float
    until: int
    dated: bool


@attrs.frozen
class PersonRecord:
    """The stored record of a person. `memberships`, `online`, `leaving` and `away` are used for operators only.

    `memberships` maps each widget source to the time, in epoch seconds, until which the person belongs to it. `online`
    means that the operator has a console, as last committed. `leaving` means that the operator went offline and some of
    their chats still have to be returned to the queue. `superseded` maps older tokens without an issue date to their
    expiry; they must not overwrite the profile again. `away` is set by the operator. Tokens that were issued at
    `signed_out_at` (epoch seconds) or earlier are worthless.
    """

    user: User
    memberships: Mapping[str, int] = attrs.field(factory=dict)
    online: bool = False
    leaving: bool = False
    profile: ProfileToken | None = None
    superseded: Mapping[str, int] = attrs.field(factory=dict)
    away: bool = False
    signed_out_at: float = 0.0

    @property
    def is_online(self) -> bool:
        """The contract's `is_online`: the operator has a console and is not away."""
        return self.online and not self.away

    def sources(self, now: float) -> frozenset[str]:
        """The widget sources that the person belongs to at `now` (epoch seconds)."""
        return frozenset([source for source, until in self.memberships.items() if until > now])
