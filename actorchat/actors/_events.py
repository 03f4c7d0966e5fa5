"""Owns what can be seen of a system from outside: how incarnations end, dead letters, lifecycle events, hooks.

Decides nothing and keeps nothing alive but the last dead letters.
"""

from __future__ import annotations

import enum
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, NoReturn, Protocol

import attrs
import trio

if TYPE_CHECKING:
    from actorchat.actors._ref import Ref

_log = logging.getLogger("actorchat.actors")


class Cause(enum.Enum):
    """Why an incarnation ended."""

    STOPPED = "stopped"
    """`Ref.stop`, or the system drained."""
    KILLED = "killed"
    """`Ref.kill`, or the drain deadline."""
    OVERFLOWED = "overflowed"
    """Its inbox was full, and its policy is to stop then."""
    CANCELLED = "cancelled"
    """The nursery around the system was cancelled."""
    CRASHED = "crashed"
    """A handler, `on_start` or a pipe without `err` raised."""
    RESTARTED = "restarted"
    """A sibling crashed under `Strategy.ONE_FOR_ALL` or `REST_FOR_ONE`."""
    PASSIVATED = "passivated"
    """A virtual actor was idle."""


@attrs.frozen
class End:
    """How an incarnation ended. `Actor.on_stop` gets it.

    `error` is what it raised, if it crashed; `retry_after` the hint of its `Stop`, in seconds, if it overflowed.
    """

    cause: Cause
    error: BaseException | None = None
    retry_after: float | None = None


@attrs.frozen(eq=False)
class Down:
    """An actor has ended and does not come back by itself. What the function given to `Actor.watch` gets."""

    ref: Ref[NoReturn]
    cause: Cause
    error: BaseException | None = None
    retry_after: float | None = None


class DeadLetterReason(enum.Enum):
    """Why a message became a dead letter."""

    REJECTED = "rejected"
    DROPPED_NEW = "dropped_new"
    DROPPED_OLD = "dropped_old"
    COALESCED = "coalesced"
    OVERFLOWED = "overflowed"
    """It found the inbox of an actor full whose policy is to stop then."""
    STOPPED = "stopped"
    """The address had stopped, or stopped, or was given up, before the message began."""
    CRASHED = "crashed"
    """Its handler had begun and raised, or was killed or cancelled; what it did so far is done."""


@attrs.frozen(eq=False)
class DeadLetter:
    """A message that was lost. All but `CRASHED` never began. `error` is the crash that lost it, if one did."""

    name: str
    message: object
    reason: DeadLetterReason
    error: BaseException | None = None
    detail: str = attrs.Factory(lambda self: "" if self.error is None else repr(self.error), takes_self=True)


class DeadLetters:
    """Every lost message: counted by reason, each shown to the observer, the last 256 kept.

    They are kept without `error`, only with its `detail`: a traceback would keep actors alive.
    """

    def __init__(self, observer: Callable[[DeadLetter], object] | None) -> None:
        self.counts: Counter[DeadLetterReason] = Counter()
        self.last: deque[DeadLetter] = deque(maxlen=256)
        self._observer = observer

    def _add(self, letter: DeadLetter) -> None:
        self.counts[letter.reason] += 1
        self.last.append(attrs.evolve(letter, error=None, detail=letter.detail))
        if self._observer is not None:
            try:
                self._observer(letter)
            except Exception:
                _log.exception("the observer of dead letters failed")


class EventKind(enum.Enum):
    STARTED = "started"
    RESTARTING = "restarting"
    PASSIVATED = "passivated"
    ENDED = "ended"
    GAVE_UP = "gave_up"
    STUCK = "stuck"


@attrs.frozen(eq=False)
class Event:
    """Something happened to an actor. `detail` is for people: a cause, or the await stack of a stuck one."""

    kind: EventKind
    name: str
    error: BaseException | None = None
    detail: str = ""


class Events:
    """What happens in a system, as it happens: `async for event in events`. Made by `ActorSystem.events`."""

    def __init__(self, bound: int) -> None:
        self._send, self._receive = trio.open_memory_channel[Event](bound)
        self.missed = 0
        """Events that came while `bound` of them waited: the newest are dropped."""

    def _put(self, event: Event) -> None:
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self.missed += 1

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._receive.__aiter__()


class Instrument(Protocol):
    """Hooks on every user message, called synchronously. They must not raise. Unset, they cost nothing."""

    def enqueue(self, name: str, message: object) -> None: ...

    def begin(self, name: str, message: object) -> None: ...

    def end(self, name: str, message: object, error: BaseException | None) -> None: ...


@attrs.frozen
class ActorInfo:
    """One actor at one moment. `parent` is its family or supervisor; `age` in seconds, over restarts.

    `begun` counts user messages, `signals` control messages handled, `restarts` those since the actor was started,
    `drops` what its address lost, by reason.

    `busy_for` is how many seconds the current message has been seen to take, by earlier looks (`tree`, or the system's
    own when `stuck_after` is set); 0 when idle.
    """

    name: str
    actor: str
    parent: str | None
    state: str
    age: float
    restarts: int
    queued: int
    bound: int
    begun: int
    signals: int
    dropped: int
    drops: Mapping[DeadLetterReason, int]
    message: str | None
    busy_for: float
    waiting_on: str | None
