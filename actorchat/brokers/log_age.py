"""Decides which entries of the commit log are too old to wait for a broker, whatever happens to the system's clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from actorchat.chat.commit_log import TooOld

__all__ = ["LogAge"]

GRACE: Final = 3_600.0
"""Seconds after the start in which entries of earlier runs do not expire, if `keep` is longer than that.

Their age is known by the system's clock only, which may have been set while no server ran. A broker that can be reached
has confirmed them by then.
"""

_MARKS: Final = 64
"""How many times within `keep` the newest entry is noted."""


class LogAge:
    """Finds entries that were logged more than `keep` seconds ago. `clock` gives epoch seconds.

    Entries of this run are judged by Trio's clock, which nobody can set. Entries of earlier runs are judged by their
    commit times, compared with the time of the start and what has passed since then.
    """

    def __init__(self, keep: float, clock: Callable[[], float]) -> None:
        self._keep = keep
        self._started_at = clock()
        self._began = trio.current_time()
        self._of_earlier_runs: int | None = None
        self._aged = 0
        # When an entry was the newest one.
        self._marks: deque[tuple[float, int]] = deque()

    def note(self, newest: int) -> None:
        """Note that `newest` is the newest entry now. The first note tells which entries are of earlier runs."""
        now = trio.current_time()
        if self._of_earlier_runs is None:
            self._of_earlier_runs = newest
        if not self._marks or now - self._marks[-1][0] >= self._keep / _MARKS:
            self._marks.append((now, newest))

    def expired(self) -> TooOld:
        """The entries that are too old now."""
        now = trio.current_time()
        while self._marks and now - self._marks[0][0] >= self._keep:
            _, self._aged = self._marks.popleft()
        passed = now - self._began
        upto = (self._of_earlier_runs or 0) if passed >= min(GRACE, self._keep) else 0
        return TooOld(self._aged, upto, self._started_at + passed - self._keep)
