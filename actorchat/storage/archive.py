"""Owns the chat's way to read: `actorchat.chat.ports.Archive` over any store and `Runner`.

Knows no particular store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TypeVar
from uuid import UUID

import trio

from actorchat.chat.model import ChatState, Identity, PersonRecord
from actorchat.chat.ports import PAGE_BYTES, ChatFilter, ChatPage, FeedSnapshot, OperatorRecord, Page
from actorchat.protocol import Role
from actorchat.storage.store import Reads
from actorchat.storage.threads import Runner

__all__ = ["StoreArchive"]

T = TypeVar("T")


class StoreArchive:
    """Runs each read of `store` in `runner`."""

    def __init__(self, store: Reads, runner: Runner) -> None:
        self._store = store
        self._runner = runner

    async def _run(self, read: Callable[[], T]) -> T:
        # What runs a read is never cancelled and may not yield; a caller that pages must do both. It yields after the
        # read, so that in memory, too, what was read may be old by the time it is used.
        await trio.lowlevel.checkpoint_if_cancelled()
        found = await self._runner.run(read)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return found

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

    async def chats(self, which: ChatFilter) -> ChatPage:
        return await self._run(partial(self._store.chats, which))

    async def person(self, identity: Identity) -> PersonRecord | None:
        return await self._run(partial(self._store.person, identity))

    async def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        return await self._run(partial(self._store.operators, sources))

    async def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        return await self._run(partial(self._store.feed_snapshot, sources, limit))

    async def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        return await self._run(partial(self._store.unused, before, limit))

    async def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        return await self._run(partial(self._store.due, now, limit))
