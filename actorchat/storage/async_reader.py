"""Reads chats from any store in reader threads, and notices when nothing can be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial
from math import inf
from typing import Final, TypeVar
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
    Upload,
)
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
from actorchat.storage.database_files import FilesChanged
from actorchat.storage.store import Reads
from actorchat.storage.worker_threads import Runner

__all__ = ["AsyncReader"]

_log = logging.getLogger("actorchat.storage")

_PROBE_PERIOD: Final = 1.0
_WARNING_PERIOD: Final = 60.0

T = TypeVar("T")


class AsyncReader:
    """`actorchat.chat.ports.ChatReader`: runs each method of `Reads` in `runner`.

    If a read fails, `Store.probe` finds out whether storage as a whole can't be read. Then `unreadable` is true until a
    probe succeeds. Each such outage is logged once, and single reads that fail otherwise once a minute.
    """

    def __init__(self, store: Reads, runner: Runner) -> None:
        self._store = store
        self._runner = runner
        self._begun = trio.Event()
        self._probing = False
        self._warned_at = -inf

    @property
    def unreadable(self) -> bool:
        return self._begun.is_set()

    async def chat(self, chat: UUID) -> ChatState | None:
        return await self._run(partial(self._store.chat, chat))

    async def newest(
        self, chat: UUID, role: Role, *, before: int | None, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        return await self._run(partial(self._store.newest, chat, role, before=before, limit=limit, size=size))

    async def after(self, chat: UUID, role: Role, *, after: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        return await self._run(partial(self._store.after, chat, role, after=after, limit=limit, size=size))

    async def since(self, chat: UUID, *, rev: int, limit: int) -> Page | None:
        return await self._run(partial(self._store.since, chat, rev=rev, limit=limit))

    async def authored(
        self, chat: UUID, author_role: Role, *, after: int, upto: int, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        return await self._run(
            partial(self._store.authored, chat, author_role, after=after, upto=upto, limit=limit, size=size)
        )

    async def edited(self, chat: UUID, *, rev: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        return await self._run(partial(self._store.edited, chat, rev=rev, limit=limit, size=size))

    async def located(self, message_id: int) -> tuple[UUID, int] | None:
        return await self._run(partial(self._store.located, message_id))

    async def chats(self, which: ChatFilter) -> ChatPage:
        return await self._run(partial(self._store.chats, which))

    async def summaries(self, chats: Collection[UUID]) -> tuple[SummaryRecord, ...]:
        return await self._run(partial(self._store.summaries, chats))

    async def person(self, identity: Identity) -> PersonRecord | None:
        return await self._run(partial(self._store.person, identity))

    async def people(self, identities: Collection[Identity]) -> tuple[PersonRecord, ...]:
        return await self._run(partial(self._store.people, identities))

    async def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        return await self._run(partial(self._store.operators, sources))

    async def accounts(self) -> tuple[Account, ...]:
        return await self._run(self._store.accounts)

    async def blocks(self) -> tuple[Block, ...]:
        return await self._run(self._store.blocks)

    async def sources(self, limit: int) -> tuple[str, ...]:
        return await self._run(partial(self._store.sources, limit))

    async def tag_counts(self, sources: Collection[str], limit: int) -> tuple[tuple[str, int], ...]:
        return await self._run(partial(self._store.tag_counts, sources, limit))

    async def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        return await self._run(partial(self._store.feed_snapshot, sources, limit))

    async def past_retention(self, retention: Retention, now: float, limit: int) -> tuple[tuple[UUID, float], ...]:
        return await self._run(partial(self._store.past_retention, retention, now, limit))

    async def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        return await self._run(partial(self._store.unused, before, limit))

    async def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        return await self._run(partial(self._store.due, now, limit))

    async def documents(self, kind: DocumentKind, scope: str) -> tuple[tuple[str, str], ...]:
        return await self._run(partial(self._store.documents, kind, scope))

    async def uploads(self, files: Collection[UUID]) -> tuple[Upload, ...]:
        return await self._run(partial(self._store.uploads, files))

    async def unbound_uploads(self, before: float, limit: int) -> tuple[UUID, ...]:
        return await self._run(partial(self._store.unbound_uploads, before, limit))

    async def audits(self, before: int, limit: int) -> tuple[AuditEntry, ...]:
        return await self._run(partial(self._store.audits, before, limit))

    async def written_by(self, author: Identity, after: int, limit: int) -> tuple[tuple[UUID, int], ...]:
        return await self._run(partial(self._store.written_by, author, after, limit))

    async def uploads_of(self, uploader: Identity) -> tuple[UUID, ...]:
        return await self._run(partial(self._store.uploads_of, uploader))

    async def watch(self) -> None:
        """Probe once a second during an outage, until cancelled. Only this ends an outage."""
        while True:
            await self._begun.wait()
            await trio.sleep(_PROBE_PERIOD)
            try:
                await self._runner.run(self._store.probe)
            except StorageUnavailable:
                continue
            self._begun = trio.Event()
            _log.warning("storage can be read again")

    async def _run(self, read: Callable[[], T]) -> T:
        # A runner is never cancelled and may not yield, but a caller that reads many pages needs both. This yields
        # after the read, so that with the memory store, too, the result may be old when it is used.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            found = await self._runner.run(read)
        except StorageUnavailable as error:
            if not isinstance(error, FilesChanged):
                # Changed files are reported by the writer.
                await self._judge(str(error))
            raise
        await trio.lowlevel.cancel_shielded_checkpoint()
        return found

    async def _judge(self, failure: str) -> None:
        """Find out whether only this read fails, with `failure`, or all reads do."""
        if self._probing or self.unreadable:
            return
        self._probing = True
        try:
            await self._runner.run(self._store.probe)
        except FilesChanged:
            return
        except StorageUnavailable as error:
            self._begun.set()
            _log.error("storage can't be read: %s", str(error))
        else:
            if trio.current_time() - self._warned_at >= _WARNING_PERIOD:
                self._warned_at = trio.current_time()
                _log.error("a read failed while others work, the database may be damaged: %s", failure)
        finally:
            self._probing = False
