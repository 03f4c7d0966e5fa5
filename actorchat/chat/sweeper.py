"""Owns the looking for chats whose time has come: unanswered or idle. What then happens the rules decide.

The timers are `due_at` in the chats' rows: they survive a restart, and cost no memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import attrs

from actorchat.actors import Actor
from actorchat.chat.ports import Archive, StorageUnavailable

__all__ = ["Sweep", "Sweeper"]

INTERVAL = 1.0
"""Seconds between two looks."""

AT_ONCE = 100
"""Chats swept in one look; the rest come with the next."""


@attrs.frozen
class Sweep:
    """It is time to look."""


class Sweeper(Actor[Sweep]):
    """`sweep(chat)` lets the chat's room decide; `clock` gives epoch seconds."""

    def __init__(
        self, archive: Archive, sweep: Callable[[UUID], Awaitable[object]], clock: Callable[[], float]
    ) -> None:
        self._archive, self._sweep, self._clock = archive, sweep, clock

    async def on_start(self) -> None:
        self.every(INTERVAL, Sweep(), key="sweep")

    async def receive(self, message: Sweep) -> None:
        try:
            due = await self._archive.due(self._clock(), AT_ONCE)
        except StorageUnavailable:
            return
        for chat in due:
            await self._sweep(chat)
