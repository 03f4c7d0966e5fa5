"""The actor core against bare Trio and other actor libraries: in units of one bare checkpoint, same run."""

from __future__ import annotations

import gc
import json
import platform
import statistics
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import click
import trio
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.actor_cases import Case, checkpoint_seconds, memory_cases, trio_cases
from bench.actor_peers import ABSENT_HINTS, peer_cases

_KIB = 1024


@attrs.frozen
class Figure:
    """What one case cost, over all rounds: in checkpoints, or in KiB."""

    what: str
    who: str
    median: float
    low: float
    high: float
    bar: float | None

    @classmethod
    def of(cls, case: Case, values: list[float], unit: float = 1.0) -> Figure:
        values = [value / unit for value in values]
        bar = None if case.bar is None else case.bar / unit
        return cls(case.what, case.who, statistics.median(values), min(values), max(values), bar)

    @property
    def verdict(self) -> str:
        if self.bar is None:
            return ""
        return f"[green]≤ {self.bar:g}[/]" if self.median <= self.bar else f"[red]> {self.bar:g}[/]"


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="The median counts; lowest and highest are shown.")
@click.option("--scale", default=1.0, show_default=True, help="Multiplies how often each thing is done in a round.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here too."
)
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw them here, as PNG.")
def actors(rounds: int, scale: float, json_file: Path | None, plot_file: Path | None) -> None:
    if plot_file is not None and find_spec("matplotlib") is None:
        raise click.ClickException('--plot needs matplotlib: pip install -e ".[bench]"')
    peers, absent = peer_cases(scale)
    cases = trio_cases(scale) + peers
    console = Console()
    units, ratios, failed = _measure(cases, rounds, scale)
    figures = [Figure.of(case, values) for case, values in ratios.items()]
    memory = [Figure.of(case, [case.measure()], _KIB) for case in memory_cases()]
    _show(console, figures, f"one bare checkpoint = 1 ({statistics.median(units) * 1e6:.1f} µs here)", "checkpoints")
    _show(console, memory, "memory", "KiB")
    left_out = [f"{name}: not installed ({ABSENT_HINTS[name]})" for name in absent]
    left_out += [f"{case.who}, {case.what}: failed ({error!r})" for case, error in failed.items()]
    for line in left_out:
        console.print(f"left out: {line}", markup=False, highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(_report(figures, memory, units, rounds, left_out), indent=2) + "\n")
    if plot_file is not None:
        _plot(figures, plot_file)


def _measure(
    cases: list[Case], rounds: int, scale: float
) -> tuple[list[float], dict[Case, list[float]], dict[Case, Exception]]:
    """What a checkpoint cost each time; each case in checkpoints, by round; and who failed, though it may.

    The unit is measured before and after each case: machines that share their cores slow down and speed up.
    """
    count = max(round(15_000 * scale), 100)
    units = [checkpoint_seconds(count)]
    ratios: dict[Case, list[float]] = {case: [] for case in cases}
    failed: dict[Case, Exception] = {}
    with Progress(transient=True) as progress:
        bar = progress.add_task("", total=rounds * len(cases))
        for number in range(rounds):
            for case in list(ratios):
                progress.update(bar, description=f"{number + 1}/{rounds} {case.what}: {case.who}")
                # What earlier cases and imports left in memory is none of this one's garbage collection.
                gc.collect()
                gc.freeze()
                try:
                    seconds = case.measure()
                except Exception as error:
                    if not case.optional:
                        raise
                    failed[case] = error
                    del ratios[case]
                    continue
                units.append(checkpoint_seconds(count))
                ratios[case].append(seconds / statistics.mean(units[-2:]))
                progress.advance(bar)
    return units, ratios, failed


def _show(console: Console, figures: list[Figure], title: str, unit: str) -> None:
    table = Table("", "who", title=title, title_justify="left")
    for head in (unit, "lowest to highest", "bar"):
        table.add_column(head, justify="right")
    before = ""
    for figure in figures_in_order(figures):
        if figure.what != before and before:
            table.add_section()
        spread = f"{figure.low:.2f} to {figure.high:.2f}"
        table.add_row(
            "" if figure.what == before else figure.what, figure.who, f"{figure.median:.2f}", spread, figure.verdict
        )
        before = figure.what
    console.print(table)


def figures_in_order(figures: list[Figure]) -> list[Figure]:
    """By what is measured, as first met; within that, cheapest first."""
    kinds = list(dict.fromkeys(figure.what for figure in figures))
    return sorted(figures, key=lambda figure: (kinds.index(figure.what), figure.median))


def _report(
    figures: list[Figure], memory: list[Figure], units: list[float], rounds: int, left_out: list[str]
) -> dict[str, object]:
    return {
        "python": sys.version.split()[0],
        "trio": trio.__version__,
        "machine": platform.machine(),
        "rounds": rounds,
        "checkpoint_us": {
            "median": statistics.median(units) * 1e6,
            "low": min(units) * 1e6,
            "high": max(units) * 1e6,
        },
        "checkpoints": [attrs.asdict(figure) for figure in figures],
        "kib": [attrs.asdict(figure) for figure in memory],
        "left_out": left_out,
    }


def _plot(figures: list[Figure], path: Path) -> None:
    # Only who draws needs it, so it need not be there where types are checked.
    drawings: Any = import_module("matplotlib.figure")
    kinds = list(dict.fromkeys(figure.what for figure in figures))
    drawing = drawings.Figure(figsize=(9, 0.32 * len(figures) + 0.9 * len(kinds)), layout="constrained")
    heights = [sum(figure.what == kind for figure in figures) for kind in kinds]
    panels = drawing.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for kind, panel in zip(kinds, panels, strict=True):
        rows = [figure for figure in figures_in_order(figures) if figure.what == kind][::-1]
        medians = [row.median for row in rows]
        spread = [[row.median - row.low for row in rows], [row.high - row.median for row in rows]]
        colours = ["tab:blue" if row.who.startswith("actorchat") else "tab:gray" for row in rows]
        panel.barh([row.who for row in rows], medians, xerr=spread, color=colours)
        panel.set_xscale("log")
        panel.set_title(kind, loc="left", fontsize="medium")
        for row in rows:
            if row.bar is not None:
                panel.axvline(row.bar, color="tab:red", linestyle="--", linewidth=1)
    panels[-1].set_xlim(left=min(figure.low for figure in figures) / 2)
    panels[-1].set_xlabel("cost in bare checkpoints (log); red: the bar that actorchat must hold")
    drawing.savefig(path, dpi=120)
