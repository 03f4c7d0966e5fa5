"""Supervision: restart budgets, their delays, and supervisors that restart actors together."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypedDict, TypeVar, Unpack

import attrs
import trio

from actorchat.actors._actor_task import live
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
    """How often a crashed actor is restarted: at most `max` times in `within` seconds (a sliding window).

    The delay before a restart is `backoff` seconds, doubled with each further crash up to `cap`, plus a random share
    of it up to `jitter`. After `within` seconds without a crash it starts again at `backoff`.
    """

    max: int = 3
    within: float = 60.0
    backoff: float = 0.0
    jitter: float = 0.1
    cap: float = 30.0


class Budget:
    """Counts the crashes of one actor or group against a `Restart`."""

    __slots__ = ("_crashes", "_last", "_random", "_restart", "_streak", "not_before")

    def __init__(self, restart: Restart, random: Random) -> None:
        self._restart, self._random = restart, random
        self._crashes: deque[float] = deque()
        self._streak = 0
        self._last = -inf
        self.not_before = -inf
        """The time before which a virtual actor that was given up is not activated again."""

    @property
    def remembered(self) -> float:
        """The time from which it is the same as a new budget."""
        return max(self.not_before, self._last + self._restart.within)

    def crash(self, now: float) -> float | None:
        """Count one crash. Returns the delay before the restart, or None if the budget is spent."""
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
        # The next activation has a fresh budget, but doesn't happen at once.
        crashes.clear()
        self.not_before = now + delay
        return None


class InboxOptions(TypedDict, Generic[M], total=False):
    """Keyword arguments of every `spawn`: the inbox of an actor."""

    inbox: int
    """The largest number of waiting messages, at least 1 (ValueError); 1,024 by default."""
    overflow: Overflow | Stop | Coalesce[M]
    """The policy for a message over that bound; `Overflow.REJECT` by default."""


class ActorOptions(InboxOptions[M], total=False):
    """Keyword arguments of `ActorSystem.spawn`, `start` and `virtual`."""

    restart: Restart | None
    """How often it is restarted after a crash; None, the default: never."""


@attrs.define(eq=False, kw_only=True)
class ChildSpec:
    """How the actor of an address is made, what its inbox accepts, and what follows a crash.

    This class is for one spawned actor: it restarts it or lets its crash propagate.
    """

    life: ClassVar[staticmethod[[Ref[NoReturn]], Coroutine[Any, Any, None]]] = staticmethod(live)
    virtual: ClassVar[bool] = False
    """The address becomes dormant when its incarnation ends; it does not stop."""

    _system: ActorSystem
    _nursery: trio.Nursery
    _factory: Callable[..., object]
    _inbox: int = 1024
    _overflow: Overflow | Stop | Coalesce[NoReturn] = Overflow.REJECT
    _restart: Restart | None = None
    _parent: str | None = None
    """The name of the family or supervisor."""
    _plain: bool = attrs.field(init=False)
    """Whether messages are queued unchanged and handled one by one."""

    def __attrs_post_init__(self) -> None:
        if not callable(self._factory):
            raise TypeError(f"expected a factory, a class or function that returns an Actor, not {self._factory!r}")
        if self._inbox < 1:
            raise ValueError("an inbox holds at least one message")
        self._plain = self._system._instrument is None and not isinstance(self._overflow, Coalesce)

    def _spawn(self, ref: Ref[NoReturn]) -> None:
        """Start the task of an address."""
        self._nursery.start_soon(self.life, ref, name=ref._name)

    def _make(self, ref: Ref[NoReturn]) -> object:
        """The object that the factory returns for the next incarnation."""
        return self._factory()

    def _activate(self, ref: Ref[NoReturn]) -> None:
        """Start an incarnation at a dormant address, unless the system is closing."""

    def _receptive(self, directive: Directive) -> bool:
        """Whether an address with the directive `directive` accepts messages."""
        return directive < Directive.DRAIN

    def _crashed(self, ref: Ref[NoReturn], error: Exception) -> float | None:
        """After a crash: the seconds until the next incarnation, inf if a supervisor decides, None for none.

        Raises the error that propagates.
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
        """Called when one of its addresses has changed its state."""

    def _ended(self, ref: Ref[NoReturn]) -> None:
        """Called when an address is about to become inactive."""
        self._system._forget(ref)


