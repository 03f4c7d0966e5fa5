"""Owns what follows a crash: restart budgets and their delays, who decides, and who is restarted with whom.

Knows no messages; what an actor does between two crashes is none of its business.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from random import Random
from typing import TYPE_CHECKING, ClassVar, Generic, NoReturn, TypedDict, TypeVar, Unpack

import attrs
import trio

from actorchat.actors._cell import live
from actorchat.actors._errors import ActorCrashed, SystemClosing, TooManyRestarts
from actorchat.actors._events import EventKind
from actorchat.actors._inbox import Coalesce, Overflow, Stop
from actorchat.actors._ref import Directive, Ref, State

if TYPE_CHECKING:
    from actorchat.actors._actor import Actor
    from actorchat.actors._system import ActorSystem

M = TypeVar("M")


@attrs.frozen
class Restart:
    """How often a crashed actor comes back: at most `max` times `within` seconds (a sliding window).

    The delay before a restart is `backoff` seconds, doubled with each further crash up to `cap`, and lengthened by a
    random share of it up to `jitter`. A crash-free `within` brings it back to `backoff`.
    """

    max: int = 3
    within: float = 60.0
    backoff: float = 0.0
    jitter: float = 0.1
    cap: float = 30.0


class Budget:
    """What is left of a `Restart`."""

    __slots__ = ("_crashes", "_last", "_random", "_restart", "_streak", "not_before")

    def __init__(self, restart: Restart, random: Random) -> None:
        self._restart, self._random = restart, random
        self._crashes: deque[float] = deque()
        self._streak = 0
        self._last = -inf
        self.not_before = -inf
        """The moment until which the next activation waits, after an actor was given up."""

    @property
    def remembered(self) -> float:
        """The moment from which it is as good as new."""
        return max(self.not_before, self._last + self._restart.within)

    def crash(self, now: float) -> float | None:
        """One crash more: the delay before the restart, or None if the budget is spent."""
        restart, crashes = self._restart, self._crashes
        if self.remembered < now:
            self._streak = 0
        while crashes and now - crashes[0] > restart.within:
            crashes.popleft()
        delay = min(restart.backoff * 2.0 ** min(self._streak, 60), restart.cap)
        delay *= 1.0 + restart.jitter * self._random.random()
        self._streak += 1
        self._last = now
        crashes.append(now)
        if len(crashes) <= restart.max:
            return delay
        # The next life has a fresh budget, but doesn't begin at once.
        crashes.clear()
        self.not_before = now + delay
        return None


class InboxOptions(TypedDict, Generic[M], total=False):
    """Keywords of every `spawn`: the inbox of an actor."""

    inbox: int
    """How many messages wait at most, 1 or more (ValueError); 1,024 unless given."""
    overflow: Overflow | Stop | Coalesce[M]
    """What becomes of one more; `Overflow.REJECT` unless given."""


class ActorOptions(InboxOptions[M], total=False):
    """Keywords of `ActorSystem.spawn`, `start` and `virtual`: how an actor is kept."""

    restart: Restart | None
    """How often it comes back after a crash; None, unless given: not at all."""


@attrs.define(eq=False, kw_only=True)
class ChildSpec:
    """Who keeps an address: makes its incarnations, says what it takes and what follows a crash.

    By itself it keeps one actor that was spawned: restarts it, or lets its crash propagate.
    """

    life = staticmethod(live)
    virtual: ClassVar[bool] = False
    """The address rests when its incarnation ends, and does not stop."""

    _system: ActorSystem
    _nursery: trio.Nursery
    _factory: Callable[..., object]
    _inbox: int = 1024
    _overflow: Overflow | Stop | Coalesce[NoReturn] = Overflow.REJECT
    _restart: Restart | None = None
    _parent: str | None = None
    """The name of the family or supervisor."""
    _plain: bool = attrs.field(init=False)
    """Whether messages go straight into the inbox, and one by one out of it."""

    def __attrs_post_init__(self) -> None:
        if not callable(self._factory):
            raise TypeError(f"expected a factory, a class or function that returns an Actor, not {self._factory!r}")
        if self._inbox < 1:
            raise ValueError("an inbox holds at least one message")
        self._plain = self._system._instrument is None and not isinstance(self._overflow, Coalesce)

    def _make(self, ref: Ref[NoReturn]) -> object:
        """What the factory returns for the next incarnation."""
        return self._factory()

    def _activate(self, ref: Ref[NoReturn]) -> None:
        """Start an incarnation at a dormant address, unless that is over."""

    def _receptive(self, order: Directive) -> bool:
        """Whether an address under `order` takes messages."""
        return order < Directive.DRAIN

    def _crashed(self, ref: Ref[NoReturn], error: Exception) -> float | None:
        """After a crash: in how many seconds the next incarnation starts, inf if somebody else says so, None if never.

        Raises what is to propagate.
        """
        delay = None
        if self._restart is not None:
            if ref._budget is None:
                ref._budget = Budget(self._restart, self._system._random)
            delay = ref._budget.crash(trio.current_time())
        self._system._emit(EventKind.GAVE_UP if delay is None else EventKind.RESTARTING, ref, error)
        if delay is None:
            self._give_up(ref, error)
        return delay

    def _give_up(self, ref: Ref[NoReturn], error: Exception) -> None:
        raise (ActorCrashed if self._restart is None else TooManyRestarts)(ref._name) from error

    def _moved(self) -> None:
        """An address of it is in another state."""

    def _ended(self, ref: Ref[NoReturn]) -> None:
        """The address is about to rest."""
        self._system._forget(ref)


@attrs.define(eq=False, kw_only=True)
class _Child(ChildSpec):
    """Keeps one child of a supervisor; under a group strategy it starts, and starts again, when that says so."""

    _supervisor: Supervisor

    def _crashed(self, ref: Ref[NoReturn], error: Exception) -> float | None:
        if not self._supervisor._grouped:
            return super()._crashed(ref, error)
        self._supervisor._crashed[ref] = error
        return inf

    def _moved(self) -> None:
        self._supervisor._change.set()

    def _ended(self, ref: Ref[NoReturn]) -> None:
        super()._ended(ref)
        del self._supervisor._children[ref]
        self._supervisor._crashed.pop(ref, None)


class Strategy(enum.Enum):
    """Who is restarted when a child crashes."""

    ONE_FOR_ONE = "one_for_one"
    """The child. The budget is each child's own."""
    ONE_FOR_ALL = "one_for_all"
    """All children. The budget is the group's."""
    REST_FOR_ONE = "rest_for_one"
    """The child and those that were spawned after it. The budget is the group's."""


