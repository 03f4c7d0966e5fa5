"""One room, many members: deliveries a second, against a plain trio-websocket relay."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import click
from rich.console import Console
from rich.table import Table

from bench.load import Measured, fan_out
from bench.servers import Target, actorchat_server, plain_server

_SERVERS: dict[str, Callable[[], AbstractContextManager[Target]]] = {
    "plain trio-websocket": plain_server,
    "actorchat, memory": partial(actorchat_server, "memory"),
    "actorchat, SQLite": partial(actorchat_server, "sqlite"),
}


@click.command(help=__doc__)
@click.option("--members", default=200, show_default=True)
@click.option("--senders", default=4, show_default=True)
@click.option("--in-flight", default=2, show_default=True, help="Messages on their way per sender.")
@click.option("--seconds", default=3.0, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="The median counts.")
def fanout(members: int, senders: int, in_flight: int, seconds: float, rounds: int) -> None:
    results: dict[str, list[Measured]] = {name: [] for name in _SERVERS}
    for number in range(rounds):
        for name, server in _SERVERS.items():
            with server() as target:
                label = f"{number + 1}/{rounds} {name}"
                measured = fan_out(
                    target, members=members, senders=senders, in_flight=in_flight, seconds=seconds, progress=label
                )
                results[name].append(measured)
    table = Table("server", "deliveries/s", "ratio", "load's CPU", title=f"one room of {members}")
    yardstick = _median(results["plain trio-websocket"])
    for name, runs in results.items():
        cpu = statistics.median(run.load_cpu_share for run in runs)
        table.add_row(name, f"{_median(runs):,.0f}", f"{_median(runs) / yardstick:.1f}", f"{cpu:.0%}")
    Console().print(table)


def _median(runs: list[Measured]) -> float:
    return statistics.median(run.deliveries_per_second for run in runs)
