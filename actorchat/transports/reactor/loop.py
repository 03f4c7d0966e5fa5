"""Owns when each socket gets its turn: one selector, one task that waits on it, bounded passes.

Knows nothing of sessions, and of frames only how many. All interest in reading and writing lives here, and all
deadlines.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Final, Protocol

import attrs
import trio

from actorchat.transports.in_flight import InFlightOperations
from actorchat.transports.kernel import KERNEL, Kernel

__all__ = ["READ", "WRITE", "Budget", "Handle", "Reactor", "ReactorStatistics"]

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

# Beside READ and WRITE in `Handle.ready`: the seat is in a queue already.
_QUEUED: Final = 4


@attrs.frozen(kw_only=True)
class Budget:
    """How much is done before other tasks get their turn, and in one turn of one socket.

    A pass ends after `pass_seconds` or `pass_bytes`, whichever comes first, and between two turns only. Who rests has
    no turn for `rest_seconds`, then turns of `rested_frames`: in quiet moments between what others say, and after
    `rest_seconds` more in any case. They are as small as is worth a turn, because whoever speaks meanwhile waits for
    its end.
    """

    pass_seconds: float = 0.002
    pass_bytes: int = 262_144
    turn_bytes: int = 16_384
    turn_frames: int = 64
    rest_seconds: float = 0.004
    rested_frames: int = 16


class Handle(Protocol):
    """One socket in the reactor."""

    interest: int
    ready: int
    deadline: float
    ended: bool

    def fileno(self) -> int:
        """The descriptor, as long as the seat has not ended."""

    def turn(self, ready: int) -> tuple[int, bool]:
        """Do what can be done without waiting. `ready` is what the selector said, 0 for what was left over.

        Returns how many bytes were read, and whether something is left over for another turn.
        """

    def failed(self, error: Exception) -> None:
        """A turn has raised: end this socket, and nobody else's."""

    def expired(self) -> None:
        """The deadline has passed: end now."""


@attrs.frozen(kw_only=True)
class ReactorStatistics:
    """`passes` since the start; now: `handles`, those `queued` for a turn, those `paused` (not read)."""

    passes: int
    handles: int
    queued: int
    paused: int


