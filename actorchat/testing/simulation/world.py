"""One simulated world: its time, its randomness, its network, what happened in it, and what broke.

`simulate` runs a program in a world of its own and returns a `Verdict`.
"""

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
"""What every world's wall clock says at its start."""

_COLLECT_EVERY: Final = 20.0
_LIMIT: Final = 86_400.0


class Violation(Exception):  # noqa: N818 - it is what was found, not what went wrong here
    """A promise was broken. `kind` names which, `at` is the moment of the world's clock."""

    def __init__(self, kind: str, detail: str, at: float) -> None:
        super().__init__(f"{kind} at {at:.3f} s: {detail}")
        self.kind = kind
        self.detail = detail
        self.at = at


@attrs.frozen(kw_only=True)
class Verdict:
    """What came of one run.

    `digest` is a hash of `lines`, which is everything that happened: the same seed gives the same digest. `known`
    counts violations of the kinds that the run was told to ignore. `virtual` and `real` are seconds.
    """

    seed: int
    violation: Violation | None
    digest: str
    lines: tuple[str, ...] = attrs.field(repr=False)
    known: dict[str, int] = attrs.field(factory=dict)
    virtual: float
    real: float

    def check(self) -> None:
        """Raise the violation, if there is one, with the seed in its text."""
        if self.violation is not None:
            self.violation.add_note(f"seed {self.seed}, digest {self.digest}; what happened last:")
            for line in self.lines[-20:]:
                self.violation.add_note(f"  {line}")
            raise self.violation


class World:
    """Made by `simulate`, and given to the program.

    `nursery` is for tasks that live as long as the world. `network` is what connections go over. `environment` is what
    `actorchat.open_server` takes, so that a server lives in this world.
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
        """A generator of its own for `name`: the same in every run of this seed, whatever others draw."""
        return Random(f"{self.seed}/{name}")  # noqa: S311 - repeatable is the point

    def wall(self) -> float:
        """Epoch seconds."""
        return EPOCH + self._wall_offset + self.clock.current_time()

    def jump_clock(self, seconds: float) -> None:
        """Set the wall clock forward, or back. Trio's clock goes on."""
        self._wall_peak = self.latest_wall
        self._wall_offset += seconds

    @property
    def latest_wall(self) -> float:
        """The latest time that the wall clock has ever shown."""
        return max(self._wall_peak, self.wall())

    def _make_stopwatch(self) -> Callable[[], float]:
        # The reactor's budget of time: now and then a pass is over early.
        chance, shown = self.random("stopwatch"), 0.0

        def stopwatch() -> float:
            nonlocal shown
            shown += 1.0 if chance.random() < 0.02 else 0.0
            return shown

        return stopwatch

    # What happens

    def log(self, *what: object) -> None:
        """Note that something happened. Give values only: text with an address in it differs from run to run."""
        line = f"{self.clock.current_time():.6f} {' '.join(map(str, what))}"
        self.lines.append(line)
        self._hash.update(line.encode("utf-8", "surrogateescape"))

    def fail(self, kind: str, detail: str) -> None:
        """Say that the promise `kind` was broken. The first one ends the run; kinds that are known are counted."""
        if kind in self.known:
            self.known[kind] += 1
            self.log("known violation:", kind, detail)
        elif self.violation is None:
            self.violation = Violation(kind, detail, self.clock.current_time())
            self.log("VIOLATION:", kind, detail)
            self._stop.cancel()

    def check(self, condition: object, kind: str, detail: str) -> None:
        """`fail`, unless `condition`."""
        if not condition:
            self.fail(kind, detail)

    # What there is

    async def dial(self, port: int) -> ClientStream:
        """Connect over the network. Raises ConnectionRefusedError if nothing listens there."""
        return await ClientStream.dial(self.network, port)

    def listen(self, port: int) -> Listener:
        """A listener for `trio.serve_listeners`. Raises OSError if the port is in use."""
        return Listener(self.descriptors, port)

    def node(self, name: str, program: Callable[[Node], Awaitable[None]]) -> Node:
        """A part of the world that can be killed and started again: `program` is its process."""
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
            self.check(not left, "tasks", f"{left} tasks are left")

    async def _collect(self) -> None:
        while True:
            await trio.sleep(_COLLECT_EVERY)
            gc.collect()

    def judge_error(self, error: BaseException) -> None:
        """Fail because the program raised `error`."""
        self.fail("raised", "".join(traceback.format_exception(error))[-3_000:])

    def run(self, program: Program, *, during: AbstractContextManager[object] | None = None) -> Verdict:
        """Run `program` to its end, or to the first violation. `during` is entered meanwhile."""
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
"""What `simulate` runs: any async function of a world."""


class Node:
    """One process in the world. `start` it in `world.nursery`, `kill` it at any moment, start it again."""

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
        """Run the program in a task of the world. Raises RuntimeError if it runs."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self.world.log("node", self.name, "starts")
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.world.nursery.start_soon(self._run, self._scope, name=self.name)

    async def kill(self) -> None:
        """End it wherever it is; cleanup that waits is cut short. Returns when it is gone."""
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
    """Run `program(world)` in virtual time; everything that could differ between two runs comes from `seed`.

    The run ends when the program returns, raises, or a check fails: `World.fail` and `World.check` say so. An
    exception that leaves the program is a violation of the kind `raised`, a task that outlives it one of the kind
    `tasks`; a program that takes more than a day of virtual time is stopped (`no-end`). `known` are kinds of
    violations that are counted and do not end the run.

    Must be called outside of Trio, in a process whose threads do nothing meanwhile.
    """
    return World(seed, known=known).run(program)
