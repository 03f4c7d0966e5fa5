"""The base class of actors: the handlers that an author overrides and the methods that these call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from math import inf, nextafter
from typing import TYPE_CHECKING, ClassVar, Generic, NoReturn, TypeVar

import attrs
import trio

from actorchat.actors._events import Down, End
from actorchat.actors._inbox import NOTHING, message_of
from actorchat.actors._ref import Directive, IncarnationMessage, Ref, Watch
from actorchat.actors._request import Call, Pending, Request

if TYPE_CHECKING:
    from actorchat.actors._clock import Alarm
    from actorchat.actors._system import ActorSystem

M = TypeVar("M")
R = TypeVar("R")
T = TypeVar("T")


@attrs.define(eq=False)
class _Timer:
    """A keyed timer and its tick. A tick that waits in the control lane is dropped if the timer is cancelled."""

    actor: Actor[NoReturn]
    key: Hashable
    message: object
    moment: float
    period: float | None
    alarm: Alarm | None = None
    queued: bool = False
    begun: int = -1
    """How many messages had begun when it last ticked."""

    def set(self) -> None:
        self.alarm = self.actor.system._clock.at(self.moment, self.ring)

    def ring(self) -> None:
        ref, now = self.actor.ref, trio.current_time()
        # A handler that is slower than its period must delay neither waiting messages nor a stop.
        held_up = ref._inbox.queued and self.begun == ref._inbox.begun
        if not (self.queued or (self.period is not None and (held_up or ref._directive >= Directive.DRAIN))):
            self.queued = True
            self.actor._later(self.make)
        if self.period is not None:
            # Ticks missed because of a slow handler or a suspended machine are not made up for.
            later = self.moment + self.period * (int((now - self.moment) / self.period) + 1)
            self.moment = max(later, nextafter(now, inf))
            self.set()

    def make(self) -> object:
        timers, inbox = self.actor._timers, self.actor.ref._inbox
        self.queued, self.begun = False, inbox.begun
        if timers is None or timers.get(self.key) is not self:
            return NOTHING
        inbox.ticks += 1
        if self.period is None:
            del timers[self.key]
        return self.message


class Actor(Generic[M]):
    """An actor that takes messages of type `M`: a task that handles one at a time.

    Subclass it and write `receive`. One object is one incarnation: after a crash the factory makes the next one, with
    fresh state; the inbox is kept. All methods here are for the actor's own handlers; other code uses its `Ref`.
    `__init__` need not call the base class. It can't use the methods: the address exists from `on_start` on.
    """

    batch_max: ClassVar[int] = 256
    """The largest number of messages passed to one `receive_batch`."""

    # Set by `_actor_task`. The other fields are created on first use, so that a parked actor stays small.
    _ref: Ref[M] | None = None
    _current: object = None
    _batch: Sequence[object] = ()
    _timers: dict[Hashable, _Timer] | None = None
    _pipes: set[trio.CancelScope] | None = None
    _open: set[Call] | None = None
    _watched: set[Watch] | None = None

    async def receive(self, message: M) -> None:
        """Handle one message. An exception crashes the actor; to refuse a request, use `fail`."""
        raise NotImplementedError(f"{type(self).__name__} has no receive")

    def receive_now(self, message: M) -> bool:
        """Handle one told message in the sender's step, without a task switch. Return False to pass it to `receive`.

        Override it if most messages can be handled without waiting. It is called only while the actor is parked and
        its inbox is empty, so the order of messages is kept, and never while another handler of the actor runs. An
        exception crashes the actor, not the sender. It is not called with an instrument, with `Coalesce` or if
        `receive_batch` is overridden, so `receive` must do the same work.
        """
        return False

    async def receive_batch(self, messages: Sequence[M]) -> None:
        """Handle all waiting user messages, at most `batch_max`, oldest first.

        Override it to handle batches as a unit: all messages of a batch have begun, and a crash or cancellation loses
        all of them. Await nothing in it but a checkpoint. Control messages still go to `receive`, one at a time,
        between two batches.
        """
        for message in messages:
            await self.receive(message)

    async def on_start(self) -> None:
        """Runs before the first message of each incarnation. An exception counts as a crash."""

    async def on_stop(self, end: End) -> None:
        """Runs once for each incarnation whose `on_start` returned, after its timers and pipes are cancelled.

        It is shielded from cancellation for the system's `limit` of seconds, or for `grace` seconds if the actor is
        killed or cancelled before or during the call.
        """

    def can_passivate(self) -> bool:
        """Whether this idle virtual actor may be passivated. Called with an empty inbox; the result applies at once.

        It is not called while a deferred answer or a pipe is open. Timers don't keep an actor active.
        """
        return True

    @property
    def ref(self) -> Ref[M]:
        """The actor's own address."""
        if self._ref is None:
            raise RuntimeError("the address is there from on_start on, not in __init__")
        return self._ref

    @property
    def system(self) -> ActorSystem:
        """The system that this actor lives in. Raises RuntimeError in `__init__`."""
        return self.ref._system

    @property
    def expired(self) -> bool:
        """Whether the asker of the current request has stopped waiting, so that a long handler may stop early."""
        return isinstance(self._current, Call) and self._current.done

    def reply(self, request: Request[R], value: R) -> None:
        """Answer `request`, which must be the one being handled. Only the first answer counts.

        The answer to a request that was told, not asked, is dropped. Raises RuntimeError for any other request; use
        `defer` to answer later.
        """
        call = self._call_of(request)
        if call is not None:
            call.reply(value)

    def fail(self, request: Request[R], error: Exception) -> None:
        """Refuse `request`: raise `error` in the asker and nowhere else. This actor continues."""
        call = self._call_of(request)
        if call is not None:
            call.fail(error)

    def defer(self, request: Request[R]) -> Pending[R]:
        """Answer `request` later. If this incarnation ends first, the asker gets `ActorCrashed` or `ActorStopped`."""
        call = self._call_of(request)
        if call is not None and not call.done:
            self._open = self._open or set()
            call.defer(self._open)
        return Pending(call)

    def watch(self, ref: Ref[NoReturn], as_: Callable[[Down], M]) -> None:
        """Receive exactly one control message, made by `as_`, when `ref` ends for good.

        If `ref` has stopped already, the message comes at once with the cause `STOPPED`. Restarts and passivation send
        none. The watch ends with this incarnation.
        """

        def fire(watch: Watch, end: End) -> None:
            if self._watched is not None:
                self._watched.discard(watch)
                self._later(partial(as_, Down(ref, end.cause, end.error, end.retry_after)))

        if self._watched is None:
            self._watched = set()
        watch = Watch(fire)
        self._watched.add(watch)
        ref._watch(watch)

    def after(self, delay: float, message: M, *, key: Hashable) -> None:
        """Receive `message` as a control message in `delay` seconds. Replaces the timer with the same key."""
        self._set_timer(delay, message, key, None)

    def every(self, period: float, message: M, *, key: Hashable) -> None:
        """Receive `message` every `period` seconds, the first in `period`. Replaces the timer with the same key.

        At most one tick waits: a handler slower than the period gets one tick, not all it missed, and handles a
        waiting message between two ticks. A draining actor receives no ticks.
        """
        if period <= 0:
            raise ValueError("a period is more than 0 seconds")
        self._set_timer(period, message, key, period)

    def cancel(self, key: Hashable) -> bool:
        """Cancel the timer with `key`, including a tick that is queued. Returns False if there was none."""
        timer = self._timers.pop(key, None) if self._timers else None
        if timer is None:
            return False
        if timer.alarm is not None:
            timer.alarm.cancel()
        return True

    def pipe(
        self, work: Callable[[], Awaitable[T]], *, ok: Callable[[T], M], err: Callable[[Exception], M] | None = None
    ) -> None:
        """Run `work` in a task while the actor goes on; receive its result as a control message.

        `ok` makes the message of the result, `err` that of an error. Without `err` an error crashes the actor, between
        two messages. `ok` and `err` run in the actor, when the message is handled. The task is cancelled when this
        incarnation ends. The caller has to limit the number of pipes.
        """
        scope, ref = trio.CancelScope(), self.ref

        async def run() -> None:
            try:
                with scope:
                    self._later(partial(ok, await work()))
            except Exception as error:
                self._later(partial(err or _raise, error))
            finally:
                if self._pipes is not None:
                    self._pipes.discard(scope)
                ref._system._look_settled()

        if self._pipes is None:
            self._pipes = set()
        self._pipes.add(scope)
        ref._spec._nursery.start_soon(run, name=f"{ref.name} pipe")

    def _set_timer(self, delay: float, message: M, key: Hashable, period: float | None) -> None:
        self.cancel(key)
        if self._timers is None:
            self._timers = {}
        timer = self._timers[key] = _Timer(self._untyped(), key, message, trio.current_time() + delay, period)
        timer.set()

    def _untyped(self) -> Actor[NoReturn]:
        return self  # type: ignore[return-value] # the system holds actors of every message type

    def _later(self, make: Callable[[], object]) -> None:
        """Queue `make` in the control lane. It is called to make the message, unless this incarnation has ended."""
        if self.ref._actor is self:
            self.ref._inbox.signal(IncarnationMessage(self._untyped(), make))

    def _call_of(self, request: Request[R]) -> Call | None:
        current = self._current
        if isinstance(current, Call) and current.message is request:
            return current
        mine = [item for item in self._batch or (current,) if message_of(item) is request]
        if not mine:
            raise RuntimeError(f"{type(request).__name__} is not being handled: defer what is answered later")
        calls = [item for item in mine if isinstance(item, Call)]
        owing = [call for call in calls if not call.done and call.still_open is None]
        return next(iter(owing or calls[-1:]), None)

    def _release(self, end: End) -> None:
        """Cancel the timers, pipes, watches and deferred answers of this incarnation."""
        for key in list(self._timers or ()):
            self.cancel(key)
        for scope in self._pipes or ():
            scope.cancel()
        for call in tuple(self._open or ()):
            call.fail(self.ref._failure(end))
        self._open = self._watched = None


def _raise(error: Exception) -> NoReturn:
    raise error
