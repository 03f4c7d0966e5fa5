"""Measures how noisy the machine is: the variation of a short loop, and the CPU time that others use."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

__all__ = ["Noise", "measure_noise", "typical"]

LOOP_SECONDS: Final = 0.004
REPEATS: Final = 40
"""The number of loops on each core that benchmarks use: a third of a second in total."""

MOST_SPREAD: Final = 0.20
MOST_OTHERS: Final = 0.20
MOST_STEAL: Final = 0.05
"""Above any of these the machine is too noisy for repeatable results."""

_STAT: Final = Path("/proc/stat")


@attrs.frozen
class Noise:
    """What disturbed a loop of constant work, each as a share from 0 to 1.

    `spread` is by how much the slowest tenth of the loops exceeded the fastest one, at least. `others` is the CPU time
    that other processes used on the same cores, `steal` what the hypervisor gave to other machines.
    """

    spread: float
    others: float
    steal: float

    @property
    def too_noisy(self) -> bool:
        return self.spread > MOST_SPREAD or self.others > MOST_OTHERS or self.steal > MOST_STEAL

    def __str__(self) -> str:
        return (
            f"one loop in ten took {self.spread:.0%} longer, others used {self.others:.0%}, {self.steal:.0%} was stolen"
        )


def typical(samples: Sequence[Noise]) -> Noise:
    """The medians of several samples, since results are medians too: one bad moment does not spoil a run."""

    def middle(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    return Noise(
        middle([each.spread for each in samples]),
        middle([each.others for each in samples]),
        middle([each.steal for each in samples]),
    )


def measure_noise() -> Noise:
    """Measure for a third of a second. Nothing else of the benchmark may run meanwhile."""
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    spread = 0.0
    gc.disable()
    ticks, began, ours = _ticks(before), time.perf_counter(), time.process_time()
    try:
        # Servers run on the first core, the load generator on the last.
        for core in {cores[0], cores[-1]}:
            with suppress(OSError):
                os.sched_setaffinity(0, {core})
            times = sorted(_loops())
            spread = max(spread, times[-len(times) // 10] / times[0] - 1)
    finally:
        os.sched_setaffinity(0, before)
        gc.enable()
    elapsed, used = time.perf_counter() - began, time.process_time() - ours
    after = _ticks(before)
    if ticks is None or after is None:
        return Noise(spread, 0.0, 0.0)
    whole = elapsed * len(before)
    return Noise(spread, max(after[0] - ticks[0] - used, 0.0) / whole, (after[1] - ticks[1]) / whole)


def _loops() -> list[float]:
    count, seconds = 1000, 0.0
    while seconds < LOOP_SECONDS:
        count *= 2
        seconds = _loop(count)
    return [_loop(count) for _ in range(REPEATS)]


def _loop(count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        pass
    return time.perf_counter() - began


def _ticks(cores: Collection[int]) -> tuple[float, float] | None:
    """The busy and the stolen seconds of `cores` since the machine started; None if the system does not count them."""
    try:
        lines = [line.split() for line in _STAT.read_text().splitlines()]
    except OSError:
        return None
    busy = stolen = 0
    for name, *fields in lines:
        if name.removeprefix("cpu") in map(str, cores) and name.startswith("cpu"):
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            busy += user + nice + system + irq + softirq
            stolen += steal
    hertz = os.sysconf("SC_CLK_TCK")
    return busy / hertz, stolen / hertz
