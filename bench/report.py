"""Collects the figures of a run, compares them with their targets, and writes tables, JSON, Markdown and plots."""

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
from rich.text import Text

from bench.noise import Noise, typical

__all__ = ["Bar", "Figure", "Report", "Runs"]


@attrs.frozen
class Figure:
    """The values of one server in one case, by round. `load` is the highest CPU share of the load generator."""

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


@attrs.define
class Runs:
    """Collects the figures of one case, round by round."""

    case: str
    unit: str
    less: bool = False
    """Less is better."""
    values: dict[str, list[float]] = attrs.Factory(dict)
    load: dict[str, float] = attrs.Factory(dict)

    def add(self, who: str, value: float, load: float | None = None) -> None:
        self.values.setdefault(who, []).append(value)
        if load is not None:
            self.load[who] = max(load, self.load.get(who, 0.0))


@attrs.frozen
class Bar:
    """A target: the median of `values`, mostly ratios of two figures of a round, is at least or at most `bound`.

    Without `values` it was not measured, and `missing` is the reason. If the machine was too noisy to judge, `noise`
    is the reason.
    """

    what: str
    values: tuple[float, ...]
    bound: float
    at_least: bool = True
    missing: str = ""
    noise: str = ""

    @property
    def value(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def held(self) -> bool | None:
        if self.value is None or self.missing or self.noise:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def asked(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"

    @property
    def verdict(self) -> str:
        if self.value is None or self.missing:
            return f"not measured: {self.missing}"
        if self.noise:
            return "too noisy to judge"
        return "held" if self.held else "NOT HELD"


@attrs.frozen
class _Ask:
    what: str
    case: str
    who: str
    yardstick: tuple[str, str] | None
    bound: float
    at_least: bool
    noise: tuple[str, str] | None
    timed: bool
    part: str


@attrs.define
class Report:
    """The report of a run. Cases declare their figures and targets before they measure, so that a failure shows.

    Targets for times and rates are not judged if the machine was too noisy in their part of the run.
    """

    command: str = attrs.Factory(lambda: " ".join(["python -m bench", *sys.argv[1:]]))
    failed: list[str] = attrs.Factory(list)
    """The cases in which actorchat could not be measured. A run with any of them has failed."""
    _runs: list[Runs] = attrs.Factory(list)
    _asks: list[_Ask] = attrs.Factory(list)
    _left_out: dict[str, str] = attrs.Factory(dict)
    _part: str = ""
    _noise: dict[str, list[Noise]] = attrs.Factory(dict)

    def begin(self, part: str) -> None:
        """Begin a part of the run: targets and noise from here on belong to it."""
        self._part = part

    def listen(self, noise: Noise) -> None:
        """Record a sample of the machine's noise."""
        self._noise.setdefault(self._part, []).append(noise)

    def runs(self, case: str, unit: str, *, less: bool = False) -> Runs:
        """Declare a case whose figures will follow. `less`: less is better."""
        self._runs.append(Runs(case, unit, less))
        return self._runs[-1]

    @property
    def figures(self) -> list[Figure]:
        return [
            Figure(runs.case, who, runs.unit, tuple(values), runs.load.get(who), runs.less)
            for runs in self._runs
            for who, values in runs.values.items()
        ]

    def figure(self, case: str, who: str) -> Figure | None:
        return next((each for each in self.figures if (each.case, each.who) == (case, who)), None)

    def ask(
        self, what: str, case: str, who: str, yardstick: tuple[str, str], bound: float, *, most: bool = False
    ) -> None:
        """Add a target for the ratio of two figures of the same round, which a slow minute affects alike."""
        self._asks.append(_Ask(what, case, who, yardstick, bound, not most, None, True, self._part))

    def ask_value(
        self,
        what: str,
        case: str,
        who: str,
        bound: float,
        *,
        most: bool = False,
        noise: tuple[str, str] | None = None,
        timed: bool = True,
    ) -> None:
        """Add a target for a figure. It is not judged if `noise`, a figure of the same unit, is above `bound`.

        `timed` is false for figures that a busy machine does not affect, such as memory.
        """
        self._asks.append(_Ask(what, case, who, None, bound, not most, noise, timed, self._part))

    @property
    def bars(self) -> list[Bar]:
        return [attrs.evolve(self._bar(ask), noise=self._noise_of(ask)) for ask in self._asks]

    def _noise_of(self, ask: _Ask) -> str:
        samples = self._noise.get(ask.part)
        if not samples or not ask.timed:
            return ""
        noise = typical(samples)
        return str(noise) if noise.too_noisy else ""

    def _bar(self, ask: _Ask) -> Bar:
        ours = self.figure(ask.case, ask.who)
        theirs = self.figure(*ask.yardstick) if ask.yardstick is not None else None
        if ours is None:
            return Bar(ask.what, (), ask.bound, ask.at_least, self._why_not(ask.who))
        if ask.yardstick is None:
            noise = self.figure(*ask.noise) if ask.noise is not None else None
            loud = f"the noise is {_number(noise.median)}" if noise is not None and noise.median > ask.bound else ""
            return Bar(ask.what, ours.values, ask.bound, ask.at_least, loud)
        if theirs is None:
            return Bar(ask.what, (), ask.bound, ask.at_least, self._why_not(ask.yardstick[1]))
        # A server that fails is left out from then on, so the rounds that both have are the first ones.
        pairs = zip(ours.values, theirs.values, strict=False)
        ratios = tuple(mine / yardstick for mine, yardstick in pairs if yardstick)
        return Bar(ask.what, ratios, ask.bound, ask.at_least, "" if ratios else f"{ask.yardstick[1]} has only zeros")

    def _why_not(self, who: str) -> str:
        return f"{who}: {self._left_out.get(who, 'not measured in this run')}"

    def leave_out(self, who: str, why: str) -> None:
        self._left_out.setdefault(who, why)

    def fail(self, what: str, why: str) -> None:
        """Record that actorchat could not be measured in a case."""
        self.failed.append(f"{what}: {why}")

    def show(self) -> None:
        # A file or a pipe has no width.
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(self._table())
        if self.bars:
            table = Table("asked", "bar", "median", "lowest to highest", "verdict")
            for bar in self.bars:
                colour = {True: "green", False: "red", None: "yellow"}[bar.held]
                table.add_row(*_bar_row(bar)[:-1], Text(bar.verdict, style=colour))
            console.print(table)
        for line in self._notes():
            console.print(line, markup=False, highlight=False)

    def _notes(self) -> list[str]:
        noise = [f"noise{f' in {part}' if part else ''}: {typical(heard)}" for part, heard in self._noise.items()]
        left_out = [f"left out: {who}: {why}" for who, why in self._left_out.items()]
        return noise + left_out + [f"FAILED: {line}" for line in self.failed]

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
                spread = f"{_number(low)} to {_number(high)}" if len(figure.values) > 1 else "one round"
                rows.append((f"{case}, {figure.unit}", figure.who, _number(figure.median), spread, ratio, load))
        return rows

    def _best_first(self, case: str) -> list[Figure]:
        figures = [each for each in self.figures if each.case == case]
        return sorted(figures, key=lambda each: each.median if each.less else -each.median)

    def json(self) -> str:
        data = {"command": self.command, "machine": _machine(), "left_out": self._left_out, "failed": self.failed}
        figures = [attrs.asdict(each) | {"median": each.median} for each in self.figures]
        bars = [attrs.asdict(each) | {"value": each.value, "held": each.held} for each in self.bars]
        noise = {part: attrs.asdict(typical(heard)) for part, heard in self._noise.items()}
        return json.dumps(data | {"noise": noise, "figures": figures, "bars": bars}, indent=2) + "\n"

    def markdown(self) -> str:
        """The run in Markdown: command, machine, figures and targets."""
        lines = [f"`{self.command}` on {_machine()}", ""]
        lines += ["| | who | median | lowest to highest | x actorchat | load's core |", "|---|---|--:|--:|--:|--:|"]
        before = ""
        for row in self._rows():
            lines.append("| " + " | ".join(["" if row[0] == before else row[0], *row[1:]]) + " |")
            before = row[0]
        if self.bars:
            lines += ["", "| asked | bar | median | lowest to highest | verdict |", "|---|---|--:|--:|---|"]
            lines += [f"| {' | '.join(_bar_row(bar))} |" for bar in self.bars]
        lines += ["", *(f"- {line}" for line in self._notes())]
        return "\n".join(lines).rstrip() + "\n"

    def plot(self, folder: Path) -> None:
        """Draw a PNG of each case in `folder`. Needs matplotlib."""
        folder.mkdir(parents=True, exist_ok=True)
        # Imported here, because only plots need it.
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


def _bar_row(bar: Bar) -> tuple[str, str, str, str, str]:
    if bar.value is None:
        return bar.what, bar.asked, "", "", bar.verdict
    spread = f"{_number(min(bar.values))} to {_number(max(bar.values))}" if len(bar.values) > 1 else "one round"
    return bar.what, bar.asked, _number(bar.value), spread, bar.verdict


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{platform.system()} {platform.machine()}, {cores} cores, {python}, trio {trio.__version__}"
