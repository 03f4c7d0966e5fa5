"""Owns one actor system: who lives in it, the order in which it stops, its clock and its books.

There is nothing process-wide: two systems in one process do not meet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf
from random import Random
from typing import NoReturn, TypeVar, Unpack, cast, overload

import attrs
import trio
from trio.lowlevel import Task, wait_task_rescheduled

from actorchat.actors._actor import Actor
from actorchat.actors._clock import Clock
from actorchat.actors._errors import SystemClosing
from actorchat.actors._events import ActorInfo, DeadLetter, DeadLetters, Event, EventKind, Events, Instrument
from actorchat.actors._inspect import inspect, watch_stuck
from actorchat.actors._ref import Ref, State
from actorchat.actors._request import Call
from actorchat.actors._supervise import ActorOptions, ChildSpec
from actorchat.actors._virtual import Virtual

K = TypeVar("K")
M = TypeVar("M")
A = TypeVar("A")


@attrs.define(eq=False)
class ActorSystem:
    """Actors, and one nursery that all of them live in. Made by `open_system`."""

    dead_letters: DeadLetters
    _nursery: trio.Nursery
    _drain: float
    _grace: float
    _limit: float
    _random: Random
    _instrument: Instrument | None
    late_replies: int = attrs.field(default=0, init=False)
    """Replies that came when nobody waited any more."""
    abandoned: int = attrs.field(default=0, init=False)
    """Asks that were cancelled or timed out before they began, and so never did."""
    _open: bool = attrs.field(default=True, init=False)
    _clock: Clock = attrs.field(factory=Clock, init=False)
    _tasks: dict[Task, Ref[NoReturn]] = attrs.field(factory=dict, init=False)
    _unsettled: trio.Event | None = attrs.field(default=None, init=False)
    _observers: dict[Callable[[Event], None], None] = attrs.field(factory=dict, init=False)
    _roots: dict[Ref[NoReturn] | Virtual[Hashable, NoReturn, object], None] = attrs.field(factory=dict, init=False)
    _names: dict[str, Ref[NoReturn]] = attrs.field(factory=dict, init=False)
    _count: int = attrs.field(default=0, init=False)

    # Starting

    def spawn(
        self, factory: Callable[[], Actor[M]], name: str | None = None, **options: Unpack[ActorOptions[M]]
    ) -> Ref[M]:
        """Start an actor made by `factory`, which is called again for each restart. Returns before `on_start`.

        Options are those of `ActorOptions`. Without `restart` its crash leaves through `open_system` as `ActorCrashed`,
        in an `ExceptionGroup`. It lives in the system's nursery: cancel scopes around the caller don't bound it. `name`
        is unique among those alive (ValueError).

        Raises `SystemClosing` once the system drains, and TypeError if `factory` can't be called. If what it returns is
        no `Actor`, or one that it returned before, the actor crashes with a TypeError.
        """
        keeper = ChildSpec(system=self, nursery=self._nursery, parent=None, factory=factory, **options)
        ref = self._enter(keeper, name)
        ref._start()
        return ref

    async def start(
        self, factory: Callable[[], Actor[M]], name: str | None = None, **options: Unpack[ActorOptions[M]]
    ) -> Ref[M]:
        """`spawn`, and wait for the first `on_start`. What that raises is raised here only; it is not retried.

        Cancelled meanwhile, the actor is killed.
        """
        ref = self.spawn(factory, name, **options)
        call = ref._starter = Call(None, ref)
        try:
            await wait_task_rescheduled(call.abort)
        except trio.Cancelled:
            ref._starter = None
            ref.kill()
            raise
        return ref

    @overload
    def virtual(
        self,
        factory: Callable[[K, A], Actor[M]],
        *,
        anchor: Callable[[K], A],
        idle: float = ...,
        on_give_up: Callable[[K, A, BaseException], object] | None = ...,
        name: str | None = ...,
        **options: Unpack[ActorOptions[M]],
    ) -> Virtual[K, M, A]: ...

    @overload
    def virtual(
        self,
        factory: Callable[[K], Actor[M]],
        *,
        idle: float = ...,
        on_give_up: Callable[[K, None, BaseException], object] | None = ...,
        name: str | None = ...,
        **options: Unpack[ActorOptions[M]],
    ) -> Virtual[K, M, None]: ...

    def virtual(
        self,
        factory: Callable[..., Actor[M]],
        *,
        anchor: Callable[[K], A] | None = None,
        idle: float = inf,
        on_give_up: Callable[[K, A, BaseException], object] | None = None,
        name: str | None = None,
        **options: Unpack[ActorOptions[M]],
    ) -> Virtual[K, M, A]:
        """A family of virtual actors, one per key, each made by `factory(key, anchor)` (or `factory(key)`) when needed.

        `anchor(key)` makes what must outlive incarnations, once per address. `idle` in seconds; without it no actor is
        passivated. `on_give_up(key, anchor, error)` is called in the step in which an actor is given up. See `Virtual`.

        Raises `SystemClosing` once the system drains.
        """
        if not self._open:
            raise SystemClosing
        family = Virtual[K, M, A](
            system=self,
            nursery=self._nursery,
            parent=name or getattr(factory, "__name__", "virtual"),
            factory=factory,
            anchor=anchor,
            idle=idle,
            on_give_up=on_give_up,
            **options,
        )
        self._roots[cast("Virtual[Hashable, NoReturn, object]", family)] = None
        return family

    def _enter(self, keeper: ChildSpec, name: str | None) -> Ref[object]:
        """An address for what `keeper` keeps, not started yet."""
        if not self._open:
            raise SystemClosing
        if name in self._names:
            raise ValueError(f"an actor named {name} is alive already")
        self._count += 1
        label = name if name is not None else f"{getattr(keeper._factory, '__name__', 'actor')}-{self._count}"
        ref = Ref[object](self, keeper, label, State.STARTING)
        if name is not None:
            self._names[name] = ref
        self._roots[ref] = None
        return ref

    def _forget(self, ref: Ref[NoReturn]) -> None:
        self._roots.pop(ref, None)
        if self._names.get(ref._name) is ref:
            del self._names[ref._name]

    # Telling what happens

    def _emit(self, what: EventKind, ref: Ref[NoReturn], error: BaseException | None = None, detail: str = "") -> None:
        if self._observers:
            event = Event(what, ref._name, error, detail)
            for observer in tuple(self._observers):
                observer(event)

    # Looking in

    def find(self, name: str, kind: type[Actor[M]]) -> Ref[M] | None:
        """The live actor spawned under `name`, if there is one. TypeError: it is no `kind`."""
        ref = self._names.get(name)
        if ref is not None and ref._kind is not None and not issubclass(ref._kind, kind):
            raise TypeError(f"{name} is a {ref._kind.__name__}, not a {kind.__name__}")
        return cast("Ref[M] | None", ref)

    def tree(self) -> tuple[ActorInfo, ...]:
        """Every actor that lives, in start order, those of a family or supervisor together. A plain read."""
        return tuple(inspect(self))

    def walk(self) -> Iterator[ActorInfo]:
        """As `tree`, each actor as it is when it is taken: where there are thousands, others may run in between.

        Those who live now, less those who end before they are taken.
        """
        return inspect(self)

    @contextmanager
    def events(self, bound: int = 256) -> Iterator[Events]:
        """What happens inside the block: starts, restarts, ends, and `STUCK` if `stuck_after` is set."""
        events = Events(bound)
        self._observers[events._put] = None
        try:
            yield events
        finally:
            del self._observers[events._put]

    @property
    def settled(self) -> bool:
        """Every actor is parked on an empty inbox, and no pipe runs. Timers may be set."""
        return all(
            ref._inbox.sleeper is not None and ref._inbox.empty and not (ref._actor and ref._actor._pipes)
            for ref in self.live()
        )

    async def wait_settled(self) -> None:
        """Wait till everything is `settled`."""
        while not self.settled:
            if self._unsettled is None:
                self._unsettled = trio.Event()
            await self._unsettled.wait()

    def _look_settled(self) -> None:
        """Have those who wait for everything to be settled look for themselves."""
        if self._unsettled is not None:
            self._unsettled.set()
            self._unsettled = None

    def live(self) -> list[Ref[NoReturn]]:
        """Every address that has an incarnation, or is about to."""
        found: list[Ref[NoReturn]] = []
        for root in self._roots:
            found.extend(root._live if isinstance(root, Virtual) else [root])
        return found

    # Stopping

    async def _shut_down(self) -> None:
        """Stop the roots in reverse order, each when the one before is done, all within `drain` seconds; then kill."""
        self._open = False
        with trio.move_on_after(self._drain):
            while self._roots:
                root = next(reversed(self._roots))
                if isinstance(root, Virtual):
                    root._close()
                    while root._live:
                        await next(iter(root._live)).join()
                else:
                    root.stop()
                    await root.join()
                self._roots.pop(root, None)
        for ref in self.live():
            ref.kill()
        for ref in self.live():
            await ref.join()


@asynccontextmanager
async def open_system(
    *,
    drain: float = 5.0,
    grace: float = 1.0,
    limit: float = 30.0,
    seed: int | None = None,
    on_dead_letter: Callable[[DeadLetter], object] | None = None,
    instrument: Instrument | None = None,
    stuck_after: float | None = None,
) -> AsyncIterator[ActorSystem]:
    """Open an actor system around the body. Leaving it leaves no actor, timer or pipe.

    When the body ends, actors stop in reverse order of their start, draining, within `drain` seconds in all; who is not
    done by then is killed. When it raises or is cancelled, they are cancelled at once. `on_stop` has `grace` seconds of
    its own when cut short, `limit` seconds otherwise, as `on_start` has. `seed` fixes the jitter of restarts.
    `on_dead_letter` is called, synchronously, with each lost message. With `stuck_after`, an actor that is seen to be
    busy with one message for so many seconds becomes a `STUCK` event and a line in the log, with what it awaits.

    Errors leave in an `ExceptionGroup`: catch `ActorCrashed` and `TooManyRestarts` with `except*`.
    """
    async with trio.open_nursery() as nursery:
        letters = DeadLetters(on_dead_letter)
        system = ActorSystem(letters, nursery, drain, grace, limit, Random(seed), instrument)  # noqa: S311 - jitter
        nursery.start_soon(system._clock.run, name="actor clock")
        if stuck_after is not None:
            nursery.start_soon(watch_stuck, system, stuck_after, name="actor watch")
        try:
            yield system
            await system._shut_down()
        finally:
            system._open = False
            nursery.cancel_scope.cancel()
            for ref in system.live():
                ref._hurry()
