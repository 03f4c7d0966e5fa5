"""The actor system: it starts actors, finds them, and stops them in order.

There is no process-wide state: several systems in one process are independent.
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
    """A set of actors in one nursery. Made by `open_system`."""

    dead_letters: DeadLetters
    _nursery: trio.Nursery
    _drain: float
    _grace: float
    _limit: float
    _random: Random
    _instrument: Instrument | None
    late_replies: int = attrs.field(default=0, init=False)
    """The number of replies whose asker had stopped waiting."""
    abandoned: int = attrs.field(default=0, init=False)
    """The number of requests that were cancelled or timed out before they began."""
    restarts: int = attrs.field(default=0, init=False)
    """The number of restarts after crashes."""
    given_up: int = attrs.field(default=0, init=False)
    """The number of times that an actor or supervisor was not restarted because it had crashed too often."""
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

        The options are those of `ActorOptions`. Without `restart`, a crash leaves `open_system` as `ActorCrashed` in an
        `ExceptionGroup`. The actor lives in the system's nursery: cancel scopes around the caller don't affect it.
        `name` must be unique among live actors (ValueError).

        Raises `SystemClosing` if the system is draining, and TypeError if `factory` can't be called. If `factory` does
        not return a new `Actor`, the actor crashes with a TypeError.
        """
        spec = ChildSpec(system=self, nursery=self._nursery, parent=None, factory=factory, **options)
        ref = self._enter(spec, name)
        ref._start()
        return ref

    async def start(
        self, factory: Callable[[], Actor[M]], name: str | None = None, **options: Unpack[ActorOptions[M]]
    ) -> Ref[M]:
        """Like `spawn`, but wait for the first `on_start`. Its error is raised here only, and it is not retried.

        If this call is cancelled, the actor is killed.
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

        `anchor(key)` makes the state that outlives incarnations, once per address. An actor is passivated after `idle`
        seconds without messages, or never if `idle` is not given. `on_give_up(key, anchor, error)` is called in the
        step in which an actor is given up. See `Virtual`.

        Raises `SystemClosing` if the system is draining.
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

    def _enter(self, spec: ChildSpec, name: str | None) -> Ref[object]:
        """A new address for the actor of `spec`. It is not started."""
        if not self._open:
            raise SystemClosing
        if name in self._names:
            raise ValueError(f"an actor named {name} is alive already")
        self._count += 1
        label = name if name is not None else f"{getattr(spec._factory, '__name__', 'actor')}-{self._count}"
        ref = Ref[object](self, spec, label, State.STARTING)
        if name is not None:
            self._names[name] = ref
        self._roots[ref] = None
        return ref

    def _forget(self, ref: Ref[NoReturn]) -> None:
        self._roots.pop(ref, None)
        if self._names.get(ref._name) is ref:
            del self._names[ref._name]

    # Events

    def _emit(self, what: EventKind, ref: Ref[NoReturn], error: BaseException | None = None, detail: str = "") -> None:
        if what is EventKind.RESTARTING:
            self.restarts += 1
        elif what is EventKind.GAVE_UP:
            self.given_up += 1
        if self._observers:
            event = Event(what, ref._name, error, detail)
            for observer in tuple(self._observers):
                observer(event)

    # Inspection

    def find(self, name: str, kind: type[Actor[M]]) -> Ref[M] | None:
        """The live actor with this `name`, or None. Raises TypeError if it is not a `kind`."""
        ref = self._names.get(name)
        if ref is not None and ref._kind is not None and not issubclass(ref._kind, kind):
            raise TypeError(f"{name} is a {ref._kind.__name__}, not a {kind.__name__}")
        return cast("Ref[M] | None", ref)

    def tree(self) -> tuple[ActorInfo, ...]:
        """Every live actor in start order, grouped by family or supervisor."""
        return tuple(inspect(self))

    def walk(self) -> Iterator[ActorInfo]:
        """Like `tree`, but other tasks may run in between, which matters with thousands of actors.

        It yields the actors that live now, each in its state at that moment, without those that end meanwhile.
        """
        return inspect(self)

    @contextmanager
    def events(self, bound: int = 256) -> Iterator[Events]:
        """The events inside the block: starts, restarts, ends, and `STUCK` if `stuck_after` is set."""
        events = Events(bound)
        self._observers[events._put] = None
        try:
            yield events
        finally:
            del self._observers[events._put]

    @property
    def settled(self) -> bool:
        """Whether every actor is parked with an empty inbox and no pipe runs. Timers don't count."""
        return all(
            ref._inbox.sleeper is not None and ref._inbox.empty and not (ref._actor and ref._actor._pipes)
            for ref in self.live()
        )

    async def wait_settled(self) -> None:
        """Wait until `settled` is true."""
        while not self.settled:
            if self._unsettled is None:
                self._unsettled = trio.Event()
            await self._unsettled.wait()

    def _look_settled(self) -> None:
        """Wake the tasks in `wait_settled`, so that they check again."""
        if self._unsettled is not None:
            self._unsettled.set()
            self._unsettled = None

    def live(self) -> list[Ref[NoReturn]]:
        """Every address that has an incarnation or is about to start one."""
        found: list[Ref[NoReturn]] = []
        for root in self._roots:
            found.extend(root._live if isinstance(root, Virtual) else [root])
        return found

    # Stopping

    async def _shut_down(self) -> None:
        """Stop actors in reverse start order, one after another, within `drain` seconds in all; then kill the rest."""
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
    """Open an actor system around the body. No actor, timer or pipe is left behind.

    When the body ends, actors drain and stop in reverse start order, within `drain` seconds in all; then the rest are
    killed. If the body raises or is cancelled, they are cancelled at once. `on_start` and `on_stop` may take `limit`
    seconds; an `on_stop` after a kill or cancellation may take `grace` seconds. `seed` fixes the jitter of restarts.
    `on_dead_letter` is called synchronously with each lost message. With `stuck_after`, an actor that is busy with one
    message for that many seconds is reported as a `STUCK` event and in the log, with the frames in which it waits.

    Errors are raised in an `ExceptionGroup`: catch `ActorCrashed` and `TooManyRestarts` with `except*`.
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
