"""Wraps a store so that its commits fail, and a runner so that its calls take time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum, auto
from itertools import chain, repeat
from typing import TypeVar
from uuid import UUID

import trio

from actorchat.chat.accounts import Account
from actorchat.chat.blocks import Block
from actorchat.chat.documents import DocumentKind
from actorchat.chat.model import (
    ChatState,
    Identity,
    PersonRecord,
    Retention,
    StoredMessage,
    Upload,
)
from actorchat.chat.operations import Operation, RefuseMessage
from actorchat.chat.ports import (
    PAGE_BYTES,
    ChatFilter,
    ChatPage,
    FeedSnapshot,
    OperatorRecord,
    Page,
    StorageUnavailable,
    SummaryRecord,
)
from actorchat.chat.privacy import AuditEntry
from actorchat.protocol import Role
from actorchat.storage.store import (
    Batch,
    CommitInDoubt,
    DecisionAndCounters,
    RemovedChat,
    SearchableMessage,
    SearchablePerson,
    Store,
)
from actorchat.storage.worker_threads import Runner

__all__ = ["CommitFault", "DelayedRunner", "FaultyStore"]

T = TypeVar("T")


class CommitFault(Enum):
    """How a commit fails."""

    AWAY = auto()
    """The commit fails before it has done anything."""
    STORED = auto()
    """The commit fails at COMMIT, after the batch was stored."""
    FORGOTTEN = auto()
    """The commit fails at COMMIT, and nothing was stored."""


class FaultyStore(Store):
    """`store` with failures: each commit fails as the next of `faults` says; None, or no more of them, lets it succeed.

    After each fault the first `away_for` calls of `recover` fail. While `unreadable` is true every read fails. While
    `remembers` is false, no `client_id` counts as new.
    """

    def __init__(self, store: Store, faults: Iterable[CommitFault | None] = (), *, away_for: int = 0) -> None:
        self.corrected_counters: int = store.corrected_counters
        self.unreadable = False
        self.remembers = True
        self.commits: int = 0
        self._store = store
        self._faults = chain(faults, repeat(None))
        self._away_for = away_for
        self._still_away = 0

    def commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
        self.commits += 1
        fault = next(self._faults)
        if fault is None:
            return self._store.commit(operations, batch)
        self._still_away = self._away_for
        if fault is CommitFault.AWAY:
            raise StorageUnavailable("as scripted")
        raise CommitInDoubt(self._store.commit(operations, batch) if fault is CommitFault.STORED else [])

    def recover(self, batch: Batch) -> bool:
        if self._still_away:
            self._still_away -= 1
            raise StorageUnavailable("as scripted")
        return self._store.recover(batch)

    def is_new(self, operation: RefuseMessage) -> bool:
        return self.remembers and self._store.is_new(operation)

    def look_up(self, operations: Sequence[RefuseMessage]) -> list[DecisionAndCounters]:
        return self._readable.look_up(operations)

    def close(self) -> None:
        self._store.close()

    def chat(self, chat: UUID) -> ChatState | None:
        return self._readable.chat(chat)

    def newest(self, chat: UUID, role: Role, *, before: int | None, limit: int, size: int = PAGE_BYTES) -> Page | None:
        return self._readable.newest(chat, role, before=before, limit=limit, size=size)

    def after(self, chat: UUID, role: Role, *, after: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        return self._readable.after(chat, role, after=after, limit=limit, size=size)

    def since(self, chat: UUID, *, rev: int, limit: int) -> Page | None:
        return self._readable.since(chat, rev=rev, limit=limit)

    def authored(
        self, chat: UUID, author_role: Role, *, after: int, upto: int, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        return self._readable.authored(chat, author_role, after=after, upto=upto, limit=limit, size=size)

    def edited(self, chat: UUID, *, rev: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        return self._readable.edited(chat, rev=rev, limit=limit, size=size)

    def located(self, message_id: int) -> tuple[UUID, int] | None:
        return self._readable.located(message_id)

    def chats(self, which: ChatFilter) -> ChatPage:
        return self._readable.chats(which)

    def summaries(self, chats: Collection[UUID]) -> tuple[SummaryRecord, ...]:
        return self._readable.summaries(chats)

    def person(self, identity: Identity) -> PersonRecord | None:
        return self._readable.person(identity)

    def people(self, identities: Collection[Identity]) -> tuple[PersonRecord, ...]:
        return self._readable.people(identities)

    def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        return self._readable.operators(sources)

    def accounts(self) -> tuple[Account, ...]:
        return self._readable.accounts()

    def blocks(self) -> tuple[Block, ...]:
        return self._readable.blocks()

    def sources(self, limit: int) -> tuple[str, ...]:
        return self._readable.sources(limit)

    def tag_counts(self, sources: Collection[str], limit: int) -> tuple[tuple[str, int], ...]:
        return self._readable.tag_counts(sources, limit)

    def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        return self._readable.feed_snapshot(sources, limit)

    def past_retention(self, retention: Retention, now: float, limit: int) -> tuple[tuple[UUID, float], ...]:
        return self._readable.past_retention(retention, now, limit)

    def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        return self._readable.unused(before, limit)

    def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        return self._readable.due(now, limit)

    def documents(self, kind: DocumentKind, scope: str) -> tuple[tuple[str, str], ...]:
        return self._readable.documents(kind, scope)

    def uploads(self, files: Collection[UUID]) -> tuple[Upload, ...]:
        return self._readable.uploads(files)

    def unbound_uploads(self, before: float, limit: int) -> tuple[UUID, ...]:
        return self._readable.unbound_uploads(before, limit)

    def searchable(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        return self._readable.searchable(after, limit)

    def searchable_edits(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        return self._readable.searchable_edits(after, limit)

    def removed_chats(self, after: int, limit: int) -> tuple[RemovedChat, ...]:
        return self._readable.removed_chats(after, limit)

    def people_after(self, after: Identity, limit: int) -> tuple[SearchablePerson, ...]:
        return self._readable.people_after(after, limit)

    def searchable_people(self, people: Collection[Identity]) -> tuple[SearchablePerson, ...]:
        return self._readable.searchable_people(people)

    def audits(self, before: int, limit: int) -> tuple[AuditEntry, ...]:
        return self._readable.audits(before, limit)

    def written_by(self, author: Identity, after: int, limit: int) -> tuple[tuple[UUID, int], ...]:
        return self._readable.written_by(author, after, limit)

    def uploads_of(self, uploader: Identity) -> tuple[UUID, ...]:
        return self._readable.uploads_of(uploader)

    def newest_number(self) -> int:
        return self._readable.newest_number()

    def found(self, messages: Sequence[int]) -> tuple[tuple[ChatState, StoredMessage], ...]:
        return self._readable.found(messages)

    def probe(self) -> None:
        self._readable.probe()

    @property
    def _readable(self) -> Store:
        if self.unreadable:
            raise StorageUnavailable("as scripted")
        return self._store


class DelayedRunner:
    """`runner` with a delay: each call takes `seconds()`, half of it before the call and half after.

    Concurrent calls overtake each other, as reads in several threads do.
    """

    def __init__(self, runner: Runner, seconds: Callable[[], float]) -> None:
        self._runner = runner
        self._seconds = seconds

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        """As `Runner.run`. Once begun it is not cancelled: a thread can't be either."""
        half = self._seconds() / 2
        if meanwhile is not None:
            meanwhile()
        # Not cancelled once begun, as work in a thread isn't, so that the call takes the full time.
        with trio.CancelScope(shield=True):
            await trio.sleep(half)
            result = await self._runner.run(call)
            await trio.sleep(half)
        return result
