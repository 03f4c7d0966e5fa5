"""Owns the life of a connection over many sockets: its state, when to come back, when to give up.

Refuses to know what is said on a socket.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

import trio

from actorchat.client.backoff import Backoff
from actorchat.client.disconnect import Ending, Rejected, Reopened, explain, final_error
from actorchat.client.errors import ConnectionEnded

STEADY_SECONDS: Final = 5.0
"""A socket that lived this long makes the next failure the first again."""


class ConnectionState(StrEnum):
    """Where a connection stands."""

    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"
    CLOSED = "closed"


class Reconnector:
    """Opens one socket after another until a final end.

    Owned by one connection; it runs in the task that calls `run`.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._state = ConnectionState.CONNECTING
        self._changed = trio.Event()
        self._live_since: float | None = None
        self._reason = ""
        self._error: ConnectionEnded | None = None

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands now."""
        return self._state

    @property
    def reason(self) -> str:
        """Why there is no socket, for people; ``""`` while live."""
        return self._reason

    @property
    def error(self) -> ConnectionEnded | None:
        """What the server ended the connection with, None while it has not."""
        return self._error

    async def wait_change(self, seen: ConnectionState) -> ConnectionState:
        """Wait until the state is another than ``seen``, and return it; short states may be missed."""
        while self._state is seen:
            await self._changed.wait()
        return self._state

    async def wait_live(self) -> None:
        """Wait for a live socket; raises the connection's error, or ClosedResourceError once closed."""
        while self._state is not ConnectionState.LIVE:
            self.check_open()
            await self._changed.wait()

    def check_open(self) -> None:
        """Raise the connection's error, or ClosedResourceError, if it is over."""
        if self._error is not None:
            raise self._error
        if self._state is ConnectionState.CLOSED:
            raise trio.ClosedResourceError("this connection was closed; open another")

    def live(self) -> None:
        """The socket is open."""
        self._live_since = trio.current_time()
        self._become(ConnectionState.LIVE, "")

    def closed(self) -> None:
        """Nothing comes any more."""
        self._become(ConnectionState.CLOSED, self._reason)

    async def run(self, attempt: Callable[[], Awaitable[Ending]], lost: Callable[[Ending], Awaitable[bool]]) -> None:
        """Attempt again and again; returns after a final end with `error` set.

        ``lost`` hears of every end, and says whether the frame that caused it was found and dropped.
        """
        while True:
            self._become(ConnectionState.CONNECTING, self._reason)
            self._live_since = None
            ending = await attempt()
            blamed = await lost(ending)
            self._error = final_error(ending, blamed=blamed)
            self._reason = explain(ending) if self._error is None else self._error.detail
            if self._error is not None:
                return
            if isinstance(ending, Reopened):
                continue
            if self._was_steady():
                self._backoff.reset()
            self._become(ConnectionState.WAITING, self._reason)
            await trio.sleep(self._backoff.next_delay(ending.retry_after if isinstance(ending, Rejected) else None))

    def _was_steady(self) -> bool:
        return self._live_since is not None and trio.current_time() - self._live_since >= STEADY_SECONDS

    def _become(self, state: ConnectionState, reason: str) -> None:
        self._reason = reason
        if state is not self._state:
            self._state = state
            self._changed.set()
            self._changed = trio.Event()


@asynccontextmanager
async def run_beside(run: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run a task for the length of the block; what the block alone raises comes out unwrapped."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__
