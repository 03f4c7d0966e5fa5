"""Owns what can be asked of the journal, and what comes of it. Values only; `actorchat.chat.rules` decides them.

An operation is handed to the journal, decided on the chat's row in the transaction, and answered with one `Outcome`.
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
    """`message` is not to be stored. Its sender is told `refusal`, unless its `client_id` is known: then as if it
    had been sent at a better moment.

    `message_not_added` promises that nothing is stored under that `client_id`, so a message that has one is refused in
    the order of commits.
    """

    message: AddMessage
    refusal: Refused

    @property
    def chat(self) -> UUID:
        return self.message.chat


def refusal_of(message: Operation, refusal: Refused) -> RefuseMessage | None:
    """How to refuse `message` when it has a `client_id`, None if it can be refused at once."""
    if isinstance(message, RefuseMessage):
        return message
    if isinstance(message, AddMessage) and message.client_id is not None:
        return RefuseMessage(message, refusal)
    return None


@attrs.frozen
class MarkMessage:
    """`reader` has received (or, with `read`, read) everything of the counterpart up to this message."""

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
    """To the operator with the id `to`, who must be known and have the chat's source."""

    chat: UUID
    by: User
    to: int


@attrs.frozen
class ReturnChat:
    chat: UUID
    by: User


@attrs.frozen
class ReleaseChat:
    """Return the chat of an operator that is leaving. Nothing happens if it is another's or the operator is back."""

    chat: UUID
    operator_id: int


@attrs.frozen
class SweepChat:
    """The chat's timer may have ended: close the chat if idle, return it to the queue if unanswered."""

    chat: UUID


@attrs.frozen
class RefreshPeople:
    """Somebody in the chat has another profile: the chat is shown again. Nothing happens if it is closed."""

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
    """A chat for `owner` at `source`: its newest one that is not closed, else a new reserved one under `chat`.

    With a `refusal` no chat is made: that is the answer where a new one would be needed. A reserved chat that is given
    again is kept as long as a new one.
    """

    chat: UUID
    source: str
    owner: User
    refusal: Refused | None = None


@attrs.frozen
class ExpireChat:
    """Delete the chat if it is reserved, and nothing was done with it after `before` (epoch seconds).

    The record of an anonymous owner without any other chat goes with it. `in_use`: the chat's room is open, so the chat
    is kept as long as a new one.
    """

    chat: UUID
    before: float
    in_use: bool


@attrs.frozen
class RecordPerson:
    """A token was used. `user` has only the profile fields that the token claims; `claimed` names them.

    An operator belongs to `sources` until the token's end, `until`. `token` identifies the token, and `issued` says
    when it was issued, None if it doesn't say so; they order profiles. Empty, `token` means that this is no token's
    claim, but what the program itself knows now. Times are in epoch seconds.
    """

    user: User
    claimed: frozenset[str]
    sources: frozenset[str] | None = None
    until: int = ENDLESS
    token: str = ""
    issued: float | None = None


@attrs.frozen
class SetOnline:
    """An operator's first feed socket came, or the last one is gone past the grace.

    An operator that goes offline with chats is leaving from then on, until `EndLeaving`; coming online ends it too.
    """

    operator_id: int
    online: bool


@attrs.frozen
class EndLeaving:
    """The chats of a leaving operator were returned. Nothing changes while there are others."""

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
    """Nothing to store: it is so already. `message` is the stored one of a repeated `client_id`."""

    chat: ChatState
    message: StoredMessage | None = None


@attrs.frozen
class PersonRecorded:
    """`renamed`: somebody who was known has another profile now."""

    person: PersonRecord
    changed: bool
    renamed: bool = False


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Not stored, and never will be. `detail` is for people; `retry_after` in seconds.

    `attachments` are the files that a message is refused for.
    """

    code: str
    detail: str
    retry_after: float | None = None
    attachments: tuple[UUID, ...] = ()


@attrs.frozen
class Expired:
    """The chat was deleted. It never had a message."""

    chat: UUID


@attrs.frozen
class UploadRecorded:
    """The upload is stored, or was already."""


@attrs.frozen
class UploadsExpired:
    """These uploads are forgotten, and nothing names them any more."""

    files: tuple[UUID, ...]


class Undecided(msgspec.Struct, frozen=True, gc=False):
    """Nothing was stored, and whether a message is stored under the same `client_id` can't be read."""

    detail: str


Decision = Changed | Unchanged | PersonRecorded | Expired | UploadRecorded | UploadsExpired | Refused | Undecided


class ReplyTo(Protocol):
    """Who waits for what becomes of an operation."""

    def answer(self, decision: Decision, /) -> None:
        """Take the decision, once. Never blocks."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of one submitted operation.

    `reply_to` is who asked, if the submitter named somebody. `counters`: those that it changed, as they stand after it.
    `operation` may be the `RefuseMessage` of a submitted message that storage was away for.
    """

    operation: Operation
    reply_to: ReplyTo | None
    decision: Decision
    counters: tuple[OperatorCounters | SourceCounters, ...] = ()
