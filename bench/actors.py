"""Runs the cases of the actor core, plain Trio and other actor libraries, in units of one checkpoint."""

from __future__ import annotations

import gc
import statistics

from bench.actor_cases import Case, checkpoint_seconds, memory_cases, trio_cases
from bench.actor_libraries import ABSENT_HINTS, library_cases
from bench.report import Runs
from bench.run_plan import Plan

__all__ = ["actors"]

_KIB = 1024


def actors(plan: Plan) -> None:
    """The actor core beside plain Trio and other actor libraries, in units of one checkpoint."""
    scale = 0.05 if plan.quick else 1.0
    peers, absent = library_cases(scale)
    for name in absent:
        plan.report.leave_out(name, f"not installed ({ABSENT_HINTS[name]})")
    cases = trio_cases(scale) + peers
    memory = memory_cases()
    runs: dict[str, Runs] = {}
    for case in cases + memory:
        unit = "KiB" if case in memory else "checkpoints"
        if case.what not in runs:
            runs[case.what] = plan.report.runs(case.what, unit, less=True)
        if case.bar is not None:
            bar = case.bar / _KIB if case in memory else case.bar
            plan.report.ask_value(f"{case.what}, {unit}", case.what, case.who, bar, most=True, timed=case not in memory)
    _measure(plan, cases, runs, scale)
    for case in memory:
        runs[case.what].add(case.who, case.measure() / _KIB)


def _measure(plan: Plan, cases: list[Case], runs: dict[str, Runs], scale: float) -> None:
    """Measure the unit before and after each case, because machines that share their cores change their speed."""
    count = max(round(15_000 * scale), 100)
    unit = checkpoint_seconds(count)
    left = dict.fromkeys(cases)
    for _ in plan.each_round("actors", steps=len(left)):
        for case in list(left):
            plan.step(f"actors: {case.what}: {case.who}")
            # Keep the objects of earlier cases and imports out of this case's garbage collections.
            gc.collect()
            gc.freeze()
            try:
                seconds = case.measure()
            except Exception as error:
                if not case.optional:
                    raise
                del left[case]
                plan.report.leave_out(f"{case.who}, {case.what}", f"failed ({error!r})")
                continue
            before, unit = unit, checkpoint_seconds(count)
            runs[case.what].add(case.who, seconds / statistics.mean((before, unit)))