class Supervisor:
    """Children that live and are restarted together. Made by `open_supervisor`."""

    def __init__(
        self, system: ActorSystem, nursery: trio.Nursery, strategy: Strategy, restart: Restart, name: str
    ) -> None:
        self.name = name
        self._system, self._nursery, self._restart = system, nursery, restart
        self._grouped = strategy is not Strategy.ONE_FOR_ONE
        self._rest = strategy is Strategy.REST_FOR_ONE
        self._budget = Budget(restart, system._random)
        self._children: dict[Ref[NoReturn], None] = {}
        self._crashed: dict[Ref[NoReturn], Exception] = {}
        self._change = trio.Event()
        """A child has moved to another state."""

    def spawn(
        self, factory: Callable[[], Actor[M]], name: str | None = None, **options: Unpack[InboxOptions[M]]
    ) -> Ref[M]:
        """Start a child; under a group strategy once those spawned before it have started. See `ActorSystem.spawn`."""
        if self._nursery.cancel_scope.cancel_called:
            raise SystemClosing
        child = _Child(
            system=self._system,
            nursery=self._nursery,
            restart=self._restart,
            parent=self.name,
            factory=factory,
            supervisor=self,
            **options,
        )
        ref = self._system._enter(child, name)
        self._children[ref] = None
        ref._start(inf if self._grouped else 0.0)
        return ref

    async def _run(self) -> None:
        """Start what waits, till cancelled. Raises `TooManyRestarts` when the group's budget is spent."""
        while True:
            if self._crashed:
                await self._recover()
            waiting = next((ref for ref in self._children if self._grouped and ref._state is State.BACKOFF), None)
            if waiting is None:
                await self._wait_for_change()
                continue
            waiting._resume()
            # It may wait for one that has crashed meanwhile.
            while waiting._state not in _SETTLED and not self._crashed:
                await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        await self._change.wait()
        self._change = trio.Event()

    async def _recover(self) -> None:
        """Bring down those that the strategy names, and wait till they may start again."""
        ref, error = next(iter(self._crashed.items()))
        await self._bring_down()
        delay = self._budget.crash(trio.current_time())
        self._system._emit(EventKind.GAVE_UP if delay is None else EventKind.RESTARTING, ref, error)
        if delay is None:
            raise TooManyRestarts(ref.name) from error
        await trio.sleep(delay)
        # Who crashed meanwhile joins the round.
        await self._bring_down()
        self._crashed.clear()

    async def _bring_down(self) -> None:
        """In reverse start order, each after its current message; a handler that takes longer than `grace` is cut."""
        while True:
            affected = list(self._children)
            while self._rest and affected and affected[0] not in self._crashed:
                del affected[0]
            # Who is being stopped is not restarted: it goes on handling what waits.
            standing = [ref for ref in affected if ref._state not in _DOWN and ref._order < Directive.DRAIN]
            if not standing:
                return
            ref = standing[-1]
            ref._give(Directive.RESTART)
            with trio.move_on_after(self._system._grace) as patience:
                await self._wait_till_down(ref)
            if patience.cancelled_caught and ref._order is Directive.RESTART:
                ref._cut()

    async def _wait_till_down(self, ref: Ref[NoReturn]) -> None:
        while ref._state not in _DOWN:
            await self._wait_for_change()

    async def _stop(self) -> None:
        """Stop the children in reverse order, draining, within the system's `drain` seconds; then kill them."""
        with trio.move_on_after(self._system._drain):
            for ref in list(self._children)[::-1]:
                ref.stop()
                await ref.join()
        for ref in list(self._children):
            ref.kill()
        for ref in list(self._children):
            await ref.join()


_DOWN = frozenset({State.BACKOFF, State.STOPPED})
_SETTLED = _DOWN | {State.RUNNING}


@asynccontextmanager
async def open_supervisor(
    system: ActorSystem,
    strategy: Strategy = Strategy.ONE_FOR_ONE,
    restart: Restart | None = None,
    *,
    name: str = "supervisor",
) -> AsyncIterator[Supervisor]:
    """Supervise children around the body, in a nursery of their own; `restart` is `Restart()` unless given.

    When a child crashes, those that the strategy names stop after their current message, in reverse start order, and
    start in start order, each when the one before has started. Inboxes stay; a child that is being stopped is left to
    drain. When the body ends, children stop in reverse order, draining, and no more can be spawned. A spent budget
    cancels the body and leaves as `TooManyRestarts`, in an `ExceptionGroup`.
    """
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(system, nursery, strategy, restart or Restart(), name)
        nursery.start_soon(supervisor._run, name=name)
        try:
            yield supervisor
            await supervisor._stop()
        finally:
            nursery.cancel_scope.cancel()
            for ref in list(supervisor._children):
                ref._hurry()
