"""Defines the interfaces that the chat package needs: a journal, a reader of committed data, and client sessions.

`actorchat.testing` has the conformance checks that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Protocol
from uuid import UUID

import attrs

from actorchat.chat.accounts import Account
from actorchat.chat.blocks import Block
from actorchat.chat.documents import DocumentKind
from actorchat.chat.model import (
    ChatState,
    Identity,
    OperatorCounters,
    PersonRecord,
    Retention,
    SourceCounters,
    Stage,
    StoredMessage,
    Upload,
)
from actorchat.chat.operations import Operation, Outcome, ReplyTo
from actorchat.chat.privacy import AuditEntry
from actorchat.protocol import Frames, Operator, Profile, Role, User

__all__ = [
    "MOST_UNREAD",
    "PAGE_BYTES",
    "ChatFilter",
    "ChatPage",
    "ChatReader",
    "Elsewhere",
    "FeedSnapshot",
    "Journal",
    "ListPlace",
    "OperatorRecord",
    "Page",
    "Recipient",
    "Session",
    "StorageDamaged",
    "StorageUnavailable",
    "SummaryRecord",
]


PAGE_BYTES: Final = 65_536
"""A page ends after this many bytes of text: enough for 200 messages of usual length, but not for 200 long ones."""


MOST_UNREAD: Final = 1_000
"""A chat's unread messages are counted up to this number."""


class StorageUnavailable(Exception):  # noqa: N818 - a state of the storage, named as its wire code
    """Storage cannot be read at the moment. No data is lost; try again later."""


class StorageDamaged(StorageUnavailable):
    """The rows or pages that a read needs are damaged. Other reads may work; trying this one again does not help."""


class Recipient(Protocol):
    """Receives the outcomes of submitted operations."""

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        """Receive the outcomes of a batch, in commit order, each exactly once. Must not block or raise."""


class Journal(Protocol):
    """Decides operations in the order in which they were submitted, many in one transaction."""

    def submit(self, operation: Operation, recipient: Recipient, reply_to: ReplyTo | None = None) -> bool:
        """Queue `operation`. `recipient` gets one `Outcome` with `reply_to` later, never within this call.

        Returns False if the queue is full; then the operation was not accepted. Does not block. While storage is
        unavailable the outcome is `Refused` with `storage_unavailable`. While it is unknown whether a commit succeeded,
        there is no outcome.
        """

    async def barrier(self) -> None:
        """Return when the outcomes of everything submitted before this call were reported."""


@attrs.frozen
class Page:
    """Messages in ascending index order and the current chat; `has_more` refers to the direction of the request.

    A page ends with the message that makes its texts reach the requested bytes. So it may have fewer messages than its
    limit although there are more, but never none.
    """

    chat: ChatState
    messages: tuple[StoredMessage, ...]
    has_more: bool


@attrs.frozen
class ListPlace:
    """The cursor of a list of chats: after the chat that was at `place` when the first page was read.

    `start` is the highest place at that time; chats that have moved above it since are skipped.
    """

    start: int
    place: int


@attrs.frozen(kw_only=True)
class ChatFilter:
    """Selects the chats of a list, which has the latest activity first and never shows reserved chats. None means any.

    `before` continues a list. A `ListPlace` continues in the order that the list had at the first page, so that no chat
    is missed or listed twice because it moved. A uuid continues after that chat in the current order; after an unknown
    uuid the list is empty.
    """

    sources: frozenset[str] | None = None
    stages: frozenset[Stage] | None = None
    operator_id: int | None = None
    owner_id: int | None = None
    owners: frozenset[int] | None = None
    tag: str | None = None
    before: UUID | ListPlace | None = None
    limit: int = 50


@attrs.frozen
class ChatPage:
    """A page of a list of chats; `next` is the `before` of the next page, None on the last one."""

    chats: tuple[ChatState, ...]
    next: ListPlace | None = None


@attrs.frozen
class SummaryRecord:
    """The summary of a chat in lists: `last` is the newest message that operators may see.

    `unread` is the number of messages that no operator has read, at most `MOST_UNREAD`. `created` is the time of the
    first message in epoch seconds; of the last activity, if there is no message. `tags` are sorted. `told` is the
    newest system message for the owner of a closed chat, such as the one that says that it was closed.
    """

    chat: ChatState
    last: StoredMessage | None
    unread: int
    created: int
    tags: tuple[str, ...]
    told: StoredMessage | None


@attrs.frozen
class OperatorRecord:
    person: PersonRecord
    counters: OperatorCounters

    def wire(self) -> Operator:
        return Operator(self.person.user, self.person.is_online, self.counters.new_chats, self.counters.open_chats)


@attrs.frozen
class FeedSnapshot:
    """The operators, counters and unclosed chats (newest last) of some sources, read at one point in time."""

    operators: tuple[OperatorRecord, ...]
    counters: tuple[SourceCounters, ...]
    chats: tuple[ChatState, ...]


