"""The address of an actor: how others reach it, and the state that outlives its incarnations."""

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
    """Between two incarnations, or before the first one."""
    LEAVING = "leaving"
    """Ending: in `on_stop`, or just before it."""
    STOPPED = "stopped"


INACTIVE = frozenset({State.STOPPED, State.DORMANT})


class Directive(enum.IntEnum):
    """Tells an incarnation what to do before its next message. A later entry of this list overrides an earlier one."""

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
"""The cause of the end that each directive leads to. Without one, the nursery was cancelled."""


@attrs.define(eq=False)
class Watch:
    """A watch. `fire(watch, end)` is called in the step in which the address ends, as long as the watch is held."""

    fire: Callable[[Watch, End], None]


@attrs.frozen(eq=False)
class IncarnationMessage:
    """A control message for one incarnation only: `actor`."""

    actor: Actor[NoReturn]
    make: Callable[[], object]
    """Makes the message when it is handled, or returns NOTHING. An exception crashes the actor, between messages."""


@attrs.define(eq=False, init=False, repr=False)
class Ref(Generic[M_contra]):
    """The address of an actor that accepts messages of type `M`. It is small and may be held for any time.

    Use it only in the system's Trio thread. Messages of one sender are handled in the order in which they were sent;
    signals overtake them. A message is handled at most once.
    """

    _system: ActorSystem
    _spec: ChildSpec
    _name: str
    _state: State
    _key: object
    _inbox: Inbox
    _directive: Directive = Directive.NONE
    _until: int = 0
    """The number of accepted messages when the last directive came. A draining actor still handles these."""
    _anchor: object = None
    _actor: Actor[NoReturn] | None = None
    _kind: type[Actor[NoReturn]] | None = None
    _scope: trio.CancelScope = attrs.field(init=False)
    """Around an incarnation and the wait before it, without its `on_stop`."""
    _pause: trio.CancelScope | None = None
    """Around the wait before an incarnation."""
    _before: End | None = None
    """How the last incarnation ended, if it crashed and a supervisor decides when the next one starts."""
    _shield: trio.CancelScope | None = None
    """Around `on_stop`."""
    _budget: Budget | None = None
    _starter: Call | None = None
    _waits_for: Ref[NoReturn] | None = None
    _watches: WeakKeyDictionary[Watch, None] | None = None
    _ended: trio.Event | None = None
    """Set when the address becomes inactive, or when an incarnation of a virtual actor ends."""
    _drops: Counter[DeadLetterReason] | None = None
    _since: float = 0.0
    _restarts: int = 0
    _busy_mark: int = -1
    _busy_since: float = 0.0

    def __init__(self, system: ActorSystem, spec: ChildSpec, name: str, state: State, key: object = None) -> None:
        # Made by `ActorSystem.spawn` and by families.
        newest: dict[Hashable, Slot] | None = {} if isinstance(spec._overflow, Coalesce) else None
        self.__attrs_init__(system, spec, name, state, key, Inbox(spec._inbox, newest))

    def __repr__(self) -> str:
        return f"<Ref {self._name} {self._state.value}>"

    @property
    def name(self) -> str:
        """The name, unique among the living actors of one system: the argument of `spawn`, or a generated name."""
        return self._name

    @property
    def stopped(self) -> bool:
        """Whether it has stopped for good. A virtual actor has stopped only if its system is closed."""
        return self._state is State.STOPPED or (
            self._state is State.DORMANT and not self._spec._receptive(Directive.NONE)
        )

    @property
    def queued(self) -> int:
        """The number of waiting user messages."""
        return self._inbox.queued

    def tell(self, message: M_contra) -> bool:
        """Put `message` into the inbox at once if there is room, even ahead of senders that wait. Never raises.

        Returns False if it became a dead letter: the inbox was full or the address has stopped.
        """
        inbox = self._inbox
        accepted = inbox.accepted
        if accepted < inbox.begun + inbox.base:
            # The same as `Inbox.add`, inlined for speed.
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
            self._make_dead_letter(message, loss)
        return loss is None

    def signal(self, message: M_contra) -> bool:
        """Put `message` into the control lane: handled by `receive`, one at a time, before user messages.

        Signals are not counted against the bound and never dropped for lack of room. They survive a restart, activate a
        virtual actor and keep their order. The sender has to limit their number. A signalled request is not answered.

        Returns False if the address has stopped for good. Signals that wait when the actor is killed, or when a virtual
        actor is given up, become dead letters.
        """
        if self._state is State.DORMANT:
            self._spec._activate(self)
        if self._state in INACTIVE or self._directive >= Directive.KILL:
            self._make_dead_letter(message, DeadLetterReason.STOPPED)
            return False
        self._inbox.signal(message)
        return True

    async def send(self, message: M_contra) -> None:
        """Put `message` into the inbox; wait for room, first come first served. If cancelled, it was not put in.

        Raises `ActorStopped` if the address has stopped or stops meanwhile; the message was not accepted. Raises
        `AskCycle` in an actor for which the wait would be a deadlock.
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

        If the caller is an actor that is handling a request itself, the time left for that one also limits this one.
        After a timeout or cancellation, a request that has not begun never begins; one that has begun is finished, and
        its reply is dropped.

        Raises the error that the handler passed to `fail`; `AskTimeout`; `ActorCrashed` if the handler raised;
        `ActorStopped`, `MailboxFull`, `NoReply`; `AskCycle` at once in an actor for which the wait would be a deadlock.
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
        """Accept no more messages, handle those that wait, run `on_stop`, end. Returns at once.

        With `drain=False` only the current message is finished. For a virtual actor this ends the current incarnation;
        later messages go to the next one.
        """
        self._apply(Directive.DRAIN if drain else Directive.STOP)

    def kill(self) -> None:
        """Cancel the handler at its next checkpoint. `on_stop` still runs, for at most the system's `grace`."""
        self._apply(Directive.KILL)

    async def join(self) -> None:
        """Wait until it has stopped and `on_stop` has run. For a virtual actor: until its incarnation has ended.

        Raises RuntimeError in an actor that waits for itself.
        """
        if self._system._tasks.get(current_task()) is self:
            raise RuntimeError(f"{self._name} would wait for itself for ever")
        if self._state in INACTIVE:
            await checkpoint()
        else:
            if self._ended is None:
                self._ended = trio.Event()
            await self._ended.wait()

    # Accepting messages

    def _receptive(self) -> bool:
        """Activate a dormant address. Returns False if it accepts no messages."""
        if self._state is State.DORMANT:
            self._spec._activate(self)
        return self._state not in INACTIVE and self._spec._receptive(self._directive)

    def _handle_now(self, message: object, sleeper: Task, handle: Callable[[object], bool]) -> None:
        """Let the parked actor handle `message` in this step, or pass it to the actor's task."""
        inbox, actor = self._inbox, self._actor
        assert actor is not None  # noqa: S101 - its task is parked
        inbox.begun += 1
        inbox.left, actor._current = False, message
        result: Outcome[None] = AWAKE
        try:
            if not handle(message):
                inbox.begun -= 1
                inbox.handed = message
            actor._current = None
        except BaseException as error:
            # The error is not the sender's: the actor's task raises it, and the message is lost.
            result = Error(error)
        if inbox.left:
            # The handler has cancelled its own actor, and the task has been woken for that.
            if type(result) is Error:
                _log.error("%s raised while it was cancelled", self._name, exc_info=result.error)
        elif result is AWAKE and inbox.accepted == inbox.begun + inbox.dropped and not inbox.attention:
            inbox.sleeper = sleeper
        else:
            reschedule(sleeper, result)

    def _offer(self, item: object) -> DeadLetterReason | None:
        """Accept `item` on the slow path. Returns None, or the reason why it was lost."""
        if not self._receptive():
            return DeadLetterReason.STOPPED
        if self._put(item):
            return None
        overflow = self._spec._overflow
        if overflow is Overflow.STOP or isinstance(overflow, Stop):
            self._apply(Directive.OVERFLOW)
            return DeadLetterReason.OVERFLOWED
        if overflow is not Overflow.DROP_OLD:
            return DeadLetterReason.DROPPED_NEW if overflow is Overflow.DROP_NEW else DeadLetterReason.REJECTED
        oldest = self._inbox.drop_oldest()
        self._put(item)
        self._make_dead_letter(oldest, DeadLetterReason.DROPPED_OLD)
        return None

    def _put(self, item: object, waiter: Call | None = None) -> bool:
        """Accept `item` if there is room or if it replaces an older one. `waiter` is the sender that waits for it."""
        inbox, slot = self._inbox, None
        newest, key = inbox.newest, self._key_of(item)
        if newest is not None and key is not None:
            slot = newest.get(key)
        if (slot is None and inbox.full) or (waiter is not None and waiter.done):
            return False
        if waiter is not None and inbox.waiters is not None:
            # Before any observer is called, which might end this address.
            del inbox.waiters[waiter]
            waiter.reply(None)
        if self._system._instrument is not None:
            self._system._instrument.enqueue(self._name, message_of(item))
        if slot is not None:
            replaced, slot.message = slot.message, item
            inbox.accepted += 1
            inbox.drop_one()
            # The replaced message counts as dropped, so the message that took its place moves the drain limit.
            self._until += 1
            self._make_dead_letter(replaced, DeadLetterReason.COALESCED)
        elif newest is not None and key is not None:
            newest[key] = Slot(key, item)
            inbox.add(newest[key])
        else:
            inbox.add(item)
        return True

    def _key_of(self, item: object) -> Hashable | None:
        """The coalescing key of `item`; None if it is not coalesced."""
        overflow = self._spec._overflow
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
        """Accept the messages of waiting senders in their order, as long as there is room."""
        inbox = self._inbox
        while inbox.waiters:
            call = next(iter(inbox.waiters))
            if not self._put(call.message, call):
                # Check again after the next message: there will be room then.
                inbox.attention = True
                return
        inbox.waiters = None

    def _full(self) -> MailboxFull:
        overflow = self._spec._overflow
        return MailboxFull(self._name, overflow.retry_after if isinstance(overflow, Stop) else None)

    def _make_dead_letter(self, item: object, reason: DeadLetterReason, end: End | None = None) -> None:
        """Make `item` a dead letter. Its asker gets `MailboxFull`, or the error for the `end`."""
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
        """Note that `asker` is about to wait for this address. Raises `AskCycle` if that would close a cycle."""
        node: Ref[NoReturn] | None = self
        path = [asker._name]
        while node is not None:
            path.append(node._name)
            if node is asker:
                raise AskCycle(tuple(path))
            node = node._waits_for
        asker._waits_for = self

    # Life cycle

    def _start(self, delay: float = 0.0) -> None:
        """Start the task. The first incarnation begins in `delay` seconds, or with inf when it is resumed."""
        self._since, self._restarts = trio.current_time(), 0
        self._schedule(delay)
        self._spec._spawn(self)

    def _schedule(self, delay: float, before: End | None = None) -> None:
        """Schedule the next incarnation in `delay` seconds. The inbox accepts messages until then.

        `before` is how the address ends if this wait is cut short; `CANCELLED` if not given.
        """
        if self._spec._plain and self._spec._receptive(self._directive):
            self._inbox.base = self._inbox.bound + self._inbox.dropped
        self._scope, self._before = trio.CancelScope(), before
        self._pause = trio.CancelScope(deadline=trio.current_time() + delay) if delay > 0 else None
        self._move(State.BACKOFF if delay > 0 else State.STARTING)

    def _resume(self) -> None:
        """End the wait for the next incarnation."""
        if self._pause is not None:
            self._pause.cancel()
            self._move(State.STARTING)

    def _apply(self, directive: Directive) -> None:
        """Apply `directive` before the next message; from `KILL` on, cancel the running handler."""
        if self._state in INACTIVE:
            return
        self._until = self._inbox.accepted
        self._directive = max(self._directive, directive)
        if not self._spec._receptive(directive):
            self._inbox.close(lambda: ActorStopped(self._name))
        if directive >= Directive.STOP or (
            directive is Directive.DRAIN and self._pause is not None and self._pause.deadline < inf
        ):
            self._resume()
        if directive >= Directive.KILL:
            self._cut()
        self._inbox.call_attention()

    def _cut(self) -> None:
        """Cancel the handler, or the wait for the next incarnation."""
        self._scope.cancel()
        self._hurry()

    def _hurry(self) -> None:
        """Limit a running `on_stop` to `grace` seconds from now."""
        if self._shield is not None:
            self._shield.deadline = min(self._shield.deadline, trio.current_time() + self._system._grace)

    def _directed_end(self, error: BaseException | None = None) -> End:
        """The end that the current directive leads to; without one, the nursery was cancelled."""
        return End(
            _CAUSES[self._directive], error, self._full().retry_after if self._directive is Directive.OVERFLOW else None
        )

    def _failure(self, end: End) -> Exception:
        """The error for askers whose requests an incarnation had, or would have had."""
        if end.cause is not Cause.CRASHED:
            return ActorStopped(self._name)
        error = ActorCrashed(self._name)
        error.__cause__ = end.error
        return error

    def _deactivate(self, end: End) -> None:
        """Make the address inactive in one step: waiting messages become dead letters, and their asks fail."""
        inbox, starter = self._inbox, self._starter
        self._directive = Directive.KILL  # an observer must not add to it
        self._starter = self._pause = self._before = None
        if starter is not None:
            starter.fail(end.error or ActorStopped(self._name))
        inbox.close(lambda: ActorStopped(self._name))
        if end.cause is Cause.PASSIVATED:
            self._system._emit(EventKind.PASSIVATED, self)
        else:
            self._system._emit(EventKind.ENDED, self, end.error, end.cause.value)
            while inbox.queued:
                self._make_dead_letter(inbox.drop_oldest(), DeadLetterReason.STOPPED, end)
            control, inbox.control = inbox.control, None
            for item in control or ():
                if not isinstance(item, IncarnationMessage):
                    self._make_dead_letter(item, DeadLetterReason.STOPPED, end)
            watches, self._watches = self._watches, None
            for watch in list(watches or ()):
                watch.fire(watch, end)
        inbox.attention = False
        self._directive = Directive.NONE
        self._spec._ended(self)
        self._move(State.DORMANT if self._spec.virtual else State.STOPPED)
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
        self._spec._moved()

    def _tell_ended(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.set()
