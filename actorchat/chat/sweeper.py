"""Looks every second for chats whose timer has ended: unanswered or idle ones. The rules decide what then happens.

The timers are `due_at` in the chats' rows: they survive a restart, and cost no memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import attrs
import trio

from actorchat.actors import Actor
from actorchat.chat.ports import Archive, StorageUnavailable

__all__ = ["Sweep", "Sweeper"]

INTERVAL = 1.0
"""Seconds between two looks."""

AT_ONCE = 100
"""Chats swept in one look; the rest come with the next."""

RETURN_GRACE = 30.0
"""Seconds after a start during which timers from before it don't end: nobody could write while the server was away."""


@attrs.frozen
class Sweep:
    """It is time to look."""


class Sweeper(Actor[Sweep]):
    """`sweep(chat)` lets the chat's room decide; `clock` gives epoch seconds."""

    _grace_ends: float
    _started: float

    def __init__(
        self, archive: Archive, sweep: Callable[[UUID], Awaitable[object]], clock: Callable[[], float]
    ) -> None:
        self._archive, self._sweep, self._clock = archive, sweep, clock

    async def on_start(self) -> None:
        self._started = self._clock()
        self._grace_ends = trio.current_time() + RETURN_GRACE
        self.every(INTERVAL, Sweep(), key="sweep")

    async def receive(self, message: Sweep) -> None:
        try:
            due = await self._archive.due(self._clock(), AT_ONCE)
        except StorageUnavailable:
            return
        for chat in due:
            if trio.current_time() >= self._grace_ends or await self._began_since_start(chat):
                await self._sweep(chat)

    async def _began_since_start(self, chat: UUID) -> bool:
        try:
            found = await self._archive.chat(chat)
        except StorageUnavailable:
            return False
        return found is not None and found.last_activity >= self._started
