"""Gives every ready socket its turn, in one task with one selector, and keeps all deadlines of the sockets."""

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

# A flag beside READ and WRITE in `Handle.ready`: the handle is in a queue already.
_QUEUED: Final = 4


@attrs.frozen(kw_only=True)
class Budget:
    """How much is done before other tasks run, and in one turn of one socket.

    A pass ends after `pass_seconds` or `pass_bytes`, whichever comes first, but never within a turn. A throttled socket
    is not read for `throttle_seconds`. Then it has to wait for a moment in which no other socket has input, for at most
    `throttle_seconds` more. It reads at most `throttled_frames` in a turn, because other sockets wait for its end.
    """

    pass_seconds: float = 0.002
    pass_bytes: int = 262_144
    turn_bytes: int = 16_384
    turn_frames: int = 64
    throttle_seconds: float = 0.004
    throttled_frames: int = 16


class Handle(Protocol):
    """One socket in the reactor."""

    interest: int
    ready: int
    deadline: float
    ended: bool

    def fileno(self) -> int:
        """The file descriptor, valid until the handle has ended."""

    def turn(self, ready: int) -> tuple[int, bool]:
        """Read and write what is possible without waiting.

        `ready` has the selector's flags, 0 for a turn that the handle asked for. Returns the number of bytes read, and
        whether the handle needs another turn.
        """

    def failed(self, error: Exception) -> None:
        """End this socket, because its turn raised `error`."""

    def expired(self) -> None:
        """End now, because the deadline has passed."""


@attrs.frozen(kw_only=True)
class ReactorStatistics:
    """`passes` since the start. As of now: `handles`, those `queued` for a turn, those `paused` (not read)."""

    passes: int
    handles: int
    queued: int
    paused: int


