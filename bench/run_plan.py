"""Runs the measurements round by round on each server, with progress output and a note of each failing server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.load.generator import Connected, Load, Socket, open_load
from bench.noise import Noise, measure_noise
from bench.report import Report
from bench.servers import OURS, PEERS, Server, Target, Unavailable

__all__ = ["Plan", "choose", "make_progress"]

Measure = Callable[[Server, Target], None]
OUR_NAMES = frozenset(server.name for server in OURS)


def make_progress() -> Progress:
    """A progress line on stderr that is redrawn when a step begins, since a refresh thread would disturb results."""
    console = Console(stderr=True)
    return Progress(
        TimeElapsedColumn(),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_terminal,
    )


@attrs.define
class Plan:
    """How to run: `rounds` times, with `seconds` for each measurement. `quick` makes every case smaller."""

    report: Report
    rounds: int
    seconds: float
    quick: bool
    peers: tuple[Server, ...]
    listen: Callable[[], Noise] = measure_noise
    _progress: Progress = attrs.Factory(make_progress)
    _task: TaskID | None = None
    _begin: float = attrs.Factory(time.monotonic)

    def named(self, *names: str) -> tuple[Server, ...]:
        """The chosen peers with these names."""
        return tuple(server for server in self.peers if server.name in names)

    def each_round(self, what: str, *, steps: int = 1, long: bool = False) -> Iterator[int]:
        """Yield the number of each round, after measuring the machine's noise.

        Call `step` as each of the `steps` of a round begins. A `long` case, which does not depend on the moment, has
        two rounds at most.
        """
        rounds = min(self.rounds, 2) if long else self.rounds
        for number in range(rounds):
            noise = self.listen()
            self.report.listen(noise)
            loud = f", noisy: {noise}" if noise.too_noisy else ""
            self.tell(f"{what}: round {number + 1} of {rounds}{loud}")
            self._task = self._progress.add_task(what, total=steps + 1)
            try:
                yield number
            finally:
                self._progress.remove_task(self._task)
                self._task = None

    def step(self, text: str) -> None:
        """Show that the next step of the round begins."""
        if self._task is not None:
            self._progress.update(self._task, description=text, advance=1, refresh=True)

    def measure(self, what: str, servers: Sequence[Server], *measures: Measure) -> None:
        """Measure each server in every round, so that a slow minute of the machine affects all of them.

        Each of `measures` gets a fresh server, without the memory of earlier measurements. A server that is not
        available, or fails, is left out from then on; if it is actorchat, the run fails.
        """
        absent: set[str] = set()
        for _ in self.each_round(what, steps=len(servers) * len(measures)):
            for server in servers:
                for measure in measures:
                    self.step(f"{what}: {server.name}")
                    if server.name not in absent:
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

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the progress of rounds inside the block, if stderr is a terminal."""
        with self._progress:
            yield

    def tell(self, text: str) -> None:
        """Print a line on stderr, with the time since the start."""
        seconds = int(time.monotonic() - self._begin)
        self._progress.console.print(
            f"[{seconds // 60:2}:{seconds % 60:02}] {text}", markup=False, highlight=False, soft_wrap=True
        )

    @contextmanager
    def sockets(self, target: Target, rooms: int, members: int, writers: int) -> Iterator[tuple[Load, Connected]]:
        """Start a load generator with `rooms` rooms of `members` sockets, of which `writers` write; all are open."""
        with self.open(target, target.rooms(rooms, members, writers)) as opened:
            yield opened

    @contextmanager
    def open(self, target: Target, sockets: Sequence[Socket]) -> Iterator[tuple[Load, Connected]]:
        """Start a load generator with these sockets, all open."""
        with open_load(target.port, sockets, ids=target.ids, dialect=target.dialect) as opened:
            yield opened


def choose(names: str) -> tuple[Server, ...]:
    """Parse `all`, `none`, or names separated by commas. Raises click.BadParameter, which lists the known names."""
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
