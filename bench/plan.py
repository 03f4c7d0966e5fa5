"""Owns how a run is made: how often, how long, which servers; progress, and what can't be started.

Knows no case: it starts servers and opens sockets for them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import click
import httpx

from bench.load import Connected, Load, Socket, open_load
from bench.report import Report
from bench.servers import OURS, PEERS, Server, Target, Unavailable

__all__ = ["Plan", "choose"]

Measure = Callable[[Server, Target], None]
OUR_NAMES = frozenset(server.name for server in OURS)


@attrs.define
class Plan:
    """`rounds` times each server in turn, `seconds` each measurement; `quick` makes everything smaller."""

    report: Report
    rounds: int
    seconds: float
    quick: bool
    peers: tuple[Server, ...]
    _begin: float = attrs.Factory(time.monotonic)

    def named(self, *names: str) -> tuple[Server, ...]:
        """Those of the chosen peers."""
        return tuple(server for server in self.peers if server.name in names)

    def each_round(self, what: str, *, long: bool = False) -> Iterator[int]:
        """What takes `long`, and is not a matter of the moment, is done twice at most."""
        rounds = min(self.rounds, 2) if long else self.rounds
        for number in range(rounds):
            self.tell(f"{what}: round {number + 1} of {rounds}")
            yield number

    def measure(self, what: str, servers: Sequence[Server], *measures: Measure) -> None:
        """Round after round, each server in turn, so that a slow minute of the machine is everybody's.

        Each of `measures` gets a fresh server: none finds the memory and the habits that another left behind. A server
        that can't be had, or fails, is left out from then on; if it is one of ours, the run has failed.
        """
        absent: set[str] = set()
        for _ in self.each_round(what):
            for server in servers:
                for measure in measures:
                    if server.name not in absent:
                        self.tell(f"{what}: {server.name}", passing=True)
                        why = self._why_not(server, measure)
                        if why is not None:
                            absent.add(server.name)
                            self.report.leave_out(server.name, why)
                            if server.name in OUR_NAMES:
                                self.report.fail(f"{what}, {server.name}", why)

    def _why_not(self, server: Server, measure: Measure) -> str | None:
        try:
            with server.start() as target:
                measure(server, target)
        except Unavailable as absent:
            return str(absent)
        except (RuntimeError, OSError, httpx.HTTPError) as failure:
            return f"failed: {failure}"
        return None

    def tell(self, text: str, *, passing: bool = False) -> None:
        """Progress, with the time so far. What is `passing` is shown where the next line can be written over it."""
        seconds = int(time.monotonic() - self._begin)
        over = sys.stderr.isatty()
        if over or not passing:
            start, end = ("\r\x1b[K", "") if over else ("", "\n")
            print(f"{start}[{seconds // 60:2}:{seconds % 60:02}] {text}", end=end, file=sys.stderr, flush=True)

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
