"""Counts observations in ranges of values, for metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import attrs

__all__ = ["Histogram", "HistogramSnapshot"]


@attrs.frozen
class HistogramSnapshot:
    """`buckets` has pairs of an upper bound (inclusive) and the number of observations up to it, in all.

    The last bound is infinity. `total` is the sum of all observed values.
    """

    buckets: tuple[tuple[float, int], ...]
    total: float

    @property
    def count(self) -> int:
        return self.buckets[-1][1]


class Histogram:
    """Observed values, counted in ranges that end at the ascending `bounds`."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def snapshot(self) -> HistogramSnapshot:
        bounds = (*self._bounds, float("inf"))
        return HistogramSnapshot(tuple(zip(bounds, accumulate(self._counts), strict=True)), self._total)
