"""The command `python -m actorchat.testing.checker`: checks several servers on one PostgreSQL database under faults."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
import click
import trio
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from actorchat.testing.checker import (
    FAULTS,
    CheckFailed,
    CheckOptions,
    CheckReport,
    Machine,
    Progress,
    all_pairs,
    check_cluster,
    possible_faults,
)

__all__ = ["Machines", "main"]


@attrs.frozen
class Machines:
    """The servers that the command may kill, if it is called by a program that has started them."""

    database: Machine | None = None
    bus: Machine | None = None


@click.command()
@click.argument("storage", metavar="POSTGRESQL-URL")
@click.option("--seconds", type=click.FloatRange(1), default=30.0, show_default=True, help="How long clients write.")
@click.option("--seed", type=int, help="The seed of all random choices; random if not given.")
@click.option("--nodes", type=click.IntRange(2, 16), default=3, show_default=True, help="How many servers run.")
@click.option("--chats", type=click.IntRange(1), default=6, show_default=True, help="How many chats there are.")
@click.option("--faults", metavar="NAMES", help="The faults to play, all if not given: kill,cut or kill+cut at once.")
@click.option("--pairs", is_flag=True, help="Play each fault alone, then each pair, for equal shares of the time.")
@click.option("--list", "lists", is_flag=True, help="List the faults, and exit.")
@click.option(
    "--settle", type=click.FloatRange(1), default=120.0, show_default=True, help="Seconds to recover in the end."
)
@click.option("--pause", type=click.FloatRange(0.05), default=1.0, show_default=True, help="Seconds between faults.")
@click.option(
    "--bus", default="postgres", show_default=True, help="The bus of the servers: postgres, local or redis://…"
)
@click.pass_obj
def main(
    machines: Machines | None,
    storage: str,
    seconds: float,
    seed: int | None,
    nodes: int,
    chats: int,
    faults: str | None,
    pairs: bool,
    lists: bool,
    settle: float,
    pause: float,
    bus: str,
) -> None:
    """Run servers on an empty PostgreSQL database of this machine, and break them, for some time.

    Every client has to see each chat whole, in order and once, and every answered message has to be stored once. Exits
    with 1 if not, and prints what the clients saw.
    """
    machines = machines or Machines()
    carrier = machines.database if bus == "postgres" else machines.bus
    possible = possible_faults(bus=bus, database_machine=machines.database, bus_machine=carrier)
    if lists:
        for name in possible:
            click.echo(f"{name:14} {FAULTS[name].text}")
        return
    names = _chosen(faults, possible)
    chosen = secrets.randbelow(2**31) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="actorchat-checker-") as folder:
        options = CheckOptions(
            storage=storage,
            folder=Path(folder),
            seconds=seconds,
            seed=chosen,
            nodes=nodes,
            chats=chats,
            newcomers=min(150, max(1, int(seconds * 2))),
            bus=bus,
            database_machine=machines.database,
            bus_machine=machines.bus,
            faults=all_pairs(names) if pairs else names,
            in_turn=pairs,
            pause=pause,
            settle=settle,
        )
        click.echo(f"seed {chosen}")
        try:
            report = _run(options)
        except CheckFailed as error:
            click.echo(str(error), err=True)
            click.echo(f"seed {chosen}: a promise was broken", err=True)
            sys.exit(1)
    for line in _lines(report):
        click.echo(line)


def _chosen(faults: str | None, possible: Sequence[str]) -> Sequence[str]:
    if faults is None:
        return possible
    names = [name for name in faults.split(",") if name]
    for name in (each for together in names for each in together.split("+")):
        if name not in FAULTS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(FAULTS)}", param_hint="--faults")
        if name not in possible:
            raise click.BadParameter(f"{name!r} can't be played here", param_hint="--faults")
    return names


def _run(options: CheckOptions) -> CheckReport:
    console = Console(stderr=True)
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("checks", total=options.seconds, what="")

        def watch(progress: Progress) -> None:
            what = f"{progress.shown} shown; {', '.join(progress.faults) or 'no faults'}"
            bar.update(task, completed=min(progress.seconds, options.seconds), what=what)

        return trio.run(check_cluster, options, console.print, watch)


def _lines(report: CheckReport) -> list[str]:
    played = ", ".join(f"{count} {name}" for name, count in report.faults.items()) or "none"
    return [
        f"faults: {played}",
        f"{report.starts} starts of servers, {report.failed_starts} of them failed while the database was away",
        f"{report.chats} chats, {report.connects} connections of clients",
        f"{report.messages} messages stored, shown {report.shown} times; {report.repeated} sent again,"
        f" {report.refused} refusals, {report.given_up} not sent again and not stored",
        "0 lost, 0 doubled, 0 out of order: every client saw everything, in order and once",
    ]


if __name__ == "__main__":
    main()
