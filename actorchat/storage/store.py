"""Defines the interface of stores: one transaction per batch, recovery after failures, and reads.

Every implementation passes `actorchat.testing.check_store`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

import attrs
import msgspec

from actorchat.chat.accounts import Account
from actorchat.chat.blocks import Block
from actorchat.chat.commit_log import LogEntry, TooOld, Trimmed
from actorchat.chat.documents import DocumentKind
from actorchat.chat.model import (
    ChatState,
    Identity,
    PersonRecord,
    Retention,
    StoredMessage,
    Upload,
)
from actorchat.chat.operations import Counters, Decision, Operation, RefuseMessage
from actorchat.chat.ports import (
    PAGE_BYTES,
    ChatFilter,
    ChatPage,
    FeedSnapshot,
    OperatorRecord,
    Page,
    SummaryRecord,
)
from actorchat.chat.privacy import AuditEntry
from actorchat.protocol import Role, User

__all__ = [
    "LOG_PAGE_BYTES",
    "Batch",
    "CommitInDoubt",
    "Counters",
    "DecisionAndCounters",
    "LoggedBatch",
    "NodeLog",
    "Reads",
    "SearchableMessage",
    "SearchablePerson",
    "Store",
    "StoreUrlError",
    "StoredLog",
]

LOG_PAGE_BYTES: Final = 1_048_576
"""Batches of the log are read until their payloads have this many bytes."""

DecisionAndCounters = tuple[Decision, Counters]
"""The decision about one operation, and the counters that it changed, with their new values."""


@attrs.frozen
class Batch:
    """Identifies one transaction: no other batch has the same writer and number. `now` is in epoch seconds."""

    writer: str
    number: int
    now: float


class SearchableMessage(msgspec.Struct, frozen=True):
    """One message as the search index needs it.

    `number` is what it was asked for by: its id, or the place of its last edit. `chat` is the uuid of its chat in
    hexadecimal digits. `hidden` is the role that may not see it. `files` are the names of its files.
    """

    number: int
    id: int
    chat: str
    source: str
    owner_id: int
    hidden: Role | None
    text: str
    files: tuple[str, ...]


@attrs.frozen
class RemovedChat:
    """A chat that was deleted after it was closed. `place` is from the sequence of message ids."""

    place: int
    chat: UUID
    owner_id: int


@attrs.frozen
class SearchablePerson:
    """A person, and the widget sources where it can be found."""

    user: User
    sources: frozenset[str]


class CommitInDoubt(Exception):  # noqa: N818 - named as the state it is
    """COMMIT failed: the batch is stored as a whole or not at all, and only `Store.recover` can find out.

    `decided` has the decisions to report if it is stored.
    """

    def __init__(self, decided: list[DecisionAndCounters]) -> None:
        super().__init__("COMMIT failed and may have been durable")
        self.decided = decided


class StoreUrlError(ValueError):
    """The storage URL can't be opened. The text says what to do about it."""


