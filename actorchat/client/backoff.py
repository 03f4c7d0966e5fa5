"""Owns how long to wait before the next attempt: full jitter under a doubling ceiling.

Refuses to know clocks and what is attempted.
"""

from random import Random

import attrs


@attrs.define
class Backoff:
    """Delays of ``random * min(cap, base * 2**n)`` seconds for the n-th failure in a row.

    Full jitter spreads a crowd that lost one server evenly over the whole ceiling.
    """

    random: Random
    base: float = 0.5
    cap: float = 30.0
    _failures: int = attrs.field(default=0, init=False)

    def next_delay(self, at_least: float | None = None) -> float:
        """Count a failure; seconds to wait now, never less than ``at_least``."""
        ceiling = min(self.cap, self.base * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return max(self.random.uniform(0.0, ceiling), at_least or 0.0)

    def reset(self) -> None:
        """It worked: the next failure is the first again."""
        self._failures = 0
