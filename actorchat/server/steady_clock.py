"""A clock for Trio that leaves out the time in which the process was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from trio.abc import Clock

__all__ = ["SLACK", "SteadyClock"]

SLACK: Final = 2.0
"""Seconds that one step of the program may take; what it takes beyond that is not counted."""


class SteadyClock(Clock):
    """Counts seconds as `raw` does, but for those in which this process could do nothing.

    After SIGSTOP, a paused container or virtual machine, all deadlines that lie in the gap would pass at once: idle
    connections would be closed over requests that wait to be read, people who are reconnecting would be gone, and
    operators would lose their chats. Trio looks at its clock in every step, and says before it waits for how long: so
    a gap is what passes beyond that and `SLACK`.
    """

    __slots__ = ("_expected", "_left_out", "_raw")

    def __init__(self, raw: Callable[[], float] = time.perf_counter) -> None:
        self._raw = raw
        self._left_out = 0.0
        # When `raw` has to be looked at again at the latest.
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