class Reactor:
    """Gives every handle at most one turn a round. A round takes as many passes as its turns need.

    Throttled handles come after all others, one per round. They are read in quiet moments: no other handle has input,
    and none of `operations` is in flight. After a while they are read even if there is no quiet moment.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.perf_counter,
        kernel: Kernel = KERNEL,
    ) -> None:
        self.budget: Budget = budget or Budget()
        # Shared by all reads. A handle copies what it keeps.
        self.buffer: bytearray = bytearray(self.budget.turn_bytes)
        self._clock = clock
        self._kernel = kernel
        self._selector = kernel.selector()
        # A dict, so that they are closed in the order in which they were added.
        self._handles: dict[Handle, None] = {}
        # The turns of this round and of the next one.
        self._round: deque[Handle] = deque()
        self._next: deque[Handle] = deque()
        self._passes = 0
        self.operations: InFlightOperations = InFlightOperations()
        # When throttled handles may be read again. All are throttled equally long, so the first one is due first.
        self._throttled: dict[Handle, float] = {}
        # Handles that may be read again, with the time until which they wait for a quiet moment, nearly in that order.
        self._due: dict[Handle, float] = {}
        self._deadlines: list[tuple[float, int]] = []
        # The handle of each entry. The heap itself must not keep a handle alive that has ended.
        self._expiring: dict[int, Handle] = {}
        self._ties: dict[Handle, int] = {}
        self._tie = count()
        self._waiting: trio.CancelScope | None = None

    async def run(self) -> None:
        """Give turns until cancelled."""
        while True:
            # One scope for many waits, because making one costs time. It is cancelled by a deadline or by `queue`.
            with trio.CancelScope() as scope:
                while True:
                    self._waiting = None
                    self.run_pass()
                    if self._round or self._next or (self._due and not self.operations.in_flight):
                        await trio.lowlevel.checkpoint()
                    else:
                        deadline = self._deadlines[0][0] if self._deadlines else inf
                        if self._due:
                            deadline = min(deadline, _first(self._due))
                        elif self._throttled:
                            # Quiet moments before that are noticed when another handle wakes this task.
                            deadline = min(deadline, _first(self._throttled) + self.budget.throttle_seconds)
                        if scope.deadline != deadline:
                            scope.deadline = deadline
                        self._waiting = scope
                        await self._kernel.wait_readable(self._selector.fileno())

    def run_pass(self) -> None:
        """Give turns until every ready handle has had one, or the budget is spent."""
        self._passes += 1
        if self._deadlines:
            self._expire()
        queue = self._round
        if not queue:
            queue, self._round, self._next = self._next, self._next, queue
            for key, events in self._selector.select(0):
                handle: Handle = key.data
                if not handle.ready:
                    queue.append(handle)
                handle.ready |= events | _QUEUED
            if self._throttled or self._due:
                self._end_throttling()
        budget = self.budget
        clock = self._clock
        until = clock() + budget.pass_seconds
        bytes_left = budget.pass_bytes
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

    def queue(self, handle: Handle) -> None:
        """Give `handle` a turn in the next round, even if its socket is not ready. May be called from any task."""
        if not handle.ready and not handle.ended:
            handle.ready = _QUEUED
            self._next.append(handle)
            if self._waiting is not None:
                self._waiting.cancel()

    def throttle(self, handle: Handle, *, left_over: bool = False) -> None:
        """Stop watching `handle` for input, and let it read in a quiet moment after `throttle_seconds`.

        With input `left_over` from its last turn it may read in the next quiet moment. What arrives meanwhile is then
        read in few turns. The handle has to call `watch` itself when it is not throttled any more.
        """
        self.watch(handle, handle.interest & ~READ)
        self._due.pop(handle, None)
        queue = self._due if left_over else self._throttled
        queue[handle] = until = trio.current_time() + self.budget.throttle_seconds
        self.operations.on_none = self._on_quiet
        if self._waiting is not None:
            self._waiting.deadline = min(self._waiting.deadline, until)

    def _on_quiet(self) -> None:
        """Called when no operation is in flight any more."""
        if self._waiting is not None and (self._due or _first(self._throttled) <= trio.current_time()):
            self._waiting.cancel()

    def add(self, handle: Handle) -> None:
        """Add a handle. It is not watched until `watch` is called."""
        self._handles[handle] = None

    def watch(self, handle: Handle, interest: int) -> None:
        """Give `handle` a turn whenever its socket is ready for `interest`: READ, WRITE, both, or 0 for never."""
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
        """Call `handle.expired` at `deadline`, unless the handle has ended by then or has an earlier deadline."""
        if deadline < handle.deadline and not handle.ended:
            handle.deadline = deadline
            tie = next(self._tie)
            heappush(self._deadlines, (deadline, tie))
            self._expiring.pop(self._ties.get(handle, -1), None)
            self._ties[handle], self._expiring[tie] = tie, handle
            if self._waiting is not None:
                self._waiting.deadline = min(self._waiting.deadline, deadline)

    def remove(self, handle: Handle) -> None:
        """Remove a handle whose socket is about to be closed. Turns that it still has in a queue are skipped."""
        self.watch(handle, 0)
        handle.ended = True
        self._handles.pop(handle, None)
        self._throttled.pop(handle, None)
        self._due.pop(handle, None)
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

    def _end_throttling(self) -> None:
        """Give a turn to one handle that was throttled long enough."""
        now = trio.current_time()
        throttled, due, queue = self._throttled, self._due, self._round
        while _first(throttled) <= now:
            handle = next(iter(throttled))
            due[handle] = throttled.pop(handle) + self.budget.throttle_seconds
        quiet = not queue and not self.operations.in_flight
        # Only one, even if many are late, so that handles with input meanwhile get their turn in the next round.
        if due and (quiet or _first(due) <= now):
            handle = next(iter(due))
            del due[handle]
            if not handle.ready:
                queue.append(handle)
            handle.ready |= READ | _QUEUED
        if not due and not throttled:
            self.operations.on_none = None

    def close(self) -> None:
        """End every handle, then close the selector. `run` must have ended, and nothing else may be called after."""
        for handle in tuple(self._handles):
            handle.expired()
        self._kernel.notify_closing(self._selector.fileno())
        self._selector.close()


def _first(times: dict[Handle, float]) -> float:
    return next(iter(times.values()), inf)
