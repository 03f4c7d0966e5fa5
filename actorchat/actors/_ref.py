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

from actorchat.actors._clock import Alarm
from actorchat.actors._errors import ActorCrashed, ActorStopped, AskCycle, MailboxFull
from actorchat.actors._events import Cause, End, Loss, What
from actorchat.actors._inbox import AWAKE, NOTHING, Coalesce, Inbox, Overflow, Stop, message_of
from actorchat.actors._message import Askable, Call

if TYPE_CHECKING:
    from actorchat.actors._actor import Actor
    from actorchat.actors._supervise import Budget, Keeper
    from actorchat.actors._system import ActorSystem

_log = logging.getLogger("actorchat.actors")

R = TypeVar("R")
M_contra = TypeVar("M_contra", contravariant=True)


class State(enum.Enum):
    DORMANT = "dormant"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    """Between two incarnations, or before the first: no task."""
    LEAVING = "leaving"
    """In `on_stop`, and may come back."""
    ENDING = "ending"
    """In `on_stop` for the last time."""
    STOPPED = "stopped"


AT_REST = frozenset({State.STOPPED, State.DORMANT})


class Order(enum.IntEnum):
    """What the incarnation is asked to do between two messages. A later one in this list overrides."""

    NONE = 0
    PASSIVATE = 1
    RESTART = 2
    DRAIN = 3
    STOP = 4
    KILL = 5
    OVERFLOW = 6


_CAUSES = {
    Order.PASSIVATE: Cause.PASSIVATED,
    Order.RESTART: Cause.RESTARTED,
    Order.DRAIN: Cause.STOPPED,
    Order.STOP: Cause.STOPPED,
    Order.KILL: Cause.KILLED,
    Order.OVERFLOW: Cause.OVERFLOWED,
}


@attrs.define(eq=False)
class Watch:
    """Whoever holds it has `fire(watch, end)` called when the address ends, in the step in which it comes to rest."""

    fire: Callable[[Watch, End], None]


class OfIncarnation:
    """A control message that only one incarnation takes: `actor`. It makes the message when it is handled."""

    __slots__ = ("actor",)
    actor: Actor[NoReturn]

    def make(self) -> object:
        """The message, or NOTHING. What it raises crashes the actor, between two messages."""
        raise NotImplementedError


