"""Owns the address of an actor: what others hold of it, and all that outlives its incarnations.

Knows no handler: `_life` runs what lives here.
"""

from __future__ import annotations

import enum
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from math import inf
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import attrs
import trio
from outcome import Error, Outcome
from trio.lowlevel import Task, checkpoint, current_task, reschedule, wait_task_rescheduled

from actorchat.actors._errors import ActorCrashed, ActorStopped, AskCycle, MailboxFull
from actorchat.actors._events import Cause, DeadLetter, DeadLetterReason, End, EventKind
from actorchat.actors._inbox import AWAKE, Coalesce, Inbox, Overflow, Slot, Stop, message_of
from actorchat.actors._request import Askable, Call

if TYPE_CHECKING:
    from actorchat.actors._actor import Actor
    from actorchat.actors._supervise import Budget, ChildSpec
    from actorchat.actors._system import ActorSystem

_log = logging.getLogger("actorchat.actors")

R = TypeVar("R")
M_contra = TypeVar("M_contra", contravariant=True)


class State(enum.Enum):
    DORMANT = "dormant"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    """Between two incarnations, or before the first."""
    LEAVING = "leaving"
    """Winding up: in `on_stop`, if it has begun."""
    STOPPED = "stopped"


INACTIVE = frozenset({State.STOPPED, State.DORMANT})


class Directive(enum.IntEnum):
    """What the incarnation is asked to do between two messages. A later one in this list overrides."""

    NONE = 0
    PASSIVATE = 1
    RESTART = 2
    DRAIN = 3
    STOP = 4
    KILL = 5
    OVERFLOW = 6


_CAUSES = {
    Directive.NONE: Cause.CANCELLED,
    Directive.PASSIVATE: Cause.PASSIVATED,
    Directive.RESTART: Cause.RESTARTED,
    Directive.DRAIN: Cause.STOPPED,
    Directive.STOP: Cause.STOPPED,
    Directive.KILL: Cause.KILLED,
    Directive.OVERFLOW: Cause.OVERFLOWED,
}
"""Of the end that each order brings; without one, of that of a cancelled nursery."""


@attrs.define(eq=False)
class Watch:
    """Whoever holds it has `fire(watch, end)` called when the address ends, in the step in which it comes to rest."""

    fire: Callable[[Watch, End], None]


@attrs.frozen(eq=False)
class IncarnationMessage:
    """A control message that only one incarnation takes: `actor`."""

    actor: Actor[NoReturn]
    make: Callable[[], object]
    """Gives the message when it is handled, or NOTHING. What it raises crashes the actor, between two messages."""


