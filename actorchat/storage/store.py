"""Defines the interface of stores: one transaction per batch, recovery after failures, and reads.

Every implementation passes `actorchat.testing.check_store`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

import attrs

from actorchat.chat.commit_log import LogEntry, Trimmed
from actorchat.chat.model import ChatState, Identity, OperatorCounters, PersonRecord, SourceCounters, Upload
from actorchat.chat.operations import Decision, Operation, RefuseMessage
from actorchat.chat.ports import PAGE_BYTES, ChatFilter, ChatPage, FeedSnapshot, OperatorRecord, Page
from actorchat.protocol import Role

__all__ = [
    "Batch",
    "CommitInDoubt",
    "Counters",
    "DecisionAndCounters",
    "Reads",
    "Store",
    "StoreUrlError",
    "StoredLog",
]

Counters = tuple[OperatorCounters | SourceCounters, ...]

DecisionAndCounters = tuple[Decision, Counters]
"""The decision about one operation, and the counters that it changed, with their new values."""


@attrs.frozen
class Batch:
    """Identifies one transaction: no other batch has the same writer and number. `now` is in epoch seconds."""

    writer: str
    number: int
    now: float


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

    `role` filters what that role may see, `size` limits a page in bytes of UTF-8 text. An unknown chat gives None.
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

    def chats(self, which: ChatFilter) -> ChatPage:
        """A page of a list of chats."""

    def person(self, identity: Identity) -> PersonRecord | None:
        """The stored profile and sources of a person, None if there are none."""

    def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        """The operators of at least one of `sources`, by id; None: all operators."""

    def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        """Read the snapshot of a feed of `sources`: operators, counters, the newest `limit` open or new chats."""

    def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        """Reserved chats that nothing was done with after `before` (epoch seconds), the longest unused first."""

    def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        """Chats whose `due_at` has passed, the longest overdue first."""

    def uploads(self, files: Collection[UUID]) -> tuple[Upload, ...]:
        """Those of `files` that were uploaded and not forgotten, in any order."""

    def unbound_uploads(self, before: float, limit: int) -> tuple[UUID, ...]:
        """Uploads that no message has taken, created at `before` (epoch seconds) or earlier, the oldest first."""

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

    def record_relayed(self, positions: Mapping[str, int], expired: float) -> Trimmed: ...
