"""Defines the operations that the journal takes, and their decisions and outcomes.

An operation is submitted to the journal, decided on the chat's row in the transaction by `actorchat.chat.rules`, and
answered with one `Outcome`.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

import attrs
import msgspec

from actorchat.chat.model import (
    ENDLESS,
    ChatState,
    OperatorCounters,
    PersonRecord,
    SourceCounters,
    StoredMessage,
    Upload,
)
from actorchat.protocol import MessageType, Role, User

__all__ = [
    "AcceptChat",
    "AddMessage",
    "Changed",
    "ChatOperation",
    "CloseChat",
    "Decision",
    "EndLeaving",
    "ExpireChat",
    "ExpireUploads",
    "Expired",
    "MarkMessage",
    "Operation",
    "Outcome",
    "PersonRecorded",
    "RecordPerson",
    "RecordUpload",
    "RefreshPeople",
    "RefuseMessage",
    "Refused",
    "ReleaseChat",
    "ReopenChat",
    "ReplyTo",
    "ReserveChat",
    "ReturnChat",
    "SetOnline",
    "SweepChat",
    "TransferChat",
    "Unchanged",
    "Undecided",
    "UploadRecorded",
    "UploadsExpired",
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
    """Return a leaving operator's chat to the queue. Nothing happens if it has another operator or this one is back."""

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


ChatOperation = (
    AddMessage
    | MarkMessage
    | AcceptChat
    | CloseChat
    | ReopenChat
    | TransferChat
    | ReturnChat
    | ReleaseChat
    | SweepChat
    | RefreshPeople
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
    """

    chat: UUID
    before: float
    in_use: bool


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
    | RecordUpload
    | ExpireUploads
)


class Changed(msgspec.Struct, frozen=True, gc=False):
    """The operation was committed as revision `chat.rev`."""

    chat: ChatState
    messages: tuple[StoredMessage, ...] = ()
    chat_changed: bool = False


class Unchanged(msgspec.Struct, frozen=True, gc=False):
    """Nothing had to be stored. `message` is the stored message of a repeated `client_id`."""

    chat: ChatState
    message: StoredMessage | None = None


@attrs.frozen
class PersonRecorded:
    """A `RecordPerson`, `SetOnline` or `EndLeaving` was decided. `renamed`: a known user has a new profile."""

    person: PersonRecord
    changed: bool
    renamed: bool = False


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
    """The reserved chat was deleted."""

    chat: UUID


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


Decision = Changed | Unchanged | PersonRecorded | Expired | UploadRecorded | UploadsExpired | Refused | Undecided


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