@attrs.define(eq=False, init=False, repr=False)
class Ref(Generic[M_contra]):
    """The address of an actor that takes messages of type `M`. Hold it as long as you like; it is small.

    One thread: call it from the system's Trio thread only. Messages of one sender are handled in the order in
    which they were sent; signals overtake them. A message is handled at most once.
    """

    _system: ActorSystem
    _keeper: ChildSpec
    _name: str
    _state: State
    _key: object
    _inbox: Inbox
    _order: Directive = Directive.NONE
    _until: int = 0
    """How many messages had been accepted when the last order came: those are handled yet, if it is to drain."""
    _anchor: object = None
    _actor: Actor[NoReturn] | None = None
    _kind: type[Actor[NoReturn]] | None = None
    _scope: trio.CancelScope = attrs.field(init=False)
    """Around an incarnation and the wait for it, less its `on_stop`."""
    _pause: trio.CancelScope | None = None
    """Around the wait for it."""
    _before: End | None = None
    """How the last incarnation ended, if it crashed and a supervisor says when the next one begins."""
    _shield: trio.CancelScope | None = None
    """Around its `on_stop`."""
    _budget: Budget | None = None
    _starter: Call | None = None
    _waits_for: Ref[NoReturn] | None = None
    _watches: WeakKeyDictionary[Watch, None] | None = None
    _ended: trio.Event | None = None
    """The next end: at rest, or a virtual actor between two incarnations."""
    _drops: Counter[DeadLetterReason] | None = None
    _since: float = 0.0
    _restarts: int = 0
    _busy_mark: int = -1
    _busy_since: float = 0.0

    def __init__(self, system: ActorSystem, keeper: ChildSpec, name: str, state: State, key: object = None) -> None:
        # Made by `ActorSystem.spawn` and by families.
        newest: dict[Hashable, Slot] | None = {} if isinstance(keeper._overflow, Coalesce) else None
        self.__attrs_init__(system, keeper, name, state, key, Inbox(keeper._inbox, newest))

    def __repr__(self) -> str:
        return f"<Ref {self._name} {self._state.value}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def stopped(self) -> bool:
        """It has stopped for good. A virtual actor has only when its system has closed."""
        return self._state is State.STOPPED or (
            self._state is State.DORMANT and not self._keeper._receptive(Directive.NONE)
        )

    @property
    def queued(self) -> int:
        """User messages that wait."""
        return self._inbox.queued

    def tell(self, message: M_contra) -> bool:
        """Put `message` into the inbox, now, if there is room, also where a `send` waits for some. Never raises.

        False: it became a dead letter, because the inbox was full or the address has stopped.
        """
        inbox = self._inbox
        accepted = inbox.accepted
        if accepted < inbox.begun + inbox.base:
            # `Inbox.add`, without the calls.
            inbox.accepted = accepted + 1
            sleeper = inbox.sleeper
            if sleeper is None:
                inbox.put(message)
                return True
            inbox.sleeper = None
            if inbox.now is None:
                inbox.handed = message
                reschedule(sleeper, AWAKE)
            else:
                self._handle_now(message, sleeper, inbox.now)
            return True
        loss = self._offer(message)
        if loss is not None:
            self._lose(message, loss)
        return loss is None

    def signal(self, message: M_contra) -> bool:
        """Put `message` into the control lane: handled by `receive`, one at a time, before user messages.

        Never dropped for lack of room and never counted against the bound, it survives a restart and activates a
        virtual actor. Its number is bounded by the sender, whose duty that is. Signals keep their order. A signalled
        request is not answered.

        False: the address has stopped for good. A signal that waits when the actor is killed, or when a virtual one is
        given up, becomes a dead letter.
        """
        if self._state is State.DORMANT:
            self._keeper._activate(self)
        if self._state in INACTIVE or self._order >= Directive.KILL:
            self._lose(message, DeadLetterReason.STOPPED)
            return False
        self._inbox.signal(message)
        return True

    async def send(self, message: M_contra) -> None:
        """Put `message` into the inbox, waiting for room in the order of arrival. Cancelled, it was not put.

        Raises `ActorStopped` if the address has stopped or stops meanwhile (the message is still yours),
        `AskCycle` in an actor for which the wait could never end.
        """
        if not self._receptive():
            raise ActorStopped(self._name)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._inbox.waiters is None and self._put(message):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        asker = self._system._tasks.get(current_task())
        if asker is not None:
            self._wait_from(asker)
        await self._inbox.wait_for_room(Call(message, self, asker))

    async def ask(self, request: Askable[M_contra, R], *, timeout: float | None = None) -> R:
        """Send `request` and wait for its reply. `timeout` in seconds.

        Asked by an actor while it answers an ask itself, the time left for that one bounds this one too. Cancelled or
        timed out, a request that has not begun never does; one that has is finished, and its reply dropped.

        Raises what the handler gave to `fail`; `AskTimeout`; `ActorCrashed` if the handler raised; `ActorStopped`,
        `MailboxFull`, `NoReply`; `AskCycle` at once in an actor for which the wait could never end.
        """
        call = Call(request, self)
        asker = self._system._tasks.get(call.task)
        if asker is not None:
            current = asker._actor._current if asker._actor is not None else None
            if isinstance(current, Call):
                call.deadline = current.deadline
            self._wait_from(asker)
            call.asker = asker
        if timeout is not None:
            call.deadline = min(call.deadline, trio.current_time() + timeout)
        inbox = self._inbox
        if inbox.accepted < inbox.begun + inbox.base:
            inbox.add(call)
        elif (loss := self._offer(call)) is not None:
            call.abort(None)
            await checkpoint()
            raise ActorStopped(self._name) if loss is DeadLetterReason.STOPPED else self._full()
        if call.deadline < inf:
            call.alarm = self._system._clock.at(call.deadline, call.time_out)
        reply: R = await wait_task_rescheduled(call.abort)
        return reply

    def stop(self, *, drain: bool = True) -> None:
        """Take no more messages, handle those that wait (`drain=False`: only the current one), `on_stop`, end.

        A virtual actor ends its incarnation this way; what comes after the call is for the next.
        """
        self._give(Directive.DRAIN if drain else Directive.STOP)

    def kill(self) -> None:
        """Cancel the handler at its next checkpoint. `on_stop` still runs, for a short grace."""
        self._give(Directive.KILL)

    async def join(self) -> None:
        """Wait until it has stopped: `on_stop` has run. For a virtual actor: until what lives now has ended.

        An actor can't wait for itself: RuntimeError.
        """
        if self._system._tasks.get(current_task()) is self:
            raise RuntimeError(f"{self._name} would wait for itself for ever")
        if self._state in INACTIVE:
            await checkpoint()
        else:
            if self._ended is None:
                self._ended = trio.Event()
            await self._ended.wait()

    # Taking messages

    def _receptive(self) -> bool:
        """Activate what is dormant; False if no message is taken."""
        if self._state is State.DORMANT:
            self._keeper._activate(self)
        return self._state not in INACTIVE and self._keeper._receptive(self._order)

    def _handle_now(self, message: object, sleeper: Task, handle: Callable[[object], bool]) -> None:
        """Have the parked actor handle `message` in this very step, or hand it over to its task."""
        inbox, actor = self._inbox, self._actor
        assert actor is not None  # noqa: S101 - somebody sleeps
        inbox.begun += 1
        inbox.left, actor._current = False, message
        result: Outcome[None] = AWAKE
        try:
            if not handle(message):
                inbox.begun -= 1
                inbox.handed = message
            actor._current = None
        except BaseException as error:
            # Not the sender's: the actor's task raises it, and loses the message.
            result = Error(error)
        if inbox.left:
            # By what it did it has cancelled itself, and its task has been told so.
            if type(result) is Error:
                _log.error("%s raised while it was cancelled", self._name, exc_info=result.error)
        elif result is AWAKE and inbox.empty and not inbox.attention:
            inbox.sleeper = sleeper
        else:
            reschedule(sleeper, result)

    def _offer(self, item: object) -> DeadLetterReason | None:
        """Take `item` in by the long way; None if it is in, else why not."""
        if not self._receptive():
            return DeadLetterReason.STOPPED
        if self._put(item):
            return None
        overflow = self._keeper._overflow
        if overflow is Overflow.STOP or isinstance(overflow, Stop):
            self._give(Directive.OVERFLOW)
            return DeadLetterReason.OVERFLOWED
        if overflow is not Overflow.DROP_OLD:
            return DeadLetterReason.DROPPED_NEW if overflow is Overflow.DROP_NEW else DeadLetterReason.REJECTED
        oldest = self._inbox.drop_oldest()
        self._put(item)
        self._lose(oldest, DeadLetterReason.DROPPED_OLD)
        return None

    def _put(self, item: object, waiter: Call | None = None) -> bool:
        """Take `item` in if there is room, or if it takes the place of an older one. `waiter` waits for that."""
        inbox, slot = self._inbox, None
        newest, key = inbox.newest, self._key_of(item)
        if newest is not None and key is not None:
            slot = newest.get(key)
        if (slot is None and inbox.full) or (waiter is not None and waiter.done):
            return False
        if waiter is not None and inbox.waiters is not None:
            # Before anybody hears of anything, and perhaps ends this address.
            del inbox.waiters[waiter]
            waiter.reply(None)
        if self._system._instrument is not None:
            self._system._instrument.enqueue(self._name, message_of(item))
        if slot is not None:
            replaced, slot.message = slot.message, item
            inbox.accepted += 1
            inbox.drop_one()
            # One has been dropped that no stop waited for: the newer one has its place.
            self._until += 1
            self._lose(replaced, DeadLetterReason.COALESCED)
        elif newest is not None and key is not None:
            newest[key] = Slot(key, item)
            inbox.add(newest[key])
        else:
            inbox.add(item)
        return True

    def _key_of(self, item: object) -> Hashable | None:
        """Under which only the newest is kept; None: it is one of its own."""
        overflow = self._keeper._overflow
        if not isinstance(overflow, Coalesce) or isinstance(item, Call):
            return None
        try:
            key = overflow.key(item)
            hash(key)
            return key
        except Exception:
            _log.exception("the key of a message to %s failed: it is queued as it is", self._name)
            return None

    def _admit(self) -> None:
        """Take in the messages of waiting senders, in their order, as far as there is room."""
        inbox = self._inbox
        while inbox.waiters:
            call = next(iter(inbox.waiters))
            if not self._put(call.message, call):
                # Look again after the next message: that is when there is room.
                inbox.attention = True
                return
        inbox.waiters = None

    def _full(self) -> MailboxFull:
        overflow = self._keeper._overflow
        return MailboxFull(self._name, overflow.retry_after if isinstance(overflow, Stop) else None)

    def _lose(self, item: object, reason: DeadLetterReason, end: End | None = None) -> None:
        """`item` is a dead letter; who asked is told that the inbox was full, or of the `end`."""
        if isinstance(item, Call):
            if item.done and reason is not DeadLetterReason.CRASHED:
                self._system.abandoned += 1
                return
            item.fail(self._full() if end is None else self._failure(end))
            item = item.message
        if self._drops is None:
            self._drops = Counter()
        self._drops[reason] += 1
        self._system.dead_letters._add(DeadLetter(self._name, item, reason, None if end is None else end.error))

    def _wait_from(self, asker: Ref[NoReturn]) -> None:
        """`asker` is about to wait for this address: refuse it if the ring of waits would close."""
        node: Ref[NoReturn] | None = self
        path = [asker._name]
        while node is not None:
            path.append(node._name)
            if node is asker:
                raise AskCycle(tuple(path))
            node = node._waits_for
        asker._waits_for = self

    # From incarnation to incarnation

    def _start(self, delay: float = 0.0) -> None:
        """Start the task, which begins the first incarnation in `delay` seconds; inf: when it is resumed."""
        self._since, self._restarts = trio.current_time(), 0
        self._plan(delay)
        self._keeper._nursery.start_soon(self._keeper.life, self, name=self._name)

    def _plan(self, delay: float, before: End | None = None) -> None:
        """The next incarnation begins in `delay` seconds, with the inbox open within its bound till then.

        `before` is how it ends if that is cut short; `CANCELLED`, if not given.
        """
        if self._keeper._plain and self._keeper._receptive(self._order):
            self._inbox.base = self._inbox.bound + self._inbox.dropped
        self._scope, self._before = trio.CancelScope(), before
        self._pause = trio.CancelScope(deadline=trio.current_time() + delay) if delay > 0 else None
        self._move(State.BACKOFF if delay > 0 else State.STARTING)

    def _resume(self) -> None:
        """The wait for the next incarnation is over."""
        if self._pause is not None:
            self._pause.cancel()
            self._move(State.STARTING)

    def _give(self, order: Directive) -> None:
        """Have the incarnation obey `order` before its next message; from `KILL` on, cancel what it is doing."""
        if self._state in INACTIVE:
            return
        self._until = self._inbox.accepted
        self._order = max(self._order, order)
        if not self._keeper._receptive(order):
            self._inbox.close(lambda: ActorStopped(self._name))
        if order >= Directive.STOP or (
            order is Directive.DRAIN and self._pause is not None and self._pause.deadline < inf
        ):
            self._resume()
        if order >= Directive.KILL:
            self._cut()
        self._inbox.call_attention()

    def _cut(self) -> None:
        """Cancel the handler, or the wait for the next incarnation."""
        self._scope.cancel()
        self._hurry()

    def _hurry(self) -> None:
        """An `on_stop` that runs has `grace` seconds from now, and no more."""
        if self._shield is not None:
            self._shield.deadline = min(self._shield.deadline, trio.current_time() + self._system._grace)

    def _ordered(self, error: BaseException | None = None) -> End:
        """The end that an order brings; without one, that of a nursery that is cancelled."""
        return End(_CAUSES[self._order], error, self._full().retry_after if self._order is Directive.OVERFLOW else None)

    def _failure(self, end: End) -> Exception:
        """What those get whose requests an incarnation had, or would have had."""
        if end.cause is not Cause.CRASHED:
            return ActorStopped(self._name)
        error = ActorCrashed(self._name)
        error.__cause__ = end.error
        return error

    def _rest(self, end: End) -> None:
        """Bring the address to rest, without a gap: what waits is lost, those who wait hear of it."""
        inbox, starter = self._inbox, self._starter
        self._order = Directive.KILL  # whoever hears of it puts nothing more in
        self._starter = self._pause = self._before = None
        if starter is not None:
            starter.fail(end.error or ActorStopped(self._name))
        inbox.close(lambda: ActorStopped(self._name))
        if end.cause is Cause.PASSIVATED:
            self._system._emit(EventKind.PASSIVATED, self)
        else:
            self._system._emit(EventKind.ENDED, self, end.error, end.cause.value)
            while inbox.queued:
                self._lose(inbox.drop_oldest(), DeadLetterReason.STOPPED, end)
            control, inbox.control = inbox.control, None
            for item in control or ():
                if not isinstance(item, IncarnationMessage):
                    self._lose(item, DeadLetterReason.STOPPED, end)
            watches, self._watches = self._watches, None
            for watch in list(watches or ()):
                watch.fire(watch, end)
        inbox.attention = False
        self._order = Directive.NONE
        self._keeper._ended(self)
        self._move(State.DORMANT if self._keeper.virtual else State.STOPPED)
        self._tell_ended()
        self._system._look_settled()

    def _watch(self, watch: Watch) -> None:
        if self._state is State.STOPPED:
            watch.fire(watch, End(Cause.STOPPED))
            return
        if self._watches is None:
            self._watches = WeakKeyDictionary()
        self._watches[watch] = None

    def _move(self, state: State) -> None:
        self._state = state
        self._keeper._moved()

    def _tell_ended(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.set()
