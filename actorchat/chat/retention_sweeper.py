"""Deletes closed chats that were inactive for the time that their source keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID

import trio

from actorchat.actors import Actor
from actorchat.chat.model import Retention
from actorchat.chat.operations import Expired
from actorchat.chat.ports import ChatReader, StorageUnavailable
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.chat.sweeper import RETURN_GRACE, Backoff, Sweep, is_alone

__all__ = ["RetentionSweeper"]

INTERVAL = 600.0
"""Seconds between two runs."""

BUSY_SECONDS = 0.1
MOST_BUSY = 50
"""A deletion waits this often for `BUSY_SECONDS` while operations of users wait, so that it does not delay them."""


class RetentionSweeper(Actor[Sweep]):
    """Deletes old chats, one in a transaction, in runs. `clock` returns epoch seconds.

    `remove(chat, before, record)` deletes a chat that is still closed and inactive since `before`, and adds it to the
    run's audit record in the same transaction. So a run that is cut off has a complete record. `is_busy` says whether
    operations of users wait, `holds()` whether this node sweeps, and not another one. The first run is `RETURN_GRACE`
    seconds after the start, when clients are back in rooms.
    """

    def __init__(
        self,
        chat_reader: ChatReader,
        remove: Callable[[UUID, float, AuditEntry], Awaitable[Expired | None]],
        retention: Retention,
        is_busy: Callable[[], bool],
        clock: Callable[[], float],
        holds: Callable[[], Awaitable[bool]] = is_alone,
    ) -> None:
        self._chat_reader, self._remove, self._retention = chat_reader, remove, retention
        self._is_busy, self._clock, self._holds = is_busy, clock, holds
        self._backoff = Backoff()

    async def on_start(self) -> None:
        self.after(RETURN_GRACE, Sweep(), key="sweep")

    async def receive(self, message: Sweep) -> None:
        started = self._clock()
        counts: Counter[str] = Counter()
        while await self._holds() and (selected := await self._select(started)):
            for chat, before in selected:
                await self._wait_idle()
                record = AuditEntry(int(started), "retention", AuditAction.RETENTION, None, dict(counts))
                removed = await self._remove(chat, before, record)
                if removed is not None:
                    counts.update(chats=1, messages=removed.messages, files=len(removed.files))
        self.after(INTERVAL, Sweep(), key="sweep")

    async def _select(self, now: float) -> list[tuple[UUID, float]]:
        try:
            past = dict(await self._chat_reader.past_retention(self._retention, now, self._backoff.limit))
        except StorageUnavailable:
            return []
        return [(chat, past[chat]) for chat in self._backoff.select(list(past))]

    async def _wait_idle(self) -> None:
        for _ in range(MOST_BUSY):
            if not self._is_busy():
                return
            await trio.sleep(BUSY_SECONDS)