class Reactor:
    """Every seat gets at most one turn a round; a round takes as many passes as its turns need.

    Who rests comes behind all others, one in a round: it is read in quiet moments, when nobody else has something to
    say and of all `operations` none is in flight, and at last in any moment.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.perf_counter,
        kernel: Kernel = KERNEL,
    ) -> None:
        self.budget: Budget = budget or Budget()
        # All that is read goes through it: what a seat keeps it copies.
        self.buffer: bytearray = bytearray(self.budget.turn_bytes)
        self._clock = clock
        self._kernel = kernel
        self._selector = kernel.selector()
        # A dict: they are closed in the order they came.
        self._handles: dict[Handle, None] = {}
        # This round's turns, and those who asked for one in the next round.
        self._round: deque[Handle] = deque()
        self._next: deque[Handle] = deque()
        self._passes = 0
        self.operations: InFlightOperations = InFlightOperations()
        # Until when each seat rests; all rests are equally long, so the first ends first.
        self._resting: dict[Handle, float] = {}
        # Whose rest is over: until when each waits for a quiet moment, nearly in that order.
        self._rested: dict[Handle, float] = {}
        self._deadlines: list[tuple[float, int]] = []
        # Whose deadline an entry is. The heap itself must not keep a seat that has ended before.
        self._expiring: dict[int, Handle] = {}
        self._ties: dict[Handle, int] = {}
        self._tie = count()
        self._waiting: trio.CancelScope | None = None

    async def run(self) -> None:
        """Give turns until cancelled."""
        while True:
            # One scope for many waits: it lasts till a deadline comes or a turn is asked for.
            with trio.CancelScope() as scope:
                while True:
                    self._waiting = None
                    self.run_pass()
                    if self._round or self._next or (self._rested and not self.operations.in_flight):
                        await trio.lowlevel.checkpoint()
                    else:
                        deadline = self._deadlines[0][0] if self._deadlines else inf
                        if self._rested:
                            deadline = min(deadline, _first(self._rested))
                        elif self._resting:
                            # Quiet moments are noticed when somebody else wakes this, and not waited for.
                            deadline = min(deadline, _first(self._resting) + self.budget.rest_seconds)
                        if scope.deadline != deadline:
                            scope.deadline = deadline
                        self._waiting = scope
                        await self._kernel.wait_readable(self._selector.fileno())

    def run_pass(self) -> None:
        """Give turns until everybody ready has had one, or the budget is spent."""
        self._passes += 1
        if self._deadlines:
            self._expire()
        if not self._round:
            self._begin_round()
        budget = self.budget
        clock = self._clock
        until = clock() + budget.pass_seconds
        bytes_left = budget.pass_bytes
        queue = self._round
        while queue:
            handle = queue.popleft()
            ready, handle.ready = handle.ready & ~_QUEUED, 0
            if handle.ended:
                continue
            try:
                count, more = handle.turn(ready)
            except Exception as error:
                handle.failed(error)
                continue
            if more:
                self.queue(handle)
            bytes_left -= count
            if bytes_left <= 0 or clock() >= until:
                break

    def _begin_round(self) -> None:
        queue = self._round = self._next
        self._next = deque()
        for key, events in self._selector.select(0):
            handle: Handle = key.data
            if not handle.ready:
                queue.append(handle)
            handle.ready |= events | _QUEUED
        if self._resting or self._rested:
            self._end_rests()

    def queue(self, handle: Handle) -> None:
        """Give `handle` a turn in the next round, whatever the selector says: from any task."""
        if not handle.ready and not handle.ended:
            handle.ready = _QUEUED
            self._next.append(handle)
            if self._waiting is not None:
                self._waiting.cancel()

    def rest(self, handle: Handle, *, left_over: bool = False) -> None:
        """Don't watch what `handle` says, and give it a turn to read in a quiet moment after `rest_seconds`.

        With something `left_over` it has rested: any quiet moment will do. What comes meanwhile is read in few turns,
        not in many. Watching it again is the seat's to ask for.
        """
        self.watch(handle, handle.interest & ~READ)
        self._rested.pop(handle, None)
        queue = self._rested if left_over else self._resting
        queue[handle] = until = trio.current_time() + self.budget.rest_seconds
        self.operations.on_none = self._on_quiet
        if self._waiting is not None:
            self._waiting.deadline = min(self._waiting.deadline, until)

    def _on_quiet(self) -> None:
        """No operation is in flight any more."""
        if self._waiting is not None and (self._rested or _first(self._resting) <= trio.current_time()):
            self._waiting.cancel()

    def add(self, handle: Handle) -> None:
        """Take a seat; it is watched for nothing yet."""
        self._handles[handle] = None

    def watch(self, handle: Handle, interest: int) -> None:
        """Give `handle` a turn when its socket is ready for `interest`; 0 = never."""
        before = handle.interest
        if before == interest or handle.ended:
            return
        if not before:
            self._selector.register(handle.fileno(), interest, handle)
        elif not interest:
            self._selector.unregister(handle.fileno())
        else:
            self._selector.modify(handle.fileno(), interest, handle)
        handle.interest = interest

    def expire_at(self, handle: Handle, deadline: float) -> None:
        """Call `handle.expired` at `deadline`, unless it has ended by then or got an earlier one."""
        if deadline < handle.deadline and not handle.ended:
            handle.deadline = deadline
            tie = next(self._tie)
            heappush(self._deadlines, (deadline, tie))
            self._expiring.pop(self._ties.get(handle, -1), None)
            self._ties[handle], self._expiring[tie] = tie, handle
            if self._waiting is not None:
                self._waiting.deadline = min(self._waiting.deadline, deadline)

    def remove(self, handle: Handle) -> None:
        """Forget a seat whose socket is about to be closed. Entries for it that are under way count for nothing."""
        self.watch(handle, 0)
        handle.ended = True
        self._handles.pop(handle, None)
        self._resting.pop(handle, None)
        self._rested.pop(handle, None)
        self._expiring.pop(self._ties.pop(handle, -1), None)

    def statistics(self) -> ReactorStatistics:
        return ReactorStatistics(
            passes=self._passes,
            handles=len(self._handles),
            queued=len(self._round) + len(self._next),
            paused=sum(1 for handle in self._handles if not handle.interest),
        )

    def _expire(self) -> None:
        now = trio.current_time()
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            handle = self._expiring.pop(heappop(deadlines)[1], None)
            if handle is not None:
                handle.expired()

    def _end_rests(self) -> None:
        now = trio.current_time()
        resting, rested, queue = self._resting, self._rested, self._round
        while _first(resting) <= now:
            handle = next(iter(resting))
            rested[handle] = resting.pop(handle) + self.budget.rest_seconds
        quiet = not queue and not self.operations.in_flight
        # One only, however many are late: whoever speaks meanwhile has a turn in the next round.
        if rested and (quiet or _first(rested) <= now):
            handle = next(iter(rested))
            del rested[handle]
            if not handle.ready:
                queue.append(handle)
            handle.ready |= READ | _QUEUED
        if not rested and not resting:
            self.operations.on_none = None

    def close(self) -> None:
        """End every seat, then the selector. Nobody may be running it any more, or ask for anything."""
        for handle in tuple(self._handles):
            handle.expired()
        self._kernel.notify_closing(self._selector.fileno())
        self._selector.close()


def _first(times: dict[Handle, float]) -> float:
    return next(iter(times.values()), inf)
