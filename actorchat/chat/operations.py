"""Defines the operations that the journal takes, and their decisions and outcomes.

An operation is submitted to the journal, decided on the chat's row in the transaction by `actorchat.chat.rules`, and
answered with one `Outcome`.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

import attrs
import msgspec

from actorchat.chat.accounts import AccountDecision, AccountOperation
from actorchat.chat.blocks import BlockRemoved, BlockStored
from actorchat.chat.documents import ChangeDocument, DocumentChanged
from actorchat.chat.model import (
    ENDLESS,
    ChatState,
    OperatorCounters,
    PersonRecord,
    SourceCounters,
    StoredMessage,
    Upload,
)
from actorchat.chat.privacy import AuditEntry, ErasePerson, RecordAudit, Recorded
from actorchat.protocol import MessageType, Role, User

__all__ = [
    "AcceptChat",
    "AddMessage",
    "Changed",
    "ChatOperation",
    "CloseChat",
    "Counters",
    "Decision",
    "EditMessage",
    "EndLeaving",
    "ExpireChat",
    "ExpireUploads",
    "Expired",
    "GiveChat",
    "HandOver",
    "HandedOver",
    "MarkMessage",
    "Operation",
    "Outcome",
    "PersonRecorded",
    "RecordPerson",
    "RecordUpload",
    "RedactMessage",
    "RefreshPeople",
    "RefuseMessage",
    "Refused",
    "ReleaseChat",
    "ReopenChat",
    "ReplaceTag",
    "ReplyTo",
    "ReserveChat",
    "ReturnChat",
    "SetOnline",
    "SetTags",
    "SweepChat",
    "TransferChat",
    "Unchanged",
    "Undecided",
    "UploadRecorded",
    "UploadsExpired",
    "changed_message",
    "refusal_of",
]


class AddMessage(msgspec.Struct, frozen=True, gc=False):
    """A standard message of `author`, or a system message for `type_role` (an internal note when it has an author)."""

    chat: UUID
    author: User
    text: str
    attachments: tuple[UUID, ...] = ()
    client_id: str | None = None
    type: MessageType = MessageType.STANDARD
    type_role: Role = Role.USER


class RefuseMessage(msgspec.Struct, frozen=True, gc=False):
    """Refuse `message` with `refusal`, or answer as for a repeated message if its `client_id` is stored already.

    `message_not_added` promises that nothing is stored under that `client_id`. So a message that has one is refused in
    the order of commits.
    """

    message: AddMessage
    refusal: Refused

    @property
    def chat(self) -> UUID:
        return self.message.chat


def refusal_of(message: Operation, refusal: Refused) -> RefuseMessage | None:
    """The operation that refuses `message`, None if it has no `client_id` and can be refused at once."""
    if isinstance(message, RefuseMessage):
        return message
    if isinstance(message, AddMessage) and message.client_id is not None:
        return RefuseMessage(message, refusal)
    return None


@attrs.frozen
class MarkMessage:
    """`reader` has received (with `read`: has read) the counterpart's messages up to this one."""

    chat: UUID
    reader: User
    message_id: int
    read: bool


@attrs.frozen
class AcceptChat:
    chat: UUID
    by: User


@attrs.frozen
class CloseChat:
    chat: UUID
    by: User


@attrs.frozen
class ReopenChat:
    chat: UUID
    by: User


@attrs.frozen
class TransferChat:
    """Give the chat to the operator with the id `to`, which must be known and belong to the chat's source."""

    chat: UUID
    by: User
    to: int


@attrs.frozen
class ReturnChat:
    chat: UUID
    by: User


@attrs.frozen
class ReleaseChat:
    """Return a leaving operator's chat to the queue, or a `new` one of an operator who is away.

    Nothing happens if it has another operator or this one is back.
    """

    chat: UUID
    operator_id: int


@attrs.frozen
class SweepChat:
    """If the chat's timer has ended, close an idle chat or return an unanswered one to the queue."""

    chat: UUID


@attrs.frozen
class RefreshPeople:
    """Publish the chat again because a user in it has a new profile. Nothing happens if it is closed."""

    chat: UUID


