"""Looks for chats whose time has ended: unanswered, idle, and reserved ones. The rules decide what then happens.

The times are in the chats' rows: they survive a restart, and cost no memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

import attrs
import trio

from actorchat.actors import Actor
from actorchat.chat.ports import ChatReader, StorageUnavailable

__all__ = ["ReservedSweeper", "Sweep", "Sweeper"]

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
        self, chat_reader: ChatReader, sweep: Callable[[UUID], Awaitable[object]], clock: Callable[[], float]
    ) -> None:
        self._chat_reader, self._sweep, self._clock = chat_reader, sweep, clock

    async def on_start(self) -> None:
        self._started = self._clock()
        self._grace_ends = trio.current_time() + RETURN_GRACE
        self.every(INTERVAL, Sweep(), key="sweep")

    async def receive(self, message: Sweep) -> None:
        try:
            due = await self._chat_reader.due(self._clock(), AT_ONCE)
        except StorageUnavailable:
            return
        for chat in due:
            if trio.current_time() >= self._grace_ends or await self._began_since_start(chat):
                await self._sweep(chat)

    async def _began_since_start(self, chat: UUID) -> bool:
        try:
            found = await self._chat_reader.chat(chat)
        except StorageUnavailable:
            return False
        return found is not None and found.last_activity >= self._started


LONGEST_INTERVAL = 60.0
"""Seconds between two looks for reserved chats. Shorter times to live have shorter intervals."""


class ReservedSweeper(Actor[Sweep]):
    """Has reserved chats deleted that nothing was done with for `timeout` seconds, a few at a time.

    `expire(chats, before)` deletes those that are not in use; `clock` gives epoch seconds. Clients have
    `RETURN_GRACE` after a start to come back to their chats.
    """

    def __init__(
        self,
        chat_reader: ChatReader,
        expire: Callable[[Sequence[UUID], float], Awaitable[object]],
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._chat_reader, self._expire, self._timeout, self._clock = chat_reader, expire, timeout, clock

    async def on_start(self) -> None:
        self.after(RETURN_GRACE, Sweep(), key="sweep")

    async def receive(self, message: Sweep) -> None:
        before = self._clock() - self._timeout
        unused: tuple[UUID, ...] = ()
        with suppress(StorageUnavailable):
            unused = await self._chat_reader.unused(before, AT_ONCE)
        if unused:
            await self._expire(unused, before)
        more = len(unused) == AT_ONCE
        self.after(INTERVAL if more else self._interval, Sweep(), key="sweep")

    @property
    def _interval(self) -> float:
        return min(LONGEST_INTERVAL, max(INTERVAL, self._timeout / 10))
