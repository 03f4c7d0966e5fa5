"""The observable events of a system: how incarnations end, dead letters, lifecycle events and hooks."""

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
    """Its inbox was full, and its overflow policy is to stop."""
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
    """How an incarnation ended; the argument of `Actor.on_stop`.

    `error` is the exception, if it crashed; `retry_after` the hint of its `Stop` in seconds, if it overflowed.
    """

    cause: Cause
    error: BaseException | None = None
    retry_after: float | None = None


@attrs.frozen(eq=False)
class Down:
    """An actor has ended for good; the argument of the function passed to `Actor.watch`."""

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
    """The inbox was full, and the actor's overflow policy is to stop."""
    STOPPED = "stopped"
    """The address stopped or was given up before the message began."""
    CRASHED = "crashed"
    """Its handler raised, was killed or was cancelled. What it did until then is not undone."""


@attrs.frozen(eq=False)
class DeadLetter:
    """A lost message. Only with `CRASHED` had its handler begun. `error` is the crash that lost it, if any."""

    name: str
    message: object
    reason: DeadLetterReason
    error: BaseException | None = None
    detail: str = attrs.Factory(lambda self: "" if self.error is None else repr(self.error), takes_self=True)


class DeadLetters:
    """Counts lost messages by reason, passes each to the observer and keeps the last 256.

    They are kept without `error`, only with its `detail`, because a traceback would keep actors alive.
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
    """The kind of a lifecycle event of an actor."""

    STARTED = "started"
    RESTARTING = "restarting"
    PASSIVATED = "passivated"
    ENDED = "ended"
    GAVE_UP = "gave_up"
    STUCK = "stuck"


@attrs.frozen(eq=False)
class Event:
    """An event in the life of an actor. `detail` is for people: a cause, or the await stack of a stuck actor."""

    kind: EventKind
    name: str
    error: BaseException | None = None
    detail: str = ""


class Events:
    """The events of a system as they happen: `async for event in events`. Made by `ActorSystem.events`."""

    def __init__(self, bound: int) -> None:
        self._send, self._receive = trio.open_memory_channel[Event](bound)
        self.missed: int = 0
        """The number of events dropped because `bound` of them were waiting: the newest are dropped."""

    def _put(self, event: Event) -> None:
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self.missed += 1

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._receive.__aiter__()


class Instrument(Protocol):
    """Hooks for every user message, called synchronously. They must not raise. Without one, nothing is called."""

    def enqueue(self, name: str, message: object) -> None:
        """The actor `name` has accepted `message`."""

    def begin(self, name: str, message: object) -> None:
        """Its handler is about to run."""

    def end(self, name: str, message: object, error: BaseException | None) -> None:
        """The handler has returned, or raised `error`. Every `begin` has one `end`."""


@attrs.frozen
class ActorInfo:
    """One actor at one moment. `parent` is its family or supervisor; `age` in seconds, over restarts.

    `begun` counts user messages, `signals` control messages, `restarts` restarts since the actor was started,
    `drops` lost messages by reason.

    `busy_for` is the number of seconds since an earlier inspection (`tree`, or the system's own if `stuck_after` is
    set) first saw the current message; 0 when idle.
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
