"""The command `python -m bench`: measures actorchat beside other servers that do the same job.

Compare only figures of the same run: machines differ, and so do the minutes of one machine.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click

from bench.actors import actors
from bench.message_brokers import broker
from bench.nodes import nodes
from bench.overload import flood, http_load, newcomers, resume, stalled
from bench.report import Report
from bench.run_plan import Plan, choose
from bench.search import search
from bench.socket_cases import connect, fanout, feed, idle, latency, rooms
from bench.stored_chats import storage
from bench.stores import stores
from bench.uploads import attachments

CASES = (
    *(fanout, rooms, connect, idle, latency, storage, feed, flood, resume, newcomers, stalled, http_load),
    *(search, attachments, actors, broker, stores, nodes),
)
PEERS = "least possible (C),uWebSockets.js,ws,picows"

Case = Callable[[Plan], None]


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--quick", is_flag=True, help="One short round, to see that it runs and is roughly right."),
        click.option("--rounds", type=click.IntRange(1), help="Rounds of measurements; the median counts.  [5]"),
        click.option("--seconds", type=click.FloatRange(0.2), help="How long each measurement takes.  [0.6]"),
        click.option("--peers", default=PEERS, show_default=True, help="Names separated by commas, `all` or `none`."),
        click.option(
            "--json",
            "json_file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write the figures here.",
        ),
        click.option("--plot", type=click.Path(file_okay=False, path_type=Path), help="Draw PNGs in this folder."),
        click.option(
            "--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the tables to this file."
        ),
    ):
        command = option(command)
    return command


def _measure(
    cases: list[Case],
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    peers: str,
    json_file: Path | None,
    plot: Path | None,
    markdown: Path | None,
) -> None:
    if plot is not None and find_spec("matplotlib") is None:
        raise click.ClickException('--plot needs matplotlib: pip install -e ".[bench]"')
    # SIGTERM leaves every block, as Ctrl-C does, so that every server is ended.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = Report()
    plan = Plan(report, rounds or (1 if quick else 5), seconds or (0.5 if quick else 0.6), quick, choose(peers))
    ended: int | str | None = None
    try:
        with plan.shown():
            for case in cases:
                report.begin(case.__name__)
                try:
                    case(plan)
                except Exception as error:
                    # Keep the figures of the other cases, and those of this one so far.
                    report.fail(case.__name__, _reason(error))
                    plan.tell(f"{case.__name__} FAILED: {_reason(error)}")
    except (KeyboardInterrupt, SystemExit) as end:
        report.fail("all", "the run was interrupted")
        ended = end.code if isinstance(end, SystemExit) else 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    plan.tell("done\n")
    report.show()
    if json_file is not None:
        json_file.write_text(report.json())
    if markdown is not None:
        markdown.write_text(report.markdown())
    if plot is not None:
        report.plot(plot)
    if report.failed:
        sys.exit(ended or 1)


def _reason(error: BaseException) -> str:
    """What happened, in place of the number of exceptions if it happened in a nursery."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_reason(each) for each in error.exceptions)
    return str(error) or repr(error)


def _command(case: Case) -> click.Command:
    @_options
    def run(**options: object) -> None:
        _measure([case], **options)  # type: ignore[arg-type] # click gives what `_options` names

    return click.command(case.__name__.replace("_", "-"), help=case.__doc__)(run)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("all")
@_options
def everything(**options: object) -> None:
    """Run all benchmarks, with every target that the project has set itself."""
    _measure(list(CASES), **options)  # type: ignore[arg-type] # click gives what `_options` names


for each in CASES:
    main.add_command(_command(each))

if __name__ == "__main__":
    main(prog_name="python -m bench")
