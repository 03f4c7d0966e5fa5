"""How a run is made: how often, how long, which servers; it shows progress, and says what can't be started."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.load import Connected, Load, Socket, open_load
from bench.noise import Noise, measure_noise
from bench.report import Report
from bench.servers import OURS, PEERS, Server, Target, Unavailable

__all__ = ["Plan", "choose", "make_progress"]

Measure = Callable[[Server, Target], None]
OUR_NAMES = frozenset(server.name for server in OURS)


def make_progress() -> Progress:
    """A line for the current round on stderr, drawn when a step begins: no thread disturbs a measurement."""
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
    """`rounds` times each server in turn, `seconds` each measurement; `quick` makes everything smaller."""

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
        """Those of the chosen peers."""
        return tuple(server for server in self.peers if server.name in names)

    def each_round(self, what: str, *, steps: int = 1, long: bool = False) -> Iterator[int]:
        """What takes `long`, and is not a matter of the moment, is done twice at most.

        A round has so many `steps`; say `step` as each begins. Before each round the machine's noise is measured.
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
        """Round after round, each server in turn, so that a slow minute of the machine is everybody's.

        Each of `measures` gets a fresh server: none finds the memory and the habits that another left behind. A server
        that can't be had, or fails, is left out from then on; if it is one of ours, the run has failed.
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
        """Show the progress of rounds inside the block, where stderr is a terminal."""
        with self._progress:
            yield

    def tell(self, text: str) -> None:
        """A line on stderr, with the time so far."""
        seconds = int(time.monotonic() - self._begin)
        self._progress.console.print(
            f"[{seconds // 60:2}:{seconds % 60:02}] {text}", markup=False, highlight=False, soft_wrap=True
        )

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