@attrs.frozen
class EditMessage:
    """Replace the text of a message of `by`, who may do so for a while. The files stay."""

    chat: UUID
    by: User
    message_id: int
    text: str


@attrs.frozen
class RedactMessage:
    """Remove the text and the files of a message. With `moderates`, `by` may do so at any time and for any author.

    `erases`: it is a part of the erasure of a person, which concerns messages of both types and for both roles.
    """

    chat: UUID
    by: User
    message_id: int
    moderates: bool = False
    erases: bool = False


@attrs.frozen
class SetTags:
    """Give the chat exactly these tags, which are sorted and unique."""

    chat: UUID
    tags: tuple[str, ...]


@attrs.frozen
class ReplaceTag:
    """Give the chat the tag `into` in place of `tag`, or only take `tag` away if `into` is None.

    A chat that has no such tag stays as it is, except for its revision.
    """

    chat: UUID
    tag: str
    into: str | None


@attrs.frozen
class GiveChat:
    """A part of `HandOver`: give the chat to the visitor `to`, who may have it already.

    Of several chats that somebody has at one source then, the newest one goes on. The others are `ended`, and the one
    that goes on has `joined` them: the customer has waited since `awaiting_since` in one of them, None in none.
    """

    chat: UUID
    to: User
    ended: bool = False
    joined: bool = False
    awaiting_since: int | None = None


ChatOperation = (
    AddMessage
    | EditMessage
    | RedactMessage
    | MarkMessage
    | AcceptChat
    | CloseChat
    | ReopenChat
    | TransferChat
    | ReturnChat
    | ReleaseChat
    | SweepChat
    | RefreshPeople
    | SetTags
    | ReplaceTag
)


@attrs.frozen
class ReserveChat:
    """A chat for `owner` at `source`: the newest one that is not closed, else a new reserved one with the UUID `chat`.

    With a `refusal`, that is the decision if a new chat would be needed. If a reserved chat is returned, its expiry
    starts anew.
    """

    chat: UUID
    source: str
    owner: User
    refusal: Refused | None = None


@attrs.frozen
class ExpireChat:
    """Delete the chat if it is reserved and was not used after `before`, in epoch seconds.

    The record of an anonymous owner without another chat is deleted, too. `in_use`: the chat's room is open, so the
    expiry starts anew instead.

    With `retention`, the chat must be closed instead. It is deleted with all that belongs to it. `retention` is the
    audit record with the counts so far; it is stored with this chat added to its counts.
    """

    chat: UUID
    before: float
    in_use: bool
    retention: AuditEntry | None = None


@attrs.frozen
class RecordPerson:
    """Store what a token says about its user. `user` has the profile fields that the token has, named in `claimed`.

    An operator belongs to `sources` until the token's end, `until`. `token` identifies the token; `issued` is the time
    at which it was issued, None if unknown. Both decide which of two profiles is newer. With an empty `token`, the
    profile comes from the embedding program and is current. Times are in epoch seconds.
    """

    user: User
    claimed: frozenset[str]
    sources: frozenset[str] | None = None
    until: int = ENDLESS
    token: str = ""
    issued: float | None = None


@attrs.frozen
class SetOnline:
    """An operator's first feed socket was opened, or the grace after its last one has ended.

    An operator that goes offline with chats is `leaving` until `EndLeaving` or until it is online again.
    """

    operator_id: int
    online: bool


@attrs.frozen
class EndLeaving:
    """End `leaving`, because the operator's chats were returned. Nothing happens while it still has chats."""

    operator_id: int


@attrs.frozen
class HandOver:
    """Give everything of the visitor `anonymous` to the visitor `to`, who is the same person and has signed in.

    Every token of `anonymous` that was issued at `at` or earlier is worthless afterwards. `anonymous_issued` and
    `issued` are when the tokens were issued that prove both identities, None without one; the hand-over is refused if
    either has become worthless. Nothing happens if it was done before. Times are in epoch seconds.
    """

    anonymous: int
    to: User
    at: float
    anonymous_issued: float | None = None
    issued: float | None = None


@attrs.frozen
class RecordUpload:
    """The bytes of a file are stored: from now on a message of its uploader may name it."""

    upload: Upload


