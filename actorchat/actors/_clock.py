"""Owns the waiting for moments: one task and one heap serve every timer and every ask deadline of a system.

Knows nothing of actors; what is due says itself what happens then.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import ceil, inf
from typing import Protocol

import trio

from actorchat.actors._errors import AskTimeout
from actorchat.actors._message import Call

__all__ = ["Clock", "Due"]

GRAIN = 0.05
"""Seconds of one bucket of ask deadlines: an ask times out at most this much late, never early."""


class Due(Protocol):
    """What waits for a moment."""

    @property
    def live(self) -> bool: ...

    def fire(self, now: float) -> float | None:
        """Must not raise. A float is the next moment."""


class _Bucket(dict[Call, None]):
    """The asks whose deadlines lie in one grain."""

    @property
    def live(self) -> bool:
        return bool(self)

    def fire(self, now: float) -> None:
        for call in list(self):
            target = call.target
            call.fail(AskTimeout(target.name, type(call.message), target._inbox.queued, begun=call.begun))


class Clock:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Due]] = []
        self._order: Iterator[int] = iter(range(1 << 62))
        self._buckets: dict[int, _Bucket] = {}
        self._pause = trio.CancelScope()
        self._dead = 0

    def add(self, due: Due, moment: float) -> None:
        heapq.heappush(self._heap, (moment, next(self._order), due))
        if moment < self._pause.deadline:
            self._pause.deadline = moment

    def discard(self) -> None:
        """Something that was added is no longer live. Its entry goes when it is due, or when most are dead."""
        self._dead += 1
        if self._dead > 256 and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].live]
            heapq.heapify(self._heap)
            self._dead = 0

    def expire(self, call: Call) -> None:
        """Fail `call` with `AskTimeout` at its deadline, unless it has ended before."""
        tick = ceil(call.deadline / GRAIN)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = _Bucket()
            self.add(bucket, tick * GRAIN)
        bucket[call] = None
        call.bucket = bucket

    async def run(self) -> None:
        """Until cancelled. Sleeps while nothing is due."""
        while True:
            with trio.CancelScope(deadline=self._next()) as self._pause:
                await trio.sleep_forever()
            self._fire(trio.current_time())

    def _next(self) -> float:
        heap = self._heap
        while heap and not heap[0][2].live:
            heapq.heappop(heap)
        return heap[0][0] if heap else inf

    def _fire(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, due = heapq.heappop(heap)
            if due.live:
                again = due.fire(now)
                if again is not None:
                    self.add(due, again)
        passed = now / GRAIN
        for tick in [tick for tick in self._buckets if tick <= passed]:
            del self._buckets[tick]
