"""Owns actors that are restarted together: who stops, in which order they come back, when it is too much.

Knows no messages; what one child does between two crashes is none of its business.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn, TypeVar, cast

import trio

from actorchat.actors._actor import Actor
from actorchat.actors._errors import TooManyRestarts
from actorchat.actors._events import Cause, End, What
from actorchat.actors._inbox import Coalesce, Overflow
from actorchat.actors._ref import Order, Ref
from actorchat.actors._supervise import OPEN, Alone, Budget, Restart, back_off
from actorchat.actors._system import INBOX, ActorSystem

__all__ = ["Strategy", "Supervisor", "open_supervisor"]

M = TypeVar("M")


class Strategy(enum.Enum):
    """Who is restarted when a child crashes."""

    ONE_FOR_ONE = "one_for_one"
    """The child. The budget is each child's own."""
    ONE_FOR_ALL = "one_for_all"
    """All children. The budget is the group's."""
    REST_FOR_ONE = "rest_for_one"
    """The child and those that were spawned after it. The budget is the group's."""


class _Child:
    """Keeps one of several siblings: it starts, and starts again, when its supervisor opens the gate."""

    virtual = False
    cuts = True

    def __init__(self, supervisor: Supervisor, factory: Callable[[], Actor[NoReturn]]) -> None:
        self._supervisor, self._factory = supervisor, factory
        self.parent: str | None = supervisor.name
        self.gate = trio.Event()
        self.ready = trio.Event()
        """Started, or at least not about to."""
        self.down = trio.Event()
        """At the gate, or gone."""

    def open(self) -> None:
        """Let it start (again)."""
        self.ready, self.down = trio.Event(), trio.Event()
        self.gate.set()

    def make(self, ref: Ref[NoReturn]) -> Actor[NoReturn]:
        ref._ready = self._started
        return self._factory()

    def activate(self, ref: Ref[NoReturn]) -> None:
        raise AssertionError("a spawned actor is never dormant")

    async def admit(self, ref: Ref[NoReturn]) -> None:
        await self._supervisor.wait_before(self)

    def receptive(self, order: Order | None) -> bool:
        return order in OPEN

    def revives(self, ref: Ref[NoReturn], end: End) -> bool:
        return end.cause in (Cause.CRASHED, Cause.RESTARTED)

    async def recover(self, ref: Ref[NoReturn], error: BaseException) -> bool:
        self._supervisor.report(self, error)
        await self.rejoin(ref)
        return True

    async def rejoin(self, ref: Ref[NoReturn]) -> None:
        self.gate = trio.Event()
        self.down.set()
        await back_off(ref, 0.0)
        await self.gate.wait()

    def ended(self, ref: Ref[NoReturn]) -> None:
        ref._system.forget(ref)
        self._supervisor.forget(self)
        self.down.set()
        self.ready.set()

    def _started(self, error: BaseException | None) -> bool:
        if error is not None and self in self._supervisor:
            self._supervisor.report(self, error)
        self.ready.set()
        return False


class Supervisor:
    """Children that live and are restarted together. Made by `open_supervisor`."""

    def __init__(
        self, system: ActorSystem, nursery: trio.Nursery, strategy: Strategy, restart: Restart, name: str
    ) -> None:
        self.name = name
        self._system, self._nursery = system, nursery
        self._strategy, self._restart = strategy, restart
        self._budget = Budget(restart, system.random)
        self._refs: list[Ref[NoReturn]] = []
        self._children: dict[_Child, Ref[NoReturn]] = {}
        self._crashed: dict[_Child, BaseException] = {}
        self._alarm = trio.Event()

    def spawn(
        self,
        factory: Callable[[], Actor[M]],
        name: str | None = None,
        *,
        inbox: int = INBOX,
        overflow: Overflow | Coalesce[M] = Overflow.REJECT,
    ) -> Ref[M]:
        """Start a child; under a group strategy once those spawned before it have started. See `ActorSystem.spawn`."""
        ref: Ref[M]
        if self._strategy is Strategy.ONE_FOR_ONE:
            alone = Alone(factory, self._restart, self.name)
            ref = self._system.spawn_in(self._nursery, alone, factory, name, inbox=inbox, overflow=overflow)
        else:
            child = _Child(self, cast("Callable[[], Actor[NoReturn]]", factory))
            ref = self._system.spawn_in(self._nursery, child, factory, name, inbox=inbox, overflow=overflow)
            self._children[child] = ref
        self._refs.append(ref)
        return ref

    # For its children

    def __contains__(self, child: object) -> bool:
        return child in self._children

    async def wait_before(self, child: _Child) -> None:
        """Wait till the child before this one has started, or is gone."""
        before = None
        for other in self._children:
            if other is child:
                break
            before = other
        if before is not None:
            await before.ready.wait()

    def report(self, child: _Child, error: BaseException) -> None:
        self._crashed[child] = error
        self._alarm.set()

    def forget(self, child: _Child) -> None:
        self._children.pop(child, None)
        self._crashed.pop(child, None)

    # Its own task

    async def run(self) -> None:
        """Bring back what crashed, till cancelled. Raises `TooManyRestarts` when the group's budget is spent."""
        while True:
            await self._alarm.wait()
            self._alarm = trio.Event()
            while self._crashed:
                await self._round()

    async def _round(self) -> None:
        child, error = next(iter(self._crashed.items()))
        ref = self._children[child]
        affected = await self._stop_affected()
        delay = self._budget.crash(trio.current_time())
        if delay is None:
            self._system.emit(What.GAVE_UP, ref, error)
            raise TooManyRestarts(ref.name) from error
        self._system.emit(What.RESTARTING, ref, error)
        await trio.sleep(delay)
        self._crashed.clear()
        for each in affected:
            if each in self._children:
                each.open()
                await each.ready.wait()
            if self._crashed:
                return

    async def _stop_affected(self) -> list[_Child]:
        """Those to be restarted, all of them down, in start order. A crash meanwhile joins the round."""
        while True:
            affected = list(self._children)
            if self._strategy is Strategy.REST_FOR_ONE:
                while affected and affected[0] not in self._crashed:
                    del affected[0]
            standing = [child for child in affected if not child.down.is_set()]
            if not standing:
                return affected
            await self._bring_down(standing[-1])

    async def _bring_down(self, child: _Child) -> None:
        """After its current message; a handler that takes longer than `grace` is cut."""
        ref = self._children[child]
        ref._give(Order.RESTART)
        with trio.move_on_after(self._system.grace):
            await child.down.wait()
            return
        if ref._cut is not None:
            ref._cut.cancel()
        await child.down.wait()

    def hurry(self) -> None:
        for ref in self._refs:
            ref._hurry()

    async def stop(self) -> None:
        """Stop the children in reverse order, draining, within the system's `drain` seconds; then kill them."""
        with trio.move_on_after(self._system.drain):
            for ref in reversed(self._refs):
                ref.stop()
                await ref.join()
        for ref in self._refs:
            ref.kill()
        for ref in self._refs:
            await ref.join()


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
    start in start order, each when the one before has started. Inboxes stay. When the body ends, children stop in
    reverse order, draining. A spent budget cancels the body and leaves as `TooManyRestarts`, in an `ExceptionGroup`.
    """
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(system, nursery, strategy, restart or Restart(), name)
        nursery.start_soon(supervisor.run, name=name)
        try:
            yield supervisor
            await supervisor.stop()
        finally:
            nursery.cancel_scope.cancel()
            supervisor.hurry()