@attrs.frozen
class ExpireUploads:
    """Forget those of `files` that no message has taken, and that were created at `before` (epoch seconds) or earlier.

    Their bytes are to be deleted after the commit, and not before.
    """

    files: tuple[UUID, ...]
    before: float


Operation = (
    ChatOperation
    | RefuseMessage
    | ReserveChat
    | ExpireChat
    | RecordPerson
    | SetOnline
    | EndLeaving
    | HandOver
    | RecordUpload
    | ExpireUploads
    | AccountOperation
    | ChangeDocument
    | ErasePerson
    | RecordAudit
)


Counters = tuple[OperatorCounters | SourceCounters, ...]
"""Counters after a change that has moved them."""


class Changed(msgspec.Struct, frozen=True, gc=False):
    """The operation was committed as revision `chat.rev`.

    `messages` are new, `updated` are older ones with a new text. `removed` are files that no message has any more, so
    their bytes are to be deleted.
    """

    chat: ChatState
    messages: tuple[StoredMessage, ...] = ()
    chat_changed: bool = False
    updated: tuple[StoredMessage, ...] = ()
    removed: tuple[UUID, ...] = ()


class Unchanged(msgspec.Struct, frozen=True, gc=False):
    """Nothing had to be stored. `message` is the stored message of a repeated `client_id`, edit or redaction."""

    chat: ChatState
    message: StoredMessage | None = None


def changed_message(decision: Changed | Unchanged) -> StoredMessage:
    """The message that an accepted `EditMessage` or `RedactMessage` was about, as it is now."""
    message = decision.updated[0] if isinstance(decision, Changed) else decision.message
    if message is None:
        raise AssertionError("the decision on a message has no message")
    return message


@attrs.frozen
class PersonRecorded:
    """An operation on a person was decided. `renamed`: a known user has a new profile."""

    person: PersonRecord
    changed: bool
    renamed: bool = False


@attrs.frozen
class HandedOver:
    """The hand-over is done. `changes` has each chat that it changed, in commit order.

    `anonymous` is the record of the visitor who has nothing any more, None if all this was done before.
    """

    changes: tuple[Changed, ...] = ()
    anonymous: PersonRecord | None = None

    def counted(self, counters: Counters) -> tuple[tuple[Changed, Counters], ...]:
        """The changes with `counters`, which are those that all of them have moved."""
        last = len(self.changes) - 1
        return tuple((change, counters if place == last else ()) for place, change in enumerate(self.changes))


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Nothing was stored, and nothing will be. `detail` is for people; `retry_after` is in seconds.

    `attachments` are the files for which a message is refused.
    """

    code: str
    detail: str
    retry_after: float | None = None
    attachments: tuple[UUID, ...] = ()


@attrs.frozen
class Expired:
    """The reserved or closed chat was deleted, with `messages` messages. The bytes of its `files` are to be deleted."""

    chat: UUID
    messages: int = 0
    files: tuple[UUID, ...] = ()


@attrs.frozen
class UploadRecorded:
    """The upload is stored, or was already."""


@attrs.frozen
class UploadsExpired:
    """These uploads are forgotten, and nothing names them any more."""

    files: tuple[UUID, ...]


class Undecided(msgspec.Struct, frozen=True, gc=False):
    """Nothing was stored now, but it is unknown whether a message with the same `client_id` was stored before."""

    detail: str


Decision = (
    Changed
    | Unchanged
    | PersonRecorded
    | Expired
    | HandedOver
    | UploadRecorded
    | UploadsExpired
    | Recorded
    | AccountDecision
    | BlockStored
    | BlockRemoved
    | Refused
    | Undecided
    | DocumentChanged
)


class ReplyTo(Protocol):
    """Gets the decision about an operation."""

    def answer(self, decision: Decision, /) -> None:
        """Handle the decision. Called once; never blocks."""


class Outcome(msgspec.Struct, frozen=True):
    """The result of one submitted operation.

    `reply_to` is the one that was submitted with it. `counters` are those that it changed, with their new values. If
    storage was away, `operation` may be the `RefuseMessage` of a submitted message.
    """

    operation: Operation
    reply_to: ReplyTo | None
    decision: Decision
    counters: tuple[OperatorCounters | SourceCounters, ...] = ()
