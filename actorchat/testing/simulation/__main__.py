"""The command `python -m actorchat.testing.simulation`: runs one seed, or many with a progress bar."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from actorchat.testing.simulation.campaign import SeedResult, Totals, run_seeds
from actorchat.testing.simulation.chat_world import ChatVerdict, play
from actorchat.testing.simulation.coverage import coverage_table
from actorchat.testing.simulation.invariants import INVARIANTS
from actorchat.testing.simulation.plan import FAULTS, OPERATOR, VISITOR, Plan, load_plan, make_plan, save_plan
from actorchat.testing.simulation.report import describe, describe_failure, describe_plan
from actorchat.testing.simulation.shrink import shrink

_MOST_FAILURES = 10


@click.command()
@click.option("--seed", type=int, help="Run this seed, and shrink it if it fails.")
@click.option("--plan", "path", type=click.Path(exists=True, path_type=Path), help="Run the plan in this JSON file.")
@click.option("--trace", is_flag=True, help="Print every event of --seed or --plan. A failing plan is not shrunk.")
@click.option("--seeds", type=click.IntRange(1), help="Run this many seeds.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Run seeds for this many minutes.")
@click.option("--first", type=int, help="The first seed of --seeds or --minutes; random if not given.")
@click.option("--jobs", type=click.IntRange(1), help="The number of processes; one for each core if not given.")
@click.option(
    "--only", multiple=True, type=click.Choice(sorted(FAULTS)), help="Plan this kind of fault only (repeatable)."
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="KIND",
    callback=lambda _, __, kinds: _known(kinds),
    help="Count violations of this kind, and go on (repeatable).",
)
@click.option(
    "--save", type=click.Path(path_type=Path), help="Write the shrunk plan of a failing --seed or --plan to this file."
)
def main(
    seed: int | None,
    path: Path | None,
    trace: bool,
    seeds: int | None,
    minutes: float | None,
    first: int | None,
    jobs: int | None,
    only: Sequence[str],
    ignore: Sequence[str],
    save: Path | None,
) -> None:
    """Run the whole server in a simulation with faults, and check that it keeps every promise.

    The seed determines the plan of people and faults, so a seed always plays the same plan. Without options 100 random
    seeds are run. Exits with 1 if a promise was broken.
    """
    if seed is not None or path is not None:
        if (seeds, minutes, first, jobs) != (None, None, None, None):
            raise click.UsageError("--seed and --plan play one plan: leave out --seeds, --minutes, --first and --jobs")
        plan = _load(path) if path is not None else make_plan(seed or 0, faults=only or None)
        sys.exit(_one(plan, ignore, trace=trace, save=save))
    if trace or save is not None:
        raise click.UsageError("--trace and --save take one plan: name it with --seed or --plan")
    begin = secrets.randbelow(2**40) if first is None else first
    chosen = islice(count(begin), seeds) if seeds or not minutes else count(begin)
    most = None if minutes is None else minutes * 60
    sys.exit(_many(chosen if seeds or minutes else islice(count(begin), 100), seeds, most, jobs, only, ignore, begin))


def _known(kinds: Sequence[str]) -> Sequence[str]:
    unknown = [kind for kind in kinds if kind not in INVARIANTS]
    if unknown:
        raise click.BadParameter(
            f"no violation is called {', '.join(unknown)}; there are: {', '.join(sorted(INVARIANTS))}"
        )
    return kinds


def _load(path: Path) -> Plan:
    try:
        return load_plan(path)
    except (ValueError, LookupError, TypeError) as error:
        raise click.BadParameter(f"{path} is no plan that --save has written: {error!r}", param_hint="--plan") from None


def _one(plan: Plan, ignore: Sequence[str], *, trace: bool, save: Path | None) -> int:
    played = play(plan, known=ignore)
    if trace:
        for line in played.verdict.lines:
            click.echo(line)
    click.echo(describe(played))
    violation = played.violation
    if violation is None:
        return 0
    if trace:
        for line in describe_plan(played):
            click.echo(line)
        return 1
    click.echo(f"shrinking {len(plan.steps)} steps …")
    smallest = shrink(plan, violation.kind, known=ignore)
    _explain(smallest.played)
    click.echo(f"{len(plan.steps)} steps shrunk to {len(smallest.plan.steps)} in {smallest.runs} runs")
    if save is not None:
        save_plan(smallest.plan, save, kind=violation.kind)
    return 1


def _explain(played: ChatVerdict) -> None:
    for line in describe_failure(played):
        click.echo(line)


def _many(
    seeds: Iterator[int],
    total: int | None,
    seconds: float | None,
    jobs: int | None,
    only: Sequence[str],
    ignore: Sequence[str],
    begin: int,
) -> int:
    console, totals = Console(), Totals()
    console.print(f"from seed {begin} on; to repeat one: python -m actorchat.testing.simulation --seed N")
    started = time.monotonic()
    results = run_seeds(seeds, known=ignore, faults=only or None, jobs=jobs)
    with _progress(console) as bar:
        task = bar.add_task("seeds", total=total, what="")
        for result in results:
            totals.add(result)
            bar.update(task, advance=1, what=f"{len(totals.failed)} failed, {_pace(totals)}")
            if result.kind is not None:
                bar.console.print(_line(result))
            if (seconds is not None and time.monotonic() - started > seconds) or len(totals.failed) >= _MOST_FAILURES:
                break
    if hasattr(results, "close"):
        results.close()
    console.print(coverage_table(totals.coverage, FAULTS, dict.fromkeys((*VISITOR, *OPERATOR))))
    console.print(f"{totals.seeds} seeds, {totals.operations} operations, {len(totals.failed)} failed, {_pace(totals)}")
    for kind, times in totals.known.most_common():
        console.print(f"ignored: {kind} in {times} seeds")
    return 1 if totals.failed else 0


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
        console=console,
    )


def _pace(totals: Totals) -> str:
    return f"{totals.virtual / totals.real:.0f} virtual seconds a second" if totals.real else ""


def _line(result: SeedResult) -> str:
    return f"[red]seed {result.seed}[/red] breaks {result.kind} at {result.at:.3f} s: {result.detail[:300]}"


if __name__ == "__main__":
    main()
