"""Owns what follows a crash: restart budgets and their delays, and who decides. Knows no inbox and no messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar, cast

import attrs
import trio

from actorchat.actors._errors import ActorCrashed, TooManyRestarts
from actorchat.actors._events import Cause, End, What
from actorchat.actors._ref import Order, Ref, State

if TYPE_CHECKING:
    from actorchat.actors._actor import Actor

__all__ = ["OPEN", "Alone", "Budget", "Keeper", "Restart", "back_off"]


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

    __slots__ = ("_crashes", "_random", "_streak", "penalty", "restart")

    def __init__(self, restart: Restart, random: Random) -> None:
        self.restart, self._random = restart, random
        self._crashes: deque[float] = deque()
        self._streak = 0
        self.penalty = 0.0
        """Seconds the next activation waits, after an actor was given up."""

    def crash(self, now: float) -> float | None:
        """One crash more: the delay before the restart, or None if the budget is spent."""
        restart, crashes = self.restart, self._crashes
        if not crashes or now - crashes[-1] > restart.within:
            self._streak = 0
        while crashes and now - crashes[0] > restart.within:
            crashes.popleft()
        delay = min(restart.backoff * 2.0 ** min(self._streak, 60), restart.cap)
        delay *= 1.0 + restart.jitter * self._random.random()
        self._streak += 1
        crashes.append(now)
        if len(crashes) > restart.max:
            # The next life has a fresh budget, but doesn't begin at once.
            crashes.clear()
            crashes.append(now)
            self.penalty = delay
            return None
        return delay


class Keeper(Protocol):
    """Who keeps an address: says what it takes, and what follows a crash."""

    @property
    def virtual(self) -> bool:
        """The address rests when its incarnation ends, and does not stop."""

    @property
    def cuts(self) -> bool:
        """An incarnation can be cut short, through `Ref._cut`, without killing the address."""

    @property
    def parent(self) -> str | None:
        """The name of the family or supervisor."""

    def make(self, ref: Ref[NoReturn]) -> Actor[NoReturn]:
        """The next incarnation."""

    def activate(self, ref: Ref[NoReturn]) -> None:
        """Start an incarnation at a dormant address, unless that is over."""

    async def admit(self, ref: Ref[NoReturn]) -> None:
        """Wait till the first incarnation of this task may start."""

    def receptive(self, order: Order | None) -> bool:
        """Whether an address under `order` takes messages."""

    def revives(self, ref: Ref[NoReturn], end: End) -> bool:
        """Whether a next incarnation may follow `end` in the same task."""

    async def recover(self, ref: Ref[NoReturn], error: BaseException) -> bool:
        """After a crash, wait till the next incarnation may start. False: there is none. Raises to propagate."""

    async def rejoin(self, ref: Ref[NoReturn]) -> None:
        """After a restart that a sibling's crash brought, wait till the next incarnation may start."""

    def ended(self, ref: Ref[NoReturn]) -> None:
        """The task of `ref` is about to end."""


async def back_off(ref: Ref[NoReturn], delay: float) -> None:
    """Wait `delay` seconds with the inbox open within its bound. An order to stop cuts it short."""
    ref._state = State.BACKOFF
    if ref._spec.keeper.receptive(ref._order):
        ref._open()
    await trio.lowlevel.checkpoint()
    if delay > 0 and ref._order not in (Order.DRAIN, Order.STOP):
        with trio.move_on_after(delay) as ref._pause:
            await trio.sleep_forever()
        ref._pause = None


class Alone:
    """Keeps one actor that was spawned by itself: restarts it, or lets its crash propagate."""

    __slots__ = ("_factory", "_restart", "parent")

    virtual = cuts = False

    def __init__(self, factory: Callable[[], Actor[M]], restart: Restart | None, parent: str | None = None) -> None:
        self._factory, self._restart, self.parent = factory, restart, parent

    def make(self, ref: Ref[NoReturn]) -> Actor[NoReturn]:
        return cast("Actor[NoReturn]", self._factory())

    def activate(self, ref: Ref[NoReturn]) -> None:
        raise AssertionError("a spawned actor is never dormant")

    async def admit(self, ref: Ref[NoReturn]) -> None:
        """At once."""

    def receptive(self, order: Order | None) -> bool:
        return order in OPEN

    def revives(self, ref: Ref[NoReturn], end: End) -> bool:
        return end.cause is Cause.CRASHED and self._restart is not None

    async def recover(self, ref: Ref[NoReturn], error: BaseException) -> bool:
        if self._restart is None:
            raise ActorCrashed(ref._name) from error
        if ref._budget is None:
            ref._budget = Budget(self._restart, ref._system.random)
        delay = ref._budget.crash(trio.current_time())
        if delay is None:
            ref._system.emit(What.GAVE_UP, ref, error)
            raise TooManyRestarts(ref._name) from error
        ref._system.emit(What.RESTARTING, ref, error)
        await back_off(ref, delay)
        return True

    async def rejoin(self, ref: Ref[NoReturn]) -> None:
        raise AssertionError("only siblings are restarted for one another")

    def ended(self, ref: Ref[NoReturn]) -> None:
        ref._system.forget(ref)


OPEN = frozenset({None, Order.PASSIVATE, Order.RESTART})
