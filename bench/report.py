"""Owns what is shown of a run: one table of figures, the bars with their verdicts, JSON, Markdown and plots.

Knows no server and measures nothing.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import trio
from rich.console import Console
from rich.table import Table

__all__ = ["Bar", "Figure", "Report"]


@attrs.frozen
class Figure:
    """What one server reached in one case, in each round. `load` is the generator's share of its core, the highest."""

    case: str
    who: str
    unit: str
    values: tuple[float, ...]
    load: float | None = None
    less: bool = False
    """Less is better."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@attrs.frozen
class Bar:
    """What is asked: a value, mostly a ratio of two figures of one run, that is at least or at most `bound`."""

    what: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def held(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def verdict(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}: {'held' if self.held else 'NOT HELD'}"


@attrs.define
class Report:
    command: str = attrs.Factory(lambda: " ".join(["python -m bench", *sys.argv[1:]]))
    figures: list[Figure] = attrs.Factory(list)
    bars: list[Bar] = attrs.Factory(list)
    left_out: list[str] = attrs.Factory(list)

    def figure(self, case: str, who: str) -> Figure | None:
        return next((each for each in self.figures if (each.case, each.who) == (case, who)), None)

    def ask(
        self, what: str, case: str, who: str, yardstick: tuple[str, str], bound: float, *, most: bool = False
    ) -> None:
        """A bar on the ratio of two figures, if both were measured."""
        ours, theirs = self.figure(case, who), self.figure(*yardstick)
        if ours is not None and theirs is not None and theirs.median:
            self.bars.append(Bar(what, ours.median / theirs.median, bound, at_least=not most))

    def ask_value(self, what: str, case: str, who: str, bound: float, *, most: bool = False) -> None:
        """A bar on a figure itself."""
        ours = self.figure(case, who)
        if ours is not None:
            self.bars.append(Bar(what, ours.median, bound, at_least=not most))

    def leave_out(self, line: str) -> None:
        if line not in self.left_out:
            self.left_out.append(line)

    def show(self) -> None:
        # A file or a pipe has no width of its own.
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(self._table())
        if self.bars:
            table = Table("asked", "measured", "bar")
            for bar in self.bars:
                table.add_row(bar.what, _number(bar.value), f"[{'green' if bar.held else 'red'}]{bar.verdict}[/]")
            console.print(table)
        for line in self.left_out:
            console.print(f"left out: {line}", markup=False, highlight=False)

    def _table(self) -> Table:
        table = Table("", "who", title=_machine(), title_justify="left")
        for head in ("median", "lowest to highest", "x actorchat", "load's core"):
            table.add_column(head, justify="right")
        before = ""
        for row in self._rows():
            if before and row[0] != before:
                table.add_section()
            table.add_row("" if row[0] == before else row[0], *row[1:])
            before = row[0]
        return table

    def _rows(self) -> list[tuple[str, str, str, str, str, str]]:
        rows = []
        cases = list(dict.fromkeys(figure.case for figure in self.figures))
        for case in cases:
            ours = self.figure(case, "actorchat")
            for figure in self._best_first(case):
                low, high = min(figure.values), max(figure.values)
                ratio = f"{figure.median / ours.median:.2f}" if ours is not None and ours.median else ""
                load = "" if figure.load is None else f"{figure.load:.0%}"
                spread = f"{_number(low)} to {_number(high)}"
                rows.append((f"{case}, {figure.unit}", figure.who, _number(figure.median), spread, ratio, load))
        return rows

    def _best_first(self, case: str) -> list[Figure]:
        figures = [each for each in self.figures if each.case == case]
        return sorted(figures, key=lambda each: each.median if each.less else -each.median)

    def json(self) -> str:
        data = {"command": self.command, "machine": _machine(), "left_out": self.left_out}
        figures = [attrs.asdict(each) | {"median": each.median} for each in self.figures]
        bars = [attrs.asdict(each) | {"held": each.held} for each in self.bars]
        return json.dumps(data | {"figures": figures, "bars": bars}, indent=2) + "\n"

    def markdown(self) -> str:
        """The run as a page's part: command, machine, table, bars."""
        lines = [f"`{self.command}` on {_machine()}", ""]
        lines += ["| | who | median | lowest to highest | x actorchat | load's core |", "|---|---|--:|--:|--:|--:|"]
        before = ""
        for row in self._rows():
            lines.append("| " + " | ".join(["" if row[0] == before else row[0], *row[1:]]) + " |")
            before = row[0]
        if self.bars:
            lines += ["", "| asked | measured | bar |", "|---|--:|---|"]
            lines += [f"| {bar.what} | {_number(bar.value)} | {bar.verdict} |" for bar in self.bars]
        lines += ["", *(f"- left out: {line}" for line in self.left_out)]
        return "\n".join(lines).rstrip() + "\n"

    def plot(self, folder: Path) -> None:
        """A PNG of each case in `folder`. Needs matplotlib."""
        folder.mkdir(parents=True, exist_ok=True)
        # Only who draws needs it, so it need not be there where types are checked.
        drawings: Any = import_module("matplotlib.figure")
        for case in dict.fromkeys(figure.case for figure in self.figures):
            rows = self._best_first(case)[::-1]
            drawing = drawings.Figure(figsize=(8, 0.36 * len(rows) + 1.1), layout="constrained")
            axes = drawing.subplots()
            medians = [row.median for row in rows]
            spread = [
                [row.median - min(row.values) for row in rows],
                [max(row.values) - row.median for row in rows],
            ]
            colours = ["tab:blue" if row.who.startswith("actorchat") else "tab:gray" for row in rows]
            axes.barh([row.who for row in rows], medians, xerr=spread, color=colours)
            axes.set_title(case, loc="left", fontsize="medium")
            axes.set_xlabel(rows[0].unit)
            name = "".join(letter if letter.isalnum() else "-" for letter in case).strip("-")
            drawing.savefig(folder / f"{name}.png", dpi=110)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{platform.system()} {platform.machine()}, {cores} cores, {python}, trio {trio.__version__}"