class ChatReader(Protocol):
    """Reads committed data. Each method reads at one point in time, and raises `StorageUnavailable` if it cannot.

    `role` selects the messages which that role may see; `size` bounds a page in bytes of UTF-8 text. For an unknown
    chat the result is None or empty.
    """

    async def chat(self, chat: UUID) -> ChatState | None: ...

    async def newest(
        self, chat: UUID, role: Role, *, before: int | None, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        """The newest `limit` messages, with an index below `before` if given; `has_more` means there are older ones."""

    async def after(self, chat: UUID, role: Role, *, after: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        """The oldest `limit` messages with an index above `after`; `has_more` means there are newer ones."""

    async def since(self, chat: UUID, *, rev: int, limit: int) -> Page | None:
        """The oldest `limit` messages, for both roles, committed after revision `rev`."""

    async def authored(
        self, chat: UUID, author_role: Role, *, after: int, upto: int, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        """The oldest `limit` standard messages of that side with `after < index <= upto`."""

    async def edited(self, chat: UUID, *, rev: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        """Messages, for both roles, that were edited or redacted after revision `rev`; the earliest change first."""

    async def located(self, message_id: int) -> tuple[UUID, int] | None:
        """The chat and the index of a message, None if there is none."""

    async def chats(self, which: ChatFilter) -> ChatPage:
        """A page of a list. Following `next` lists every chat that matches all the time exactly once."""

    async def summaries(self, chats: Collection[UUID]) -> tuple[SummaryRecord, ...]:
        """Return the summaries of these chats, in any order, without those that are unknown or reserved."""

    async def person(self, identity: Identity) -> PersonRecord | None: ...

    async def people(self, identities: Collection[Identity]) -> tuple[PersonRecord, ...]:
        """Those of these people who are stored, in any order."""

    async def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        """Every operator with at least one of these sources, or all operators for None, ordered by id."""

    async def accounts(self) -> tuple[Account, ...]:
        """All accounts of operators, by id."""

    async def blocks(self) -> tuple[Block, ...]:
        """All blocks of visitors and networks, by id."""

    async def sources(self, limit: int) -> tuple[str, ...]:
        """At most `limit` widget sources to which visitors have written, by name."""

    async def tag_counts(self, sources: Collection[str], limit: int) -> tuple[tuple[str, int], ...]:
        """The most used tags of the chats of these sources with the number of chats, most used first, then by name."""

    async def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot: ...

    async def past_retention(self, retention: Retention, now: float, limit: int) -> tuple[tuple[UUID, float], ...]:
        """Closed chats that are to be deleted at `now`, each with the time before which its activity has ended.

        Times are in epoch seconds. Of each source, the longest inactive chats come first.
        """

    async def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        """Reserved chats without activity since `before` (epoch seconds), the longest unused first."""

    async def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        """Chats whose `due_at` has passed, the longest overdue first."""

    async def documents(self, kind: DocumentKind, scope: str) -> tuple[tuple[str, str], ...]:
        """The name and text of each document of that kind and scope, by name."""

    async def uploads(self, files: Collection[UUID]) -> tuple[Upload, ...]:
        """The uploads with these ids that exist, in any order."""

    async def unbound_uploads(self, before: float, limit: int) -> tuple[UUID, ...]:
        """Uploads without a message that were created at `before` (epoch seconds) or earlier, the oldest first."""

    async def audits(self, before: int, limit: int) -> tuple[AuditEntry, ...]:
        """Records of exports and erasures with a number below `before`, the newest first."""

    async def written_by(self, author: Identity, after: int, limit: int) -> tuple[tuple[UUID, int], ...]:
        """Chat and id of the oldest messages of `author` with an id above `after`, by id. It may read all messages."""

    async def uploads_of(self, uploader: Identity) -> tuple[UUID, ...]:
        """The files that a person has uploaded. It may read all uploads."""


class Elsewhere(Protocol):
    """The other nodes of a deployment, as the chats of this one need them."""

    async def caught_up(self) -> None:
        """Return when everything was applied here that other nodes had committed when this was called.

        Raises `StorageUnavailable`.
        """

    async def holds(self, lease: str) -> bool:
        """Whether this node has the lease of that name, which only one node has at a time, more or less."""


class Session(Protocol):
    """A connected client, as rooms and feeds see it. The methods do not block and do not raise."""

    @property
    def user(self) -> User: ...

    @property
    def profile(self) -> Profile: ...

    @property
    def peer(self) -> str:
        """The client's address, "" if it is unknown."""

    def push(self, frames: Frames) -> None:
        """Send `frames` after all earlier ones. A slow client first loses typing events, then its socket is closed."""

    def close(self, code: int, reason: str = "") -> None:
        """Close with `code` after everything pushed was sent. Later pushes and closes are ignored."""

    @property
    def buffered_bytes(self) -> int:
        """Pushed bytes that were not written to the socket yet; a replay waits while there are many."""

    async def wait_drained(self) -> bool:
        """Wait until few bytes are buffered and return True, or return False once the session is closed.

        The wait ends: the session of a client that does not read is closed after a while.
        """

    def operation_done(self, flooding: bool = False) -> None:
        """Allow the session one more operation in flight, because one was answered.

        `flooding` means that it was refused by a rate limit; the transport may then throttle the client.
        """