@attrs.define(eq=False, kw_only=True)
class _Child(ChildSpec):
    """One child of a supervisor. With a group strategy, the supervisor decides when it starts and restarts."""

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
    """Which children are restarted when one crashes."""

    ONE_FOR_ONE = "one_for_one"
    """Only the child itself. Each child has its own budget."""
    ONE_FOR_ALL = "one_for_all"
    """All children. They share one budget."""
    REST_FOR_ONE = "rest_for_one"
    """The child and those spawned after it. They share one budget."""


class Supervisor:
    """Children that live and are restarted together. Made by `open_supervisor`."""

    def __init__(
        self, system: ActorSystem, nursery: trio.Nursery, strategy: Strategy, restart: Restart, name: str
    ) -> None:
        self.name = name
        self._system, self._nursery, self._restart = system, nursery, restart
        self._grouped = strategy is not Strategy.ONE_FOR_ONE
        self._with_later = strategy is Strategy.REST_FOR_ONE
        self._budget = Budget(restart, system._random)
        self._children: dict[Ref[NoReturn], None] = {}
        self._crashed: dict[Ref[NoReturn], Exception] = {}
        self._change = trio.Event()
        """Called when a child has changed its state."""

    def spawn(
        self, factory: Callable[[], Actor[M]], name: str | None = None, **options: Unpack[InboxOptions[M]]
    ) -> Ref[M]:
        """Start a child; with a group strategy, after the children before it have started. See `ActorSystem.spawn`."""
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
        """Start and restart children until cancelled. Raises `TooManyRestarts` when the group's budget is spent."""
        while True:
            if self._crashed:
                await self._recover()
            waiting = next((ref for ref in self._children if self._grouped and ref._state is State.BACKOFF), None)
            if waiting is None:
                await self._wait_for_change()
                continue
            waiting._resume()
            # The child before it may have crashed meanwhile.
            while waiting._state not in _SETTLED and not self._crashed:
                await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        await self._change.wait()
        self._change = trio.Event()

    async def _recover(self) -> None:
        """Stop the children that the strategy names, and wait until they may start again."""
        ref, error = next(iter(self._crashed.items()))
        await self._bring_down()
        delay = self._budget.crash(trio.current_time())
        self._system._emit(EventKind.GAVE_UP if delay is None else EventKind.RESTARTING, ref, error)
        if delay is None:
            raise TooManyRestarts(ref.name) from error
        await trio.sleep(delay)
        # Children that crashed meanwhile are restarted in the same round.
        await self._bring_down()
        self._crashed.clear()

    async def _bring_down(self) -> None:
        """Stop children in reverse start order, each after its current message, or after `grace` seconds."""
        while True:
            affected = list(self._children)
            while self._with_later and affected and affected[0] not in self._crashed:
                del affected[0]
            # A child that is being stopped is not restarted: it continues to drain.
            standing = [ref for ref in affected if ref._state not in _DOWN and ref._directive < Directive.DRAIN]
            if not standing:
                return
            ref = standing[-1]
            ref._apply(Directive.RESTART)
            with trio.move_on_after(self._system._grace) as patience:
                await self._wait_till_down(ref)
            if patience.cancelled_caught and ref._directive is Directive.RESTART:
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
    """Supervise children in a nursery of their own while the body runs; `restart` is `Restart()` by default.

    When a child crashes, the children that the strategy names stop after their current message, in reverse start
    order, and start again in start order, each after the one before has started. Inboxes are kept; a child that is
    being stopped drains. When the body ends, children drain and stop in reverse order, and none can be spawned any
    more. A spent budget cancels the body and is raised as `TooManyRestarts` in an `ExceptionGroup`.
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
