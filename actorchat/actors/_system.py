"""Owns one actor system: who lives in it, the order in which it stops, its clock and its books.

There is nothing process-wide: two systems in one process do not meet.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf
from random import Random
from typing import NoReturn, TypeVar, cast, overload

import trio

from actorchat.actors._actor import Actor
from actorchat.actors._clock import Clock
from actorchat.actors._errors import SystemClosing
from actorchat.actors._events import (
    ActorInfo,
    Cause,
    DeadLetter,
    DeadLetters,
    End,
    Event,
    Events,
    Instrument,
    Loss,
    What,
)
from actorchat.actors._inbox import Coalesce, Overflow
from actorchat.actors._inspect import inspect, watch_stuck
from actorchat.actors._life import run
from actorchat.actors._message import Call
from actorchat.actors._ref import Order, Ref, Spec, State
from actorchat.actors._supervise import Alone, Keeper, Restart
from actorchat.actors._virtual import Virtual

__all__ = ["ActorSystem", "open_system"]

K = TypeVar("K")
M = TypeVar("M")
A = TypeVar("A")

INBOX = 1024
"""Messages that an inbox holds unless told otherwise."""

_log = logging.getLogger("actorchat.actors")


class ActorSystem:
    """Actors, and one nursery that all of them live in. Made by `open_system`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        drain: float,
        grace: float,
        limit: float,
        seed: int | None,
        on_dead_letter: Callable[[DeadLetter], object] | None,
        instrument: Instrument | None,
    ) -> None:
        self.drain, self.grace, self.limit = drain, grace, limit
        self.instrument = instrument
        self.random = Random(seed)  # noqa: S311 - jitter, not secrets
        self.clock = Clock()
        self.tasks: dict[trio.lowlevel.Task, Ref[NoReturn]] = {}
        self.dead_letters = DeadLetters(on_dead_letter)
        self.late_replies = 0
        """Replies that came when nobody waited any more."""
        self.abandoned = 0
        """Asks that were cancelled or timed out before they began, and so never did."""
        self.open = True
        self.settlers: set[trio.Event] = set()
        self._observers: dict[Callable[[Event], None], None] = {}
        self._nursery = nursery
        self._roots: dict[Ref[NoReturn] | Virtual[Hashable, NoReturn, object], None] = {}
        self._names: dict[str, Ref[NoReturn]] = {}
        self._count = 0

    # Starting

    def spawn(
        self,
        factory: Callable[[], Actor[M]],
        name: str | None = None,
        *,
        inbox: int = INBOX,
        overflow: Overflow | Coalesce[M] = Overflow.REJECT,
        restart: Restart | None = None,
    ) -> Ref[M]:
        """Start an actor made by `factory`, which is called again for each restart. Returns before `on_start`.

        Without `restart` its crash leaves through `open_system` as `ActorCrashed`, in an `ExceptionGroup`. It lives
        in the system's nursery: cancel scopes around the caller don't bound it. `name` is unique among those alive
        (ValueError).

        Raises `SystemClosing` once the system drains.
        """
        return self.spawn_in(self._nursery, Alone(factory, restart), factory, name, inbox=inbox, overflow=overflow)

    async def start(
        self,
        factory: Callable[[], Actor[M]],
        name: str | None = None,
        *,
        inbox: int = INBOX,
        overflow: Overflow | Coalesce[M] = Overflow.REJECT,
        restart: Restart | None = None,
    ) -> Ref[M]:
        """`spawn`, and wait for the first `on_start`. What that raises is raised here only; it is not retried.

        Cancelled meanwhile, the actor is killed.
        """
        started = trio.Event()
        error: BaseException | None = None

        def ready(failed: BaseException | None) -> bool:
            nonlocal error
            error = failed
            started.set()
            return True

        ref = self.spawn(factory, name, inbox=inbox, overflow=overflow, restart=restart)
        ref._ready = ready
        try:
            await started.wait()
        except trio.Cancelled:
            ref._ready = None
            ref.kill()
            raise
        if error is not None:
            raise error
        return ref

    @overload
    def virtual(
        self,
        factory: Callable[[K, A], Actor[M]],
        *,
        anchor: Callable[[K], A],
        idle: float = ...,
        inbox: int = ...,
        overflow: Overflow | Coalesce[M] = ...,
        restart: Restart | None = ...,
        on_give_up: Callable[[K, A, BaseException], object] | None = ...,
        name: str | None = ...,
    ) -> Virtual[K, M, A]: ...

    @overload
    def virtual(
        self,
        factory: Callable[[K], Actor[M]],
        *,
        anchor: None = ...,
        idle: float = ...,
        inbox: int = ...,
        overflow: Overflow | Coalesce[M] = ...,
        restart: Restart | None = ...,
        on_give_up: Callable[[K, None, BaseException], object] | None = ...,
        name: str | None = ...,
    ) -> Virtual[K, M, None]: ...

    def virtual(
        self,
        factory: Callable[..., Actor[M]],
        *,
        anchor: Callable[[K], A] | None = None,
        idle: float = inf,
        inbox: int = INBOX,
        overflow: Overflow | Coalesce[M] = Overflow.REJECT,
        restart: Restart | None = None,
        on_give_up: Callable[[K, A, BaseException], object] | None = None,
        name: str | None = None,
    ) -> Virtual[K, M, A]:
        """A family of virtual actors, one per key, each made by `factory(key, anchor)` (or `factory(key)`) when needed.

        `anchor(key)` makes what must outlive incarnations, once per address. `idle` in seconds; without it no actor is
        passivated. `on_give_up(key, anchor, error)` is called in the step in which an actor is given up. See `Virtual`.

        Raises `SystemClosing` once the system drains.
        """
        if not self.open:
            raise SystemClosing
        make: Callable[[K, A], Actor[M]] = factory
        if anchor is None:
            make = lambda key, _: factory(key)  # noqa: E731 - one line says it
            anchor = cast("Callable[[K], A]", _no_anchor)
        family = Virtual(
            self,
            self._nursery,
            make,
            name=name or str(getattr(factory, "__name__", "virtual")),
            idle=idle,
            bound=inbox,
            overflow=overflow,
            restart=restart,
            anchor=anchor,
            on_give_up=on_give_up,
        )
        self._roots[cast("Virtual[Hashable, NoReturn, object]", family)] = None
        return family

    def find(self, name: str, kind: type[Actor[M]]) -> Ref[M] | None:
        """The live actor spawned under `name`, if there is one. TypeError: it is no `kind`."""
        ref = self._names.get(name)
        if ref is None:
            return None
        if ref._kind is not None and not issubclass(ref._kind, kind):
            raise TypeError(f"{name} is a {ref._kind.__name__}, not a {kind.__name__}")
        return cast("Ref[M]", ref)

    def spawn_in(
        self,
        nursery: trio.Nursery,
        keeper: Keeper,
        factory: Callable[[], Actor[M]],
        name: str | None,
        *,
        inbox: int,
        overflow: Overflow | Coalesce[M],
    ) -> Ref[M]:
        """`spawn` for a keeper of its own, in that keeper's nursery."""
        if not self.open:
            raise SystemClosing
        if name in self._names:
            raise ValueError(f"an actor named {name} is alive already")
        self._count += 1
        label = name or f"{getattr(factory, '__name__', 'actor')}-{self._count}"
        spec = Spec(nursery, inbox, cast("Overflow | Coalesce[NoReturn]", overflow), keeper)
        ref: Ref[M] = Ref(self, spec, label, State.STARTING)
        ref._scope = trio.CancelScope()
        ref._open()
        if name is not None:
            self._names[name] = ref
        self._roots[ref] = None
        nursery.start_soon(run, ref, name=label)
        return ref

    # Books

    def lose(self, ref: Ref[NoReturn], message: object, reason: Loss, error: BaseException | None = None) -> None:
        if ref._drops is None:
            ref._drops = Counter()
        ref._drops[reason] += 1
        self.dead_letters.add(DeadLetter(ref._name, message, reason, error))

    def lose_queued(
        self,
        ref: Ref[NoReturn],
        item: object,
        reason: Loss,
        error: BaseException | None = None,
        to_asker: Callable[[], Exception] | None = None,
    ) -> None:
        """What was accepted is lost: its asker, if there is one, hears `to_asker`."""
        if isinstance(item, Call):
            if item.done and reason is not Loss.CRASHED:
                self.abandoned += 1
                return
            if to_asker is not None:
                item.fail(to_asker())
            item = item.message
        self.lose(ref, item, reason, error)

    def emit(self, what: What, ref: Ref[NoReturn], error: BaseException | None = None, detail: str = "") -> None:
        if self._observers:
            event = Event(what, ref._name, error, detail)
            for observer in tuple(self._observers):
                observer(event)

    def forget(self, ref: Ref[NoReturn]) -> None:
        self._roots.pop(ref, None)
        if self._names.get(ref._name) is ref:
            del self._names[ref._name]

    def watch(self, ref: Ref[NoReturn], token: object, down: Callable[[End], None]) -> None:
        if ref._state is State.STOPPED:
            down(End(Cause.STOPPED))
            return
        if ref._watchers is None:
            ref._watchers = {}
        ref._watchers[token] = down

    def unwatch(self, ref: Ref[NoReturn], token: object) -> None:
        if ref._watchers is not None:
            ref._watchers.pop(token, None)

    # Looking in

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
        self._observers[events.put] = None
        try:
            yield events
        finally:
            del self._observers[events.put]

    @property
    def settled(self) -> bool:
        """Every actor is parked on an empty inbox, and no pipe runs. Timers may be set."""
        return all(
            ref._inbox.sleeper is not None and ref._inbox.empty and not (ref._actor and ref._actor._pipes)
            for ref in self.live()
        )

    def look_settled(self) -> None:
        """Wake those who wait for everything to be settled; they look for themselves."""
        for settler in self.settlers:
            settler.set()

    # Stopping

    async def shut_down(self) -> None:
        """Stop the roots in reverse order, each when the one before is done, all within `drain` seconds; then kill."""
        self.open = False
        with trio.move_on_after(self.drain):
            while self._roots:
                root = next(reversed(self._roots))
                if isinstance(root, Virtual):
                    root.close()
                    for ref in root.live():
                        await ref.join()
                    del self._roots[root]
                else:
                    root.stop()
                    await root.join()
                    self._roots.pop(root, None)
        for ref in self.live():
            ref._give(Order.KILL)

    def live(self) -> list[Ref[NoReturn]]:
        """Every address that has an incarnation, or is about to."""
        found: list[Ref[NoReturn]] = []
        for root in self._roots:
            found.extend(root.live() if isinstance(root, Virtual) else [root])
        return found

    async def stopped(self) -> None:
        """Wait till nothing lives."""
        for ref in self.live():
            await ref.join()


def _no_anchor(_: object) -> None:
    return None


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
        system = ActorSystem(
            nursery,
            drain=drain,
            grace=grace,
            limit=limit,
            seed=seed,
            on_dead_letter=on_dead_letter,
            instrument=instrument,
        )
        nursery.start_soon(system.clock.run, name="actor clock")
        if stuck_after is not None:
            nursery.start_soon(watch_stuck, system, stuck_after, name="actor watch")
        try:
            yield system
            await system.shut_down()
            await system.stopped()
        finally:
            system.open = False
            nursery.cancel_scope.cancel()
            for ref in system.live():
                ref._hurry()
