"""Owns how a run is made: how often, how long, which servers; progress, and what can't be started.

Knows no case: it starts servers and opens sockets for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import click
from rich.console import Console
from rich.progress import Progress, TaskID

from bench.load import Connected, Load, Socket, open_load
from bench.report import Figure, Report
from bench.servers import OURS, PEERS, Server, Target, Unavailable

__all__ = ["Plan", "Runs", "choose", "progress"]


@attrs.define
class Runs:
    """The figures of one case as they come, round after round."""

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

    def into(self, report: Report) -> None:
        report.figures += [
            Figure(self.case, who, self.unit, tuple(values), self.load.get(who), self.less)
            for who, values in self.values.items()
        ]


@attrs.define
class Plan:
    """`rounds` times each server in turn, `seconds` each measurement; `quick` makes everything smaller."""

    report: Report
    rounds: int
    seconds: float
    quick: bool
    peers: tuple[Server, ...]
    progress: Progress
    _absent: set[str] = attrs.Factory(set)

    def named(self, *names: str) -> tuple[Server, ...]:
        """Those of the chosen servers; actorchat's own are always chosen."""
        return tuple(server for server in (*OURS, *self.peers) if server.name in names)

    def each(self, what: str, servers: Sequence[Server], *, long: bool = False) -> Iterator[Server]:
        """Round after round, each server in turn, so that a slow minute of the machine is everybody's.

        What takes `long`, and is not a matter of the moment, is done twice at most.
        """
        rounds = min(self.rounds, 2) if long else self.rounds
        task: TaskID = self.progress.add_task(what, total=rounds * len(servers))
        for number in range(rounds):
            for server in servers:
                self.progress.update(task, description=f"{what}: {number + 1}/{rounds} {server.name}")
                if server.name not in self._absent:
                    yield server
                self.progress.advance(task)
        self.progress.remove_task(task)

    def try_with(self, server: Server, use: Callable[[Target], None]) -> None:
        """Start the server and use it; one that can't be had, or fails, is left out from now on."""
        try:
            with server.start() as target:
                use(target)
        except Unavailable as absent:
            self._absent.add(server.name)
            self.report.leave_out(f"{server.name}: {absent}")
        except RuntimeError as failure:
            if server in OURS:
                raise click.ClickException(f"{server.name}: {failure}") from failure
            self._absent.add(server.name)
            self.report.leave_out(f"{server.name}: failed: {failure}")

    @contextmanager
    def sockets(self, target: Target, rooms: int, members: int, writers: int) -> Iterator[tuple[Load, Connected]]:
        """A load with `rooms` rooms of so many sockets each, all open."""
        with self.open(target, target.rooms(rooms, members, writers)) as opened:
            yield opened

    @contextmanager
    def open(self, target: Target, sockets: Sequence[Socket]) -> Iterator[tuple[Load, Connected]]:
        """A load with these sockets, all open."""
        with open_load(target.port, sockets, ids=target.ids, dialect=target.dialect) as opened:
            yield opened


def choose(names: str) -> tuple[Server, ...]:
    """`all`, `none`, or names split by commas. Raises click.BadParameter with the names there are."""
    known = {server.name.lower(): server for server in PEERS}
    if names == "all":
        return PEERS
    if names == "none":
        return ()
    wanted = [name.strip().lower() for name in names.split(",")]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise click.BadParameter(f"no peer is called {', '.join(unknown)}; there are: {', '.join(known)}")
    return tuple(known[name] for name in wanted)


def progress() -> Progress:
    return Progress(console=Console(stderr=True), transient=True)
