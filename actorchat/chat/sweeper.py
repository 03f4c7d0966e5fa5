"""Finds chats whose answer, idle or reservation time is over, and has each decided by its room.

The times are in the chats' rows, so they survive a restart and take no memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

import attrs
import trio

from actorchat.actors import Actor
from actorchat.chat.ports import ChatReader, StorageUnavailable

__all__ = ["AT_ONCE", "RETURN_GRACE", "Backoff", "ReservedSweeper", "Sweep", "Sweeper", "is_alone"]

INTERVAL = 1.0
"""Seconds between two sweeps."""

AT_ONCE = 100
"""How many chats one sweep handles."""

MAX_BACKOFF = 60.0
"""The longest time in seconds for which a chat that cannot be swept is skipped."""

MAX_SKIPPED = 10_000
"""How many chats can be skipped at the same time; further ones are tried again in each sweep."""

RETURN_GRACE = 30.0
"""Seconds after a start in which timers from before the start do not expire, so that users can reconnect and write."""


@attrs.frozen
class Sweep:
    """The timer message that starts a sweep."""


@attrs.frozen
class _Retry:
    not_before: float
    delay: float


async def is_alone() -> bool:
    """True: a node that is alone does everything itself."""
    await trio.lowlevel.checkpoint()
    return True


class Backoff:
    """Selects the chats of a sweep, and lets those that are found again and again wait ever longer.

    Otherwise chats that always fail would be the first in each sweep, and others would never get their turn.
    """

    def __init__(self) -> None:
        self._retries: dict[UUID, _Retry] = {}

    @property
    def limit(self) -> int:
        """How many chats to read for the next `select`."""
        return AT_ONCE + len(self._retries)

    def select(self, found: Sequence[UUID]) -> list[UUID]:
        """Return the chats of `found` to sweep now, at most `AT_ONCE`. A chat that was not found has succeeded."""
        now = trio.current_time()
        retries = self._retries
        self._retries = {chat: retries[chat] for chat in found if chat in retries}
        selected: list[UUID] = []
        for chat in found:
            retry = self._retries.get(chat)
            if retry is not None and now < retry.not_before:
                continue
            selected.append(chat)
            delay = INTERVAL if retry is None else min(2 * retry.delay, MAX_BACKOFF)
            if retry is not None or len(self._retries) < MAX_SKIPPED:
                self._retries[chat] = _Retry(now + delay, delay)
            if len(selected) == AT_ONCE:
                break
        return selected


class Sweeper(Actor[Sweep]):
    """Sweeps chats whose timer has expired. `sweep(chat)` has the room decide; `clock` returns epoch seconds.

    `holds()` says whether this node sweeps, and not another one.
    """

    _grace_ends: float
    _started: float

    def __init__(
        self,
        chat_reader: ChatReader,
        sweep: Callable[[UUID], Awaitable[object]],
        clock: Callable[[], float],
        holds: Callable[[], Awaitable[bool]] = is_alone,
    ) -> None:
        self._chat_reader, self._sweep, self._clock, self._holds = chat_reader, sweep, clock, holds
        self._backoff = Backoff()

    async def on_start(self) -> None:
        self._started = self._clock()
        self._grace_ends = trio.current_time() + RETURN_GRACE
        self.every(INTERVAL, Sweep(), key="sweep")

    async def receive(self, message: Sweep) -> None:
        if not await self._holds():
            return
        try:
            due = await self._chat_reader.due(self._clock(), self._backoff.limit)
        except StorageUnavailable:
            return
        if trio.current_time() < self._grace_ends:
            due = tuple([chat for chat in due if await self._began_since_start(chat)])
        for chat in self._backoff.select(due):
            await self._sweep(chat)

    async def _began_since_start(self, chat: UUID) -> bool:
        try:
            found = await self._chat_reader.chat(chat)
        except StorageUnavailable:
            return False
        return found is not None and found.last_activity >= self._started


MAX_INTERVAL = 60.0
"""The longest time in seconds between two sweeps of reserved chats; a short timeout has shorter intervals."""


class ReservedSweeper(Actor[Sweep]):
    """Deletes reserved chats that were unused for `timeout` seconds, a limited number at a time.

    `expire(chats, before)` deletes those that are still unused; `clock` returns epoch seconds. `holds()` says whether
    this node sweeps, and not another one. The first sweep is
    `RETURN_GRACE` seconds after the start, so that clients can reconnect to their chats.
    """

    def __init__(
        self,
        chat_reader: ChatReader,
        expire: Callable[[Sequence[UUID], float], Awaitable[object]],
        timeout: float,
        clock: Callable[[], float],
        holds: Callable[[], Awaitable[bool]] = is_alone,
    ) -> None:
        self._chat_reader, self._expire, self._timeout, self._clock = chat_reader, expire, timeout, clock
        self._holds = holds
        self._backoff = Backoff()

    async def on_start(self) -> None:
        self.after(RETURN_GRACE, Sweep(), key="sweep")

    async def receive(self, message: Sweep) -> None:
        before = self._clock() - self._timeout
        unused: list[UUID] = []
        if await self._holds():
            with suppress(StorageUnavailable):
                unused = self._backoff.select(await self._chat_reader.unused(before, self._backoff.limit))
        if unused:
            await self._expire(unused, before)
        more = len(unused) == AT_ONCE
        self.after(INTERVAL if more else self._interval, Sweep(), key="sweep")

    @property
    def _interval(self) -> float:
        return min(MAX_INTERVAL, max(INTERVAL, self._timeout / 10))
