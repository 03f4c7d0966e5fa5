"""A simulated world: its clock, randomness, network and log, and `simulate`, which runs a program in one."""

from __future__ import annotations

import gc
import hashlib
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import Final

import attrs
import trio
from trio.testing import MockClock

from actorchat.server.environment import Environment
from actorchat.testing.simulation.interpreter import real_seconds, sealed
from actorchat.testing.simulation.network import Network
from actorchat.testing.simulation.sockets import ClientStream, Descriptors, Listener

__all__ = ["EPOCH", "Node", "Program", "Verdict", "Violation", "World", "simulate"]

EPOCH: Final = 1_700_000_000
"""The wall clock of every world at its start, in epoch seconds."""

_COLLECT_EVERY: Final = 20.0
_LIMIT: Final = 86_400.0


class Violation(Exception):  # noqa: N818 - the finding of a check
    """A broken promise. `kind` names the promise, `at` is the time of the world's clock."""

    def __init__(self, kind: str, detail: str, at: float) -> None:
        super().__init__(f"{kind} at {at:.3f} s: {detail}")
        self.kind = kind
        self.detail = detail
        self.at = at


@attrs.frozen(kw_only=True)
class Verdict:
    """The result of one run.

    `lines` is the log of everything that happened, and `digest` its hash: the same seed gives the same digest. `known`
    counts the violations of ignored kinds. `virtual` and `real` are the duration in seconds of each clock.
    """

    seed: int
    violation: Violation | None
    digest: str
    lines: tuple[str, ...] = attrs.field(repr=False)
    known: dict[str, int] = attrs.field(factory=dict)
    virtual: float
    real: float

    def check(self) -> None:
        """Raise the violation, if there is one, with a note of the seed and the last events."""
        if self.violation is not None:
            self.violation.add_note(f"seed {self.seed}, digest {self.digest}; the last events:")
            for line in self.lines[-20:]:
                self.violation.add_note(f"  {line}")
            raise self.violation