@attrs.define(eq=False, init=False, repr=False)
class Ref(Generic[M_contra]):
    """The address of an actor that takes messages of type `M`. Hold it as long as you like; it is small.

    One thread: call it from the system's Trio thread only. Messages of one sender are handled in the order in
    which they were sent; signals overtake them. A message is handled at most once.
    """

    _system: ActorSystem
    _keeper: Keeper
    _name: str
    _state: State
    _key: object
    _inbox: Inbox
    _order: Order = Order.NONE
    _until: int = 0
    """How many messages had been accepted when the order to drain came: those are handled yet."""
    _anchor: object = None
    _actor: Actor[NoReturn] | None = None
    _kind: type[Actor[NoReturn]] | None = None
    _scope: trio.CancelScope | None = None
    """Around an incarnation, less its `on_stop`."""
    _shield: trio.CancelScope | None = None
    """Around its `on_stop`."""
    _alarm: Alarm | None = None
    """Ends the backoff."""
    _budget: Budget | None = None
    _starter: Call | None = None
    _waits_for: Ref[NoReturn] | None = None
    _watches: WeakKeyDictionary[Watch, None] | None = None
    _ended: trio.Event | None = None
    """The next end: at rest, or a virtual actor between two incarnations."""
    _drops: Counter[Loss] | None = None
    _since: float = 0.0
    _restarts: int = 0
    _busy_mark: int = -1
    _busy_since: float = 0.0

    def __init__(self, system: ActorSystem, keeper: Keeper, name: str, state: State, key: object = None) -> None:
        # Made by `ActorSystem.spawn` and by families.
        self.__attrs_init__(system, keeper, name, state, key, Inbox(keeper._bound))

    def __repr__(self) -> str:
        return f"<Ref {self._name} {self._state.value}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def stopped(self) -> bool:
        """It has stopped for good. A virtual actor has only when its system has closed."""
        return self._state is State.STOPPED or (
            self._state is State.DORMANT and not self._keeper._receptive(Order.NONE)
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
            # `Inbox.add`, without the call.
            inbox.accepted = accepted + 1
            sleeper = inbox.sleeper
            if sleeper is None:
                inbox.put(message)
            else:
                inbox.sleeper = None
                if inbox.now is None:
                    inbox.handed = message
                    reschedule(sleeper, AWAKE)
                else:
                    self._handle_now(message, sleeper, inbox.now)
            return True
        loss = self._offer(message)
        if loss is not None:
            self._system._lose(self, message, loss)
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
        if self._state in _NEVER_AGAIN:
            self._system._lose(self, message, Loss.STOPPED)
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
        if self._inbox.waiters is None and (not self._inbox.full or self._replaces(message)):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._put(message)
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
            raise ActorStopped(self._name) if loss is Loss.STOPPED else self._full()
        if call.deadline < inf:
            self._system._clock.add(call, call.deadline)
        reply: R = await wait_task_rescheduled(call.abort)
        return reply

    def stop(self, *, drain: bool = True) -> None:
        """Take no more messages, handle those that wait (`drain=False`: only the current one), `on_stop`, end.

        A virtual actor ends its incarnation this way; what comes after the call is for the next.
        """
        self._give(Order.DRAIN if drain else Order.STOP)

    def kill(self) -> None:
        """Cancel the handler at its next checkpoint. `on_stop` still runs, for a short grace."""
        self._give(Order.KILL)

    async def join(self) -> None:
        """Wait until it has stopped: `on_stop` has run. For a virtual actor: until what lives now has ended.

        An actor can't wait for itself: RuntimeError.
        """
        if self._system._tasks.get(current_task()) is self:
            raise RuntimeError(f"{self._name} would wait for itself for ever")
        if self._state in AT_REST:
            await checkpoint()
            return
        if self._ended is None:
            self._ended = trio.Event()
        await self._ended.wait()

    # Taking messages

    def _receptive(self) -> bool:
        """Activate what is dormant; False if no message is taken."""
        if self._state is State.DORMANT:
            self._keeper._activate(self)
        return self._state not in _NEVER_AGAIN and self._keeper._receptive(self._order)

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

    def _offer(self, item: object) -> Loss | None:
        """Take `item` in by the long way; None if it is in, else why not."""
        if not self._receptive():
            return Loss.STOPPED
        inbox, overflow = self._inbox, self._keeper._overflow
        if inbox.full and not self._replaces(item):
            if overflow is Overflow.STOP or isinstance(overflow, Stop):
                self._give(Order.OVERFLOW)
                return Loss.OVERFLOWED
            if overflow is not Overflow.DROP_OLD:
                return Loss.DROPPED_NEW if overflow is Overflow.DROP_NEW else Loss.REJECTED
            self._system._lose_queued(self, inbox.drop_oldest(), Loss.DROPPED_OLD, self._full)
        self._put(item)
        return None

    def _put(self, item: object) -> None:
        """Take `item` in: there is room, or it takes the place of another."""
        if self._system._instrument is not None:
            self._system._instrument.enqueue(self._name, message_of(item))
        key = self._key_of(item)
        if key is None:
            self._inbox.add(item)
        elif (replaced := self._inbox.add_newest(key, item)) is not NOTHING:
            # One has been dropped that no stop waited for: the newer one has its place.
            self._until += 1
            self._system._lose(self, replaced, Loss.COALESCED)

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

    def _replaces(self, item: object) -> bool:
        newest = self._inbox.newest
        return newest is not None and self._key_of(item) in newest

    def _admit(self) -> None:
        """Take in the messages of waiting senders, in their order, as far as there is room."""
        inbox = self._inbox
        while inbox.waiters and not inbox.full:
            call = next(iter(inbox.waiters))
            del inbox.waiters[call]
            self._put(call.message)
            call.reply(None)
        if inbox.waiters:
            # Look again after the next message: that is when there is room.
            inbox.attention = True
        else:
            inbox.waiters = None

    def _full(self) -> MailboxFull:
        overflow = self._keeper._overflow
        return MailboxFull(self._name, overflow.retry_after if isinstance(overflow, Stop) else None)

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
        """Start the next incarnation in `delay` seconds, with the inbox open within its bound; inf: when told again."""
        self._silence()
        slow = self._system._instrument is not None or isinstance(self._keeper._overflow, Coalesce)
        if not slow and self._keeper._receptive(self._order):
            self._inbox.base = self._inbox.bound + self._inbox.dropped
        if delay > 0:
            self._move(State.BACKOFF)
            if delay < inf:
                self._alarm = Alarm(self._start)
                self._system._clock.add(self._alarm, trio.current_time() + delay)
        else:
            self._move(State.STARTING)
            self._scope = trio.CancelScope()
            self._keeper._nursery.start_soon(self._keeper.life, self, name=self._name)

    def _silence(self) -> None:
        if self._alarm is not None:
            if self._alarm.live:
                self._alarm.live = False
                self._system._clock.discard()
            self._alarm = None

    def _give(self, order: Order) -> None:
        """Have the incarnation obey `order` before its next message; from `KILL` on, cancel what it is doing."""
        if self._state in AT_REST:
            return
        if self._order < Order.DRAIN or self._state is State.LEAVING:
            self._until = self._inbox.accepted
        self._order = max(self._order, order)
        if not self._keeper._receptive(order):
            self._inbox.close()
            self._inbox.refuse_waiters(lambda: ActorStopped(self._name))
        if self._state is State.BACKOFF:
            if order >= Order.STOP:
                self._rest(self._ordered())
                return
            if order is Order.DRAIN and self._alarm is not None:
                self._start()
        elif order >= Order.KILL:
            self._cut()
        self._inbox.call_attention()

    def _cut(self) -> None:
        """Cancel the handler; an `on_stop` that runs has `grace` seconds from now, and no more."""
        if self._scope is not None:
            self._scope.cancel()
        if self._shield is not None:
            self._shield.deadline = min(self._shield.deadline, trio.current_time() + self._system._grace)

    def _abandon(self) -> None:
        """Its nursery is cancelled."""
        if self._state is State.BACKOFF:
            self._rest(End(Cause.CANCELLED))
        else:
            self._cut()

    def _ordered(self, error: BaseException | None = None) -> End:
        """The end that an order brings; without one, that of a nursery that is cancelled."""
        hint = self._full().retry_after if self._order is Order.OVERFLOW else None
        return End(_CAUSES.get(self._order, Cause.CANCELLED), error, hint)

    def _rest(self, end: End) -> None:
        """Bring the address to rest, without a gap: what waits is lost, those who wait hear of it."""
        system, inbox = self._system, self._inbox
        self._state, self._actor, self._scope = State.ENDING, None, None
        inbox.close()
        self._silence()
        starter, self._starter = self._starter, None
        if starter is not None:
            starter.fail(end.error or ActorStopped(self._name))
        if end.cause is Cause.PASSIVATED:
            system._emit(What.PASSIVATED, self)
        else:
            system._emit(What.ENDED, self, end.error, end.cause.value)
            for item in inbox.empty_out():
                system._lose_queued(self, item, Loss.STOPPED, lambda: error_of(self, end), end.error)
            control, inbox.control = inbox.control, None
            for item in control or ():
                if not isinstance(item, OfIncarnation):
                    system._lose(self, item, Loss.STOPPED, end.error)
            inbox.refuse_waiters(lambda: ActorStopped(self._name))
            watches, self._watches = self._watches, None
            for watch in list(watches or ()):
                watch.fire(watch, end)
        inbox.attention = False
        self._order = Order.NONE
        self._keeper._ended(self)
        self._move(State.DORMANT if self._keeper.virtual else State.STOPPED)
        self._tell_ended()
        system._look_settled()

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


_NEVER_AGAIN = AT_REST | {State.ENDING}


def error_of(ref: Ref[NoReturn], end: End) -> Exception:
    """What those get whose requests an incarnation had, or would have had."""
    if end.cause is not Cause.CRASHED:
        return ActorStopped(ref._name)
    error = ActorCrashed(ref._name)
    error.__cause__ = end.error
    return error
