"""Owns families of virtual actors: one address per key, activated by its first message, passivated when idle.

Knows neither what an actor does nor what its anchor holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import isinf
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar, cast
from weakref import WeakValueDictionary

import trio

from actorchat.actors._events import Cause, End, What
from actorchat.actors._life import run
from actorchat.actors._ref import Order, Ref, Spec, State
from actorchat.actors._supervise import Budget, Restart, back_off

if TYPE_CHECKING:
    from actorchat.actors._actor import Actor
    from actorchat.actors._inbox import Coalesce, Overflow
    from actorchat.actors._system import ActorSystem

__all__ = ["Virtual"]

K = TypeVar("K")
M = TypeVar("M")
A = TypeVar("A")

_log = logging.getLogger("actorchat.actors")


class Virtual(Generic[K, M, A]):
    """A family of virtual actors, made by `ActorSystem.virtual`. `family[key]` is an address; nothing runs yet.

    A message or signal activates; `idle` seconds (at most twice that) without one, an empty inbox and the actor's
    `can_passivate` passivate. Never two incarnations of one key at once; a message that comes during `on_stop` waits
    and activates the next. An address, and its anchor with it, lives as long as somebody holds the `Ref`, or an
    incarnation lives: till then each look-up gives the same one.

    A crash is the family's own affair and never leaves it. With the restart budget spent, or no `restart` at all, the
    incarnation is given up: what waits becomes dead letters, `on_give_up` is called, watchers get their `Down`, and
    the next message activates anew, after the backoff.
    """

    virtual = True
    cuts = False

    def __init__(
        self,
        system: ActorSystem,
        nursery: trio.Nursery,
        factory: Callable[[K, A], Actor[M]],
        *,
        name: str,
        idle: float,
        bound: int,
        overflow: Overflow | Coalesce[M],
        restart: Restart | None,
        anchor: Callable[[K], A],
        on_give_up: Callable[[K, A, BaseException], object] | None,
    ) -> None:
        self.name = name
        self.parent: str | None = name
        self._system, self._factory, self._anchor = system, factory, anchor
        self._idle, self._restart, self._on_give_up = idle, restart, on_give_up
        self._spec = Spec(nursery, bound, overflow, self)
        self._refs: WeakValueDictionary[K, _Address[K, M]] = WeakValueDictionary()
        self._live: dict[Ref[NoReturn], int] = {}
        """With each address the count of what it had handled at the last look."""
        self._looking = False
        self._closed = False

    def __getitem__(self, key: K) -> Ref[M]:
        ref = self._refs.get(key)
        if ref is None:
            ref = self._refs[key] = _Address(self._system, self._spec, key)
            ref._anchor = self._anchor(key)
        return ref

    def anchor(self, key: K) -> A:
        """What the address of `key` carries from incarnation to incarnation. Made by `anchor(key)`, once per address.

        Hold the `Ref`, or send a message, to keep it: by itself it doesn't keep the address.
        """
        return cast("A", self[key]._anchor)

    @property
    def active(self) -> int:
        """How many incarnations live."""
        return len(self._live)

    def live(self) -> tuple[Ref[NoReturn], ...]:
        return tuple(self._live)

    def close(self) -> None:
        """Take no more messages; the incarnations that live drain and stop."""
        self._closed = True
        for ref in self.live():
            ref._give(Order.DRAIN)

    # As their keeper

    def make(self, ref: Ref[NoReturn]) -> Actor[NoReturn]:
        actor = self._factory(cast("_Address[K, M]", ref).key, cast("A", ref._anchor))
        return cast("Actor[NoReturn]", actor)

    def activate(self, ref: Ref[NoReturn]) -> None:
        if self._closed or not self._system.open:
            return
        ref._state = State.STARTING
        ref._order = None
        ref._scope = trio.CancelScope()
        ref._open()
        self._live[ref] = -1
        self._spec.nursery.start_soon(run, ref, name=ref._name)
        if not self._looking and not isinf(self._idle):
            self._looking = True
            self._spec.nursery.start_soon(self._look, name=f"{self.name} idle")

    async def admit(self, ref: Ref[NoReturn]) -> None:
        if ref._budget is not None and ref._budget.penalty:
            penalty, ref._budget.penalty = ref._budget.penalty, 0.0
            await back_off(ref, penalty)

    def receptive(self, order: Order | None) -> bool:
        return order not in (Order.STOP, Order.KILL) and not self._closed

    def revives(self, ref: Ref[NoReturn], end: End) -> bool:
        # Closed or not: what was taken is handled, and drained by the next incarnation if need be.
        return ref._order not in (Order.STOP, Order.KILL) and end.cause in (
            Cause.PASSIVATED,
            Cause.STOPPED,
            Cause.CRASHED,
        )

    async def recover(self, ref: Ref[NoReturn], error: BaseException) -> bool:
        delay = None
        if self._restart is not None:
            if ref._budget is None:
                ref._budget = Budget(self._restart, self._system.random)
            delay = ref._budget.crash(trio.current_time())
        if delay is not None:
            self._system.emit(What.RESTARTING, ref, error)
            await back_off(ref, delay)
            return True
        self._system.emit(What.GAVE_UP, ref, error)
        if self._on_give_up is not None:
            try:
                self._on_give_up(cast("_Address[K, M]", ref).key, cast("A", ref._anchor), error)
            except Exception:
                _log.exception("on_give_up for %s failed", ref._name)
        return False

    async def rejoin(self, ref: Ref[NoReturn]) -> None:
        raise AssertionError("virtual actors have no siblings")

    def ended(self, ref: Ref[NoReturn]) -> None:
        del self._live[ref]

    async def _look(self) -> None:
        """Passivate what has handled nothing since the last look: no clock is read per message."""
        while self._live:
            await trio.sleep(self._idle)
            self._look_once()
        self._looking = False

    def _look_once(self) -> None:
        # In a frame of its own: what it holds would keep an address alive while `_look` sleeps.
        for ref, before in list(self._live.items()):
            inbox = ref._inbox
            handled = inbox.begun + inbox.handled
            if handled == before and inbox.sleeper is not None and inbox.empty:
                ref._give(Order.PASSIVATE)
            else:
                self._live[ref] = handled


class _Address(Ref[M], Generic[K, M]):
    """The address of one key."""

    __slots__ = ("key",)

    def __init__(self, system: ActorSystem, spec: Spec, key: K) -> None:
        super().__init__(system, spec, str(key), State.DORMANT)
        self.key = key
