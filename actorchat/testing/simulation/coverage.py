"""Counts how often each operation happened during each kind of fault, and shows a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

__all__ = ["Coverage", "coverage_table"]

_CALM: Final = "no fault"


class Coverage:
    """The counts of one run. An operation counts for every fault that is active when it begins."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._until: dict[str, float] = {}

    def fault(self, kind: str, until: float) -> None:
        """Count operations for the fault `kind` until the time `until`."""
        self._until[kind] = max(self._until.get(kind, -inf), until)

    def operation(self, name: str, now: float) -> None:
        met = [kind for kind, until in self._until.items() if now <= until]
        self.counts.update((kind, name) for kind in met or (_CALM,))


def coverage_table(counts: Counter[tuple[str, str]], faults: Iterable[str], operations: Iterable[str]) -> Table:
    """A table with a row for each operation and a column for each fault; zeros are red."""
    columns = (_CALM, *faults)
    table = Table(title="How often each operation met each fault", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("operation", no_wrap=True, vertical="bottom")
    for fault in columns:
        # Names are written vertically, so that the table fits into 80 columns.
        table.add_column("\n".join(fault), justify="right", no_wrap=True, vertical="bottom")
    for operation in operations:
        cells = [counts[fault, operation] for fault in columns]
        table.add_row(operation, *(_number(times) for times in cells))
    return table


def _number(times: int) -> str:
    if not times:
        return "[red]0[/red]"
    return str(times) if times < 1_000 else f"{times // 1_000}k"
