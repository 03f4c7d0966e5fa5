"""Provides a Trio clock that does not count the time in which the process was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from trio.abc import Clock

__all__ = ["SLACK", "SteadyClock"]

SLACK: Final = 2.0
"""Seconds that one scheduler pass may take. Time beyond that is not counted."""


class SteadyClock(Clock):
    """Counts the seconds of `raw`, without gaps in which this process did not run.

    After SIGSTOP, or in a container or virtual machine that was paused, all deadlines within the gap would pass at
    once: connections would be closed although requests wait to be read, and the grace periods of reconnecting users
    would be over. Trio reads its clock in every pass and computes a timeout before it waits. Time that passes beyond
    that timeout and `SLACK` is a gap.
    """

    __slots__ = ("_expected", "_left_out", "_raw")

    def __init__(self, raw: Callable[[], float] = time.perf_counter) -> None:
        self._raw = raw
        self._left_out = 0.0
        # Trio reads the clock again before this moment, unless the process is stopped.
        self._expected = raw() + SLACK

    def start_clock(self) -> None:
        self._expected = self._raw() + SLACK

    def current_time(self) -> float:
        now = self._raw()
        if now > self._expected:
            self._left_out += now - self._expected
        self._expected = now + SLACK
        return now - self._left_out

    def deadline_to_sleep_time(self, deadline: float) -> float:
        sleep = deadline - self.current_time()
        if sleep > 0:
            self._expected += sleep
        return sleep