class Reads(Protocol):
    """The reads of `actorchat.chat.ports.ChatReader`, synchronous. Any thread may call; each call reads one snapshot.

    `role` selects the messages which that role may see; `size` bounds a page in bytes of UTF-8 text. For an unknown
    chat the result is None.
    """

    def chat(self, chat: UUID) -> ChatState | None:
        """The state of a chat."""

    def newest(self, chat: UUID, role: Role, *, before: int | None, limit: int, size: int = PAGE_BYTES) -> Page | None:
        """The newest `limit` messages with an index below `before`; None: of all messages."""

    def after(self, chat: UUID, role: Role, *, after: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        """The oldest `limit` messages with an index above `after`."""

    def since(self, chat: UUID, *, rev: int, limit: int) -> Page | None:
        """The oldest `limit` messages, for both roles, that were committed after revision `rev`."""

    def authored(
        self, chat: UUID, author_role: Role, *, after: int, upto: int, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        """The oldest `limit` standard messages by authors of `author_role` with `after < index <= upto`."""

    def edited(self, chat: UUID, *, rev: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        """Messages, for both roles, that were edited or redacted after revision `rev`; the earliest change first."""

    def located(self, message_id: int) -> tuple[UUID, int] | None:
        """The chat and the index of a message."""

    def chats(self, which: ChatFilter) -> ChatPage:
        """A page of a list of chats."""

    def summaries(self, chats: Collection[UUID]) -> tuple[SummaryRecord, ...]:
        """Return the summaries of these chats, in any order, without those that are unknown or reserved."""

    def person(self, identity: Identity) -> PersonRecord | None:
        """The stored profile and sources of a person, None if there are none."""

    def people(self, identities: Collection[Identity]) -> tuple[PersonRecord, ...]:
        """The stored profiles and sources of those people who have them, in any order."""

    def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        """The operators of at least one of `sources`, by id; None: all operators."""

    def accounts(self) -> tuple[Account, ...]:
        """All accounts of operators, by id."""

    def blocks(self) -> tuple[Block, ...]:
        """All blocks of visitors and networks, by id."""

    def sources(self, limit: int) -> tuple[str, ...]:
        """At most `limit` widget sources to which visitors have written, by name."""

    def tag_counts(self, sources: Collection[str], limit: int) -> tuple[tuple[str, int], ...]:
        """The most used tags of the chats of these sources with the number of chats, most used first, then by name."""

    def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        """Read the snapshot of a feed of `sources`: operators, counters, the newest `limit` open or new chats."""

    def past_retention(self, retention: Retention, now: float, limit: int) -> tuple[tuple[UUID, float], ...]:
        """Closed chats that are to be deleted at `now`, each with the time before which its activity has ended.

        Of each source, the longest inactive chats come first.
        """

    def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        """Reserved chats without activity since `before` (epoch seconds), the longest unused first."""

    def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        """Chats whose `due_at` has passed, the longest overdue first."""

    def documents(self, kind: DocumentKind, scope: str) -> tuple[tuple[str, str], ...]:
        """The name and text of each document of that kind and scope, by name."""

    def uploads(self, files: Collection[UUID]) -> tuple[Upload, ...]:
        """The uploads with these ids that exist, in any order."""

    def unbound_uploads(self, before: float, limit: int) -> tuple[UUID, ...]:
        """Uploads without a message that were created at `before` (epoch seconds) or earlier, the oldest first."""

    def searchable(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        """The oldest messages with an id above `after`, by id."""

    def searchable_edits(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        """The messages, as they are now, whose last edit has a place above `after`, by that place."""

    def removed_chats(self, after: int, limit: int) -> tuple[RemovedChat, ...]:
        """The closed chats whose deletion has a place above `after`, by that place."""

    def people_after(self, after: Identity, limit: int) -> tuple[SearchablePerson, ...]:
        """People with a name, of the role of `after` and with a higher id, by id."""

    def searchable_people(self, people: Collection[Identity]) -> tuple[SearchablePerson, ...]:
        """Those of `people` that exist, with the sources where they own listed chats or are operators."""

    def newest_number(self) -> int:
        """The highest number that was drawn from the sequence of message ids, places in lists and places of edits.

        Not every number is used. The next batch draws the one behind it, unless another server comes first.
        """

    def found(self, messages: Sequence[int]) -> tuple[tuple[ChatState, StoredMessage], ...]:
        """The messages with these ids that exist, and their chats, in the given order."""

    def audits(self, before: int, limit: int) -> tuple[AuditEntry, ...]:
        """Records of exports and erasures with a number below `before`, the newest first."""

    def written_by(self, author: Identity, after: int, limit: int) -> tuple[tuple[UUID, int], ...]:
        """Chat and id of the oldest messages of `author` with an id above `after`, by id. It may read all messages."""

    def uploads_of(self, uploader: Identity) -> tuple[UUID, ...]:
        """The files that a person has uploaded. It may read all uploads."""

    def probe(self) -> None:
        """Read a little of every table. Raises `StorageUnavailable` if storage as a whole can't be read."""


class Store(Reads, Protocol):
    """Stores chats. `commit`, `recover`, `look_up` and `close` are called by one thread at a time.

    Every method may raise `actorchat.chat.ports.StorageUnavailable`: nothing was changed, and it may work later.
    """

    corrected_counters: int
    """The number of stored counters that were wrong when they were recounted at the start, because of a bug."""

    def commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
        """Decide `operations` in order, each on the result of those before it, and store them in one transaction.

        A batch that changes nothing need not be stored. An operation that can't be stored is refused with `malformed`,
        and the others are stored. Raises `CommitInDoubt`.
        """

    def recover(self, batch: Batch) -> bool:
        """Reconnect after a failure, check that storage can be written, and return whether `batch` is stored.

        False is final: the batch can't appear in storage later.
        """

    def is_new(self, operation: RefuseMessage) -> bool:
        """Whether the cache proves that no committed message has the same chat, author and `client_id`.

        Called after `commit` failed, also while `recover` runs. Never blocks or raises.
        """

    def look_up(self, operations: Sequence[RefuseMessage]) -> list[DecisionAndCounters]:
        """Decide `operations` on the committed rows, without writing."""

    def close(self) -> None:
        """Close all files and connections. Nothing else is called afterwards."""


class StoredLog(Protocol):
    """The log of commits in a store that was opened for brokers: `actorchat.chat.commit_log.CommitLog`, synchronous.

    Each commit adds one entry in its own transaction, unless it has nothing to show. A broker that is new starts behind
    the newest entry. `positions` and `entries` may be called by any thread, `record_relayed` by the one that commits.
    """

    def positions(self) -> Mapping[str, int]: ...

    def entries(self, after: int, size: int) -> Sequence[LogEntry]: ...

    def record_relayed(self, positions: Mapping[str, int], expired: TooOld) -> Trimmed: ...


@attrs.frozen
class LoggedBatch:
    """The row of one batch in the log. `time` is that of the batch, in epoch seconds.

    `payload` is what `actorchat.chat.node_commits` reads. `previous` is the number of the writer's batch before it that
    is in the log, 0 for none: the numbers between them were not stored, and never will be.
    """

    writer: str
    number: int
    previous: int
    time: float
    payload: bytes


class NodeLog(Protocol):
    """The log of commits as the other nodes read it. A store that several nodes share has it always.

    A batch that has nothing to show need not be in it. The batches of one writer get into it in the order of their
    numbers. Any thread may call; every method may raise `actorchat.chat.ports.StorageUnavailable`.
    """

    def newest_batches(self) -> Mapping[str, int]:
        """For each writer the number of its newest batch in the log. Writers without a batch may be missing."""

    def batches(
        self, writer: str, *, after: int, upto: int, limit: int, size: int = LOG_PAGE_BYTES
    ) -> Sequence[LoggedBatch]:
        """The writer's batches with `after < number <= upto`, by number, the oldest `limit` ones.

        They end with the batch that makes their payloads reach `size` bytes. So there may be fewer, but never none.
        """

    def last_logged(self) -> LoggedBatch | None:
        """The newest batch that this store has logged itself. Called between commits; reads no storage."""

    def epoch(self) -> int:
        """The epoch of what this store logs. A higher one than before: storage went back. Reads no storage."""

    def follow_epoch(self, epoch: int) -> None:
        """Another node has logged this epoch: what this store keeps in memory may be lost. Reads no storage."""
