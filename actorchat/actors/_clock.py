"""Owns the waiting for moments: one task and one heap serve every timer, delay and ask deadline of a system.

Knows nothing of actors; what is due says itself what happens then.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Protocol

import attrs
import trio


class Due(Protocol):
    """What waits for a moment."""

    @property
    def live(self) -> bool: ...

    def fire(self, now: float) -> float | None:
        """Must not raise. A float is the next moment."""


@attrs.define(eq=False)
class Alarm:
    """One call at one moment."""

    ring: Callable[[], None]
    live: bool = True

    def fire(self, now: float) -> None:
        self.live = False
        self.ring()


class Clock:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Due]] = []
        self._order = count()
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

    async def run(self) -> None:
        """Until cancelled. Sleeps while nothing is due."""
        while True:
            while self._heap and not self._heap[0][2].live:
                heapq.heappop(self._heap)
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else inf) as self._pause:
                await trio.sleep_forever()
            self._fire(trio.current_time())

    def _fire(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            _, _, due = heapq.heappop(self._heap)
            again = due.fire(now) if due.live else None
            if again is not None:
                self.add(due, again)