class World:
    """The world of one program; made by `simulate`.

    `nursery` is for tasks that run as long as the world. All connections go over `network`. Pass `environment` to
    `actorchat.open_server` to run a server in this world.
    """

    nursery: trio.Nursery

    def __init__(self, seed: int, *, known: Iterable[str] = ()) -> None:
        self.seed = seed
        self.clock: MockClock = MockClock(autojump_threshold=0)
        self.lines: list[str] = []
        self.known: dict[str, int] = dict.fromkeys(known, 0)
        self.violation: Violation | None = None
        self.network: Network = Network(self.random, self.log)
        self.descriptors: Descriptors = Descriptors(self.network, self.random("descriptors"))
        self.environment: Environment = Environment(
            wall=self.wall,
            stopwatch=self._make_stopwatch(),
            random=self.random("server"),
            kernel=self.descriptors.kernel,
            listen=self.descriptors.listen,
        )
        self._stop = trio.CancelScope()
        self._hash = hashlib.blake2b(digest_size=12)
        self._wall_offset = self._wall_peak = 0.0

    # Randomness and time

    def random(self, name: str) -> Random:
        """Return a random generator for `name`. It gives the same numbers in every run of the seed."""
        return Random(f"{self.seed}/{name}")  # noqa: S311 - must be repeatable

    def wall(self) -> float:
        """Return the time of the world's wall clock in epoch seconds."""
        return EPOCH + self._wall_offset + self.clock.current_time()

    def jump_clock(self, seconds: float) -> None:
        """Set the wall clock forward, or back by negative `seconds`. Trio's clock is not changed."""
        self._wall_peak = self.latest_wall
        self._wall_offset += seconds

    @property
    def latest_wall(self) -> float:
        """Return the latest time that the wall clock has shown so far."""
        return max(self._wall_peak, self.wall())

    def _make_stopwatch(self) -> Callable[[], float]:
        # Sometimes the reactor's stopwatch jumps, so that a pass exceeds its time budget early.
        chance, shown = self.random("stopwatch"), 0.0

        def stopwatch() -> float:
            nonlocal shown
            shown += 1.0 if chance.random() < 0.02 else 0.0
            return shown

        return stopwatch

    # Log and checks

    def log(self, *what: object) -> None:
        """Log an event. Pass values only: a `repr` with an address differs from run to run."""
        line = f"{self.clock.current_time():.6f} {' '.join(map(str, what))}"
        self.lines.append(line)
        self._hash.update(line.encode("utf-8", "surrogateescape"))

    def fail(self, kind: str, detail: str) -> None:
        """Report that the promise `kind` was broken. This ends the run, unless that kind is ignored."""
        if kind in self.known:
            self.known[kind] += 1
            self.log("known violation:", kind, detail)
        elif self.violation is None:
            self.violation = Violation(kind, detail, self.clock.current_time())
            self.log("VIOLATION:", kind, detail)
            self._stop.cancel()

    def check(self, condition: object, kind: str, detail: str) -> None:
        """Call `fail` unless `condition` is true."""
        if not condition:
            self.fail(kind, detail)

    # Connections and nodes

    async def dial(self, port: int) -> ClientStream:
        """Connect to `port`. Raises ConnectionRefusedError if nothing listens there."""
        return await ClientStream.dial(self.network, port)

    def listen(self, port: int) -> Listener:
        """Open a listener for `trio.serve_listeners`. Raises OSError if the port is in use."""
        return Listener(self.descriptors, port)

    def node(self, name: str, program: Callable[[Node], Awaitable[None]]) -> Node:
        """Make a node: `program` runs in it as a process that can be killed and started again."""
        return Node(self, name, program)

    # The run

    async def _main(self, program: Program) -> None:
        tasks = trio.lowlevel.current_statistics().tasks_living
        with self._stop:
            async with trio.open_nursery() as self.nursery:
                self.nursery.start_soon(self.network.run)
                self.nursery.start_soon(self._collect)
                with trio.move_on_after(_LIMIT) as limit:
                    await program(self)
                if limit.cancelled_caught:
                    self.fail("no-end", f"the program did not end within {_LIMIT:.0f} s of virtual time")
                self.nursery.cancel_scope.cancel()
        if self.violation is None:
            left = trio.lowlevel.current_statistics().tasks_living - tasks
            self.check(not left, "tasks", f"{left} tasks are still running")

    async def _collect(self) -> None:
        while True:
            await trio.sleep(_COLLECT_EVERY)
            gc.collect()

    def judge_error(self, error: BaseException) -> None:
        """Report an exception that the program raised."""
        self.fail("raised", "".join(traceback.format_exception(error))[-3_000:])

    def run(self, program: Program, *, during: AbstractContextManager[object] | None = None) -> Verdict:
        """Run `program`, inside the context `during`, to its end or to the first violation."""
        begun, error = real_seconds(), None
        try:
            with sealed(self.random("entropy"), self.wall, self.clock.current_time), during or nullcontext():
                trio.run(self._main, program, clock=self.clock)
        except KeyboardInterrupt:
            raise
        except BaseException as caught:
            error = caught
        if error is not None and self.violation is None:
            self.judge_error(error)
        return Verdict(
            seed=self.seed,
            violation=self.violation,
            digest=self._hash.hexdigest(),
            lines=tuple(self.lines),
            known={kind: times for kind, times in self.known.items() if times},
            virtual=self.clock.current_time(),
            real=real_seconds() - begun,
        )


Program = Callable[[World], Awaitable[None]]
"""A program for `simulate`: an async function that takes the world."""


class Node:
    """A process in the world. It can be killed at any moment and started again."""

    def __init__(self, world: World, name: str, program: Callable[[Node], Awaitable[None]]) -> None:
        self.world = world
        self.name = name
        self._program = program
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    @property
    def running(self) -> bool:
        """Whether the program runs."""
        return self._scope is not None

    def start(self) -> None:
        """Run the program in a task of `world.nursery`. Raises RuntimeError if it already runs."""
        if self.running:
            raise RuntimeError(f"{self.name} is already running")
        self.world.log("node", self.name, "starts")
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.world.nursery.start_soon(self._run, self._scope, name=self.name)

    async def kill(self) -> None:
        """Kill the program at once, without waiting in its cleanup. Returns when it has ended."""
        if self._scope is not None:
            self.world.log("node", self.name, "is killed")
            self._scope.cancel()
            await self._ended.wait()

    async def wait_ended(self) -> None:
        """Wait until the program has ended. Returns at once if it doesn't run."""
        if self._scope is not None:
            await self._ended.wait()

    async def _run(self, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._program(self)
        finally:
            self._scope = None
            self._ended.set()
            self.world.log("node", self.name, "has ended")


def simulate(program: Program, seed: int, *, known: Iterable[str] = ()) -> Verdict:
    """Run `program(world)` in virtual time. Everything that could differ between two runs comes from `seed`.

    The run ends when the program returns or raises, or when `World.fail` or a failing `World.check` is called. An
    exception from the program is a violation of the kind `raised`, a task that outlives it one of the kind `tasks`. A
    program that takes more than a day of virtual time is stopped with a violation `no-end`. Violations of the kinds in
    `known` are counted and do not end the run.

    Call it outside of Trio, in a process without other active threads.
    """
    return World(seed, known=known).run(program)
