"""Timers and deadlines of a system: one task and one heap for all of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from math import inf

import attrs
import trio


@attrs.define(eq=False)
class Alarm:
    """One call at a given time, unless it is cancelled first."""

    ring: Callable[[], object] | None
    """Must not raise."""
    _clock: Clock

    def cancel(self) -> None:
        if self.ring is not None:
            self.ring = None
            self._clock._forget_one()


class Clock:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._directive = count()
        self._pause = trio.CancelScope()
        self._dead = 0

    def at(self, moment: float, ring: Callable[[], object]) -> Alarm:
        alarm = Alarm(ring, self)
        heapq.heappush(self._heap, (moment, next(self._directive), alarm))
        if moment < self._pause.deadline:
            self._pause.deadline = moment
        return alarm

    def _forget_one(self) -> None:
        """Count a cancelled alarm. Its entry is removed when it is due, or when most entries are cancelled."""
        self._dead += 1
        if self._dead > 256 and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].ring is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    async def run(self) -> None:
        """Call alarms when they are due, until cancelled."""
        while True:
            self._ring(trio.current_time())
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else inf) as self._pause:
                await trio.sleep_forever()

    def _ring(self, now: float) -> None:
        # A separate frame: `run` sleeps, and its frame would keep the last alarm alive.
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].ring is None):
            alarm = heapq.heappop(self._heap)[2]
            ring, alarm.ring = alarm.ring, None
            if ring is not None:
                ring()
