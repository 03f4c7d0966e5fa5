"""Computes the delays of exponential backoff with full jitter."""

from random import Random

import attrs


@attrs.define
class Backoff:
    """Exponential backoff: ``random * min(cap, base * 2**n)`` seconds after n earlier failures in a row.

    Full jitter spreads clients that lost the same server evenly over the whole interval.
    """

    random: Random
    base: float = 0.5
    cap: float = 30.0
    _failures: int = attrs.field(default=0, init=False)

    def next_delay(self, at_least: float | None = None) -> float:
        """Count a failure and return the seconds to wait, at least ``at_least``."""
        ceiling = min(self.cap, self.base * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return max(self.random.uniform(0.0, ceiling), at_least or 0.0)

    def reset(self) -> None:
        """Start again from the shortest delay, after a success."""
        self._failures = 0
