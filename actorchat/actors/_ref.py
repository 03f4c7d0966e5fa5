"""Owns the address of an actor: what others hold of it, and all that outlives its incarnations.

Knows no handler: `_life` runs what lives here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

import attrs
import trio
from trio.lowlevel import reschedule, wait_task_rescheduled

from actorchat.actors._errors import ActorStopped, AskCycle, MailboxFull
from actorchat.actors._events import Loss
from actorchat.actors._inbox import Coalesce, Inbox, Overflow, request_of
from actorchat.actors._message import Askable, Call

if TYPE_CHECKING:
    from collections import Counter
    from weakref import WeakSet

    from actorchat.actors._actor import Actor
    from actorchat.actors._events import End
    from actorchat.actors._group import Group
    from actorchat.actors._supervise import Budget, Keeper
    from actorchat.actors._system import ActorSystem

__all__ = ["Order", "Ref", "Spec", "State"]

R = TypeVar("R")
M_contra = TypeVar("M_contra", contravariant=True)


class State(enum.Enum):
    DORMANT = "dormant"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    LEAVING = "leaving"
    """In `on_stop`, and may come back."""
    ENDING = "ending"
    """In `on_stop` for the last time."""
    STOPPED = "stopped"


class Order(enum.Enum):
    """What the incarnation is asked to do between two messages. A later one in this list overrides."""

    PASSIVATE = 0
    RESTART = 1
    DRAIN = 2
    STOP = 3
    KILL = 4


@attrs.define(eq=False)
class Spec:
    """What the addresses of one spawn, or of one family, have in common."""

    nursery: trio.Nursery
    bound: int
    overflow: Overflow | Coalesce[NoReturn]
    keeper: Keeper


class Ref(Generic[M_contra]):
    """The address of an actor that takes messages of type `M`. Hold it as long as you like; it is small.

    One thread: call it from the system's Trio thread only. Messages of one sender are handled in the order in
    which they were sent; signals overtake them. A message is handled at most once.
    """

    __slots__ = (
        "__weakref__",
        "_actor",
        "_anchor",
        "_budget",
        "_busy_mark",
        "_busy_since",
        "_cut",
        "_drops",
        "_ended",
        "_groups",
        "_inbox",
        "_kind",
        "_name",
        "_order",
        "_pause",
        "_ready",
        "_restarts",
        "_scope",
        "_since",
        "_spec",
        "_state",
        "_system",
        "_waits_for",
        "_watchers",
    )

    def __init__(self, system: ActorSystem, spec: Spec, name: str, state: State) -> None:
        self._system, self._spec, self._name, self._state = system, spec, name, state
        self._inbox = Inbox(spec.bound)
        self._actor: Actor[NoReturn] | None = None
        self._anchor: object = None
        self._kind: type[Actor[NoReturn]] | None = None
        self._order: Order | None = None
        self._scope: trio.CancelScope | None = None
        # Around the backoff; around `on_stop`, or an incarnation that can be cut short for its siblings.
        self._pause: trio.CancelScope | None = None
        self._cut: trio.CancelScope | None = None
        self._waits_for: Ref[NoReturn] | None = None
        self._budget: Budget | None = None
        self._ready: Callable[[BaseException | None], bool] | None = None
        self._ended: trio.Event | None = None
        self._watchers: dict[object, Callable[[End], None]] | None = None
        self._groups: WeakSet[Group[NoReturn]] | None = None
        self._since = 0.0
        self._restarts = 0
        self._drops: Counter[Loss] | None = None
        self._busy_mark = -1
        self._busy_since = 0.0

    def __repr__(self) -> str:
        return f"<Ref {self._name} {self._state.value}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def stopped(self) -> bool:
        """It has stopped for good. A virtual actor has only when its system has closed."""
        return self._state is State.STOPPED

    @property
    def queued(self) -> int:
        """User messages that wait."""
        return self._inbox.queued

    def tell(self, message: M_contra) -> bool:
        """Put `message` into the inbox, now. Never waits, never raises.

        False: it became a dead letter, because the inbox was full or the address has stopped.
        """
        inbox = self._inbox
        accepted = inbox.accepted
        if accepted < inbox.begun + inbox.base:
            inbox.accepted = accepted + 1
            sleeper = inbox.sleeper
            if sleeper is None:
                inbox.put(message)
            else:
                inbox.taken.append(message)
                inbox.sleeper = None
                reschedule(sleeper)
            return True
        loss = self._offer(message)
        if loss is not None:
            self._system.lose(self, message, loss)
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
            self._spec.keeper.activate(self)
        if self._state in _NEVER_AGAIN:
            self._system.lose(self, message, Loss.STOPPED)
            return False
        self._inbox.add_control(message)
        return True

    async def send(self, message: M_contra) -> None:
        """Put `message` into the inbox, waiting for room in the order of arrival. Cancelled, it was not put.

        Raises `ActorStopped` if the address has stopped or stops meanwhile (the message is still yours),
        `AskCycle` in an actor for which the wait could never end.
        """
        if not self._receptive():
            raise ActorStopped(self._name)
        inbox = self._inbox
        if inbox.waiters is None and not inbox.full:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._put(message)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        asker = self._system.tasks.get(trio.lowlevel.current_task())
        if asker is not None:
            self._wait_from(asker)
        await inbox.wait_for_room(message, asker)

    async def ask(self, request: Askable[M_contra, R], *, timeout: float | None = None) -> R:
        """Send `request` and wait for its reply. `timeout` in seconds, at most 0.05 late.

        Asked by an actor while it answers an ask itself, the time left for that one bounds this one too. Cancelled or
        timed out, a request that has not begun never does; one that has is finished, and its reply dropped.

        Raises what the handler gave to `fail`; `AskTimeout`; `ActorCrashed` if the handler raised; `ActorStopped`,
        `MailboxFull`, `NoReply`; `AskCycle` at once in an actor for which the wait could never end.
        """
        system = self._system
        call = Call(request, self)
        asker = system.tasks.get(call.task)
        if asker is not None:
            current = asker._actor._current if asker._actor is not None else None
            if current.__class__ is Call:
                call.deadline = current.deadline
            self._wait_from(asker)
            call.asker = asker
        if timeout is not None:
            call.deadline = min(call.deadline, trio.current_time() + timeout)
        inbox = self._inbox
        if inbox.accepted < inbox.begun + inbox.base:
            inbox.accepted += 1
            sleeper = inbox.sleeper
            if sleeper is None:
                inbox.put(call)
            else:
                inbox.taken.append(call)
                inbox.sleeper = None
                reschedule(sleeper)
        else:
            loss = self._offer(call)
            if loss is not None:
                call.abort(None)
                await trio.lowlevel.checkpoint()
                stopped = loss is Loss.STOPPED
                raise ActorStopped(self._name) if stopped else MailboxFull(self._name)
        if call.deadline != inf:
            system.clock.expire(call)
        reply: R = await wait_task_rescheduled(call.abort)
        return reply

    def stop(self, *, drain: bool = True) -> None:
        """Take no more messages, handle those that wait (`drain=False`: only the current one), `on_stop`, end.

        A virtual actor ends its incarnation this way; what comes after activates the next.
        """
        self._give(Order.DRAIN if drain else Order.STOP)

    def kill(self) -> None:
        """Cancel the handler at its next checkpoint. `on_stop` still runs, for a short grace."""
        self._give(Order.KILL)

    async def join(self) -> None:
        """Wait until it has stopped: `on_stop` has run. For a virtual actor: until no incarnation lives.

        An actor can't wait for itself: RuntimeError.
        """
        if self._system.tasks.get(trio.lowlevel.current_task()) is self:
            raise RuntimeError(f"{self._name} would wait for itself for ever")
        await trio.lowlevel.checkpoint()
        while self._state not in _AT_REST:
            if self._ended is None:
                self._ended = trio.Event()
            await self._ended.wait()

    def _give(self, order: Order) -> None:
        """Have the incarnation obey `order` before its next message; `KILL` cancels what it is doing."""
        if self._state in _AT_REST:
            return
        if self._order is None or order.value > self._order.value:
            self._order = order
        if not self._spec.keeper.receptive(order):
            self._inbox.close()
            self._inbox.refuse_waiters(lambda: ActorStopped(self._name))
        if order is Order.KILL and self._scope is not None:
            self._scope.cancel()
            self._hurry()
        if order in (Order.DRAIN, Order.STOP) and self._pause is not None:
            self._pause.cancel()
        self._inbox.call_attention()

    def _hurry(self) -> None:
        """An `on_stop` that runs has `grace` seconds from now, and no more."""
        if self._state in (State.LEAVING, State.ENDING) and self._cut is not None:
            self._cut.deadline = min(self._cut.deadline, trio.current_time() + self._system.grace)

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

    def _receptive(self) -> bool:
        """Activate what is dormant; False if no message is taken."""
        if self._state is State.DORMANT:
            self._spec.keeper.activate(self)
        return self._state not in _NEVER_AGAIN and self._spec.keeper.receptive(self._order)

    def _offer(self, item: object) -> Loss | None:
        """Take `item` in by the long way; None if it is in, else why not."""
        if not self._receptive():
            return Loss.STOPPED
        inbox, overflow = self._inbox, self._spec.overflow
        if isinstance(overflow, Coalesce) and item.__class__ is not Call:
            key = overflow.key(item)
            if key is not None and (not inbox.full or (inbox.newest is not None and key in inbox.newest)):
                replaced = inbox.add_newest(key, item)
                if replaced is not None:
                    self._system.lose(self, replaced[0], Loss.COALESCED)
                return None
        if inbox.full:
            if overflow is Overflow.DROP_OLD:
                self._system.lose_queued(self, inbox.drop_oldest(), Loss.DROPPED_OLD, None, self._full)
            elif overflow is Overflow.STOP:
                self.kill()
                return Loss.OVERFLOWED
            else:
                return Loss.DROPPED_NEW if overflow is Overflow.DROP_NEW else Loss.REJECTED
        self._put(item)
        return None

    def _full(self) -> MailboxFull:
        return MailboxFull(self._name)

    def _put(self, item: object) -> None:
        instrument = self._system.instrument
        if instrument is not None:
            instrument.enqueue(self._name, request_of(item))
        self._inbox.add(item)

    def _open(self) -> None:
        if self._system.instrument is None and not isinstance(self._spec.overflow, Coalesce):
            self._inbox.open()


_NEVER_AGAIN = frozenset({State.ENDING, State.STOPPED, State.DORMANT})
_AT_REST = frozenset({State.STOPPED, State.DORMANT})
