"""Runs many seeds on all cores, one at a time in each process."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from itertools import islice

import attrs

from actorchat.testing.simulation.chat_world import play
from actorchat.testing.simulation.plan import make_plan

__all__ = ["SeedResult", "Totals", "run_seed", "run_seeds"]


@attrs.frozen(kw_only=True)
class SeedResult:
    """The result of one seed. `kind` is the kind of its violation, None if there was none. Times are in seconds."""

    seed: int
    digest: str
    kind: str | None = None
    detail: str = ""
    at: float = 0.0
    known: dict[str, int] = attrs.field(factory=dict)
    operations: int = 0
    commits: int = 0
    virtual: float = 0.0
    real: float = 0.0
    coverage: Counter[tuple[str, str]] = attrs.field(factory=Counter, repr=False)


@attrs.define
class Totals:
    """Sums over many seeds. `kinds` counts violations that ended a run, `known` the seeds with ignored ones."""

    seeds: int = 0
    operations: int = 0
    virtual: float = 0.0
    real: float = 0.0
    failed: list[SeedResult] = attrs.field(factory=list)
    known: Counter[str] = attrs.field(factory=Counter)
    coverage: Counter[tuple[str, str]] = attrs.field(factory=Counter)

    def add(self, result: SeedResult) -> None:
        self.seeds += 1
        self.operations += result.operations
        self.virtual += result.virtual
        self.real += result.real
        self.known.update(result.known.keys())
        self.coverage.update(result.coverage)
        if result.kind is not None:
            self.failed.append(result)


def run_seed(seed: int, *, known: Collection[str] = (), faults: Collection[str] | None = None) -> SeedResult:
    """Make the plan of a seed and run it."""
    played = play(make_plan(seed, faults=faults), known=known)
    verdict, violation = played.verdict, played.violation
    return SeedResult(
        seed=seed,
        digest=verdict.digest,
        kind=None if violation is None else violation.kind,
        detail="" if violation is None else violation.detail,
        at=0.0 if violation is None else violation.at,
        known=verdict.known,
        operations=played.operations,
        commits=played.commits,
        virtual=verdict.virtual,
        real=verdict.real,
        coverage=played.coverage,
    )


def run_seeds(
    seeds: Iterable[int],
    *,
    known: Collection[str] = (),
    faults: Collection[str] | None = None,
    jobs: int | None = None,
    run: Callable[..., SeedResult] = run_seed,
) -> Iterator[SeedResult]:
    """Yield the result of each seed as it is ready, in any order.

    `jobs` is the number of processes: None for one on each core, 1 for this process. Closing the iterator waits for
    the seeds that are running, and starts no others.
    """
    run = partial(run, known=known, faults=faults)
    jobs = jobs or len(os.sched_getaffinity(0))
    if jobs == 1:
        yield from map(run, seeds)
        return
    left = iter(seeds)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running: set[Future[SeedResult]] = {pool.submit(run, seed) for seed in islice(left, 2 * jobs)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(run, seed) for seed in islice(left, len(done))}
                for future in done:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()
