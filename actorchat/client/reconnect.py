"""Reconnects after lost sockets, with backoff, until the server ends the connection for good."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

import trio

from actorchat.client.backoff import Backoff
from actorchat.client.disconnect import Ending, Rejected, Reopened, explain, final_error
from actorchat.client.errors import ConnectionEnded

STABLE_SECONDS: Final = 5.0
"""A socket that was live for this long resets the backoff."""


class ConnectionState(StrEnum):
    """The state of a connection; `WAITING` means waiting to reconnect."""

    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"
    CLOSED = "closed"


class Reconnector:
    """Tracks the state of one connection and opens its sockets one after another."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._state = ConnectionState.CONNECTING
        self._changed = trio.Event()
        self._live_since: float | None = None
        self._reason = ""
        self._error: ConnectionEnded | None = None

    @property
    def state(self) -> ConnectionState:
        """The current state."""
        return self._state

    @property
    def reason(self) -> str:
        """Why there is no socket, for users; ``""`` while live."""
        return self._reason

    @property
    def error(self) -> ConnectionEnded | None:
        """The error with which the server ended the connection, or None."""
        return self._error

    async def wait_state_change(self, seen: ConnectionState) -> ConnectionState:
        """Wait until the state differs from ``seen``, and return it. Brief states may be missed."""
        while self._state is seen:
            await self._changed.wait()
        return self._state

    async def wait_live(self) -> None:
        """Wait until the state is live. Raises the connection's error, or ClosedResourceError once closed."""
        while self._state is not ConnectionState.LIVE:
            self.check_open()
            await self._changed.wait()

    def check_open(self) -> None:
        """Raise the connection's error or ClosedResourceError if the connection has ended."""
        if self._error is not None:
            raise self._error
        if self._state is ConnectionState.CLOSED:
            raise trio.ClosedResourceError("this connection is closed; open a new one")

    def set_live(self) -> None:
        """Set the state to live: the socket is open."""
        self._live_since = trio.current_time()
        self._set_state(ConnectionState.LIVE, "")

    def set_closed(self) -> None:
        """Set the state to closed, for good."""
        self._set_state(ConnectionState.CLOSED, self._reason)

    async def run(
        self, connect_once: Callable[[], Awaitable[Ending]], socket_lost: Callable[[Ending], Awaitable[bool]]
    ) -> None:
        """Call ``connect_once`` again and again. Returns with `error` set once the connection has ended for good.

        ``socket_lost`` is called after every socket; it returns whether the frame that caused the end was dropped.
        """
        while True:
            self._set_state(ConnectionState.CONNECTING, self._reason)
            self._live_since = None
            ending = await connect_once()
            frame_dropped = await socket_lost(ending)
            self._error = final_error(ending, frame_dropped=frame_dropped)
            self._reason = explain(ending) if self._error is None else self._error.detail
            if self._error is not None:
                return
            if isinstance(ending, Reopened):
                continue
            if self._was_stable():
                self._backoff.reset()
            self._set_state(ConnectionState.WAITING, self._reason)
            await trio.sleep(self._backoff.next_delay(ending.retry_after if isinstance(ending, Rejected) else None))

    def _was_stable(self) -> bool:
        return self._live_since is not None and trio.current_time() - self._live_since >= STABLE_SECONDS

    def _set_state(self, state: ConnectionState, reason: str) -> None:
        self._reason = reason
        if state is not self._state:
            self._state = state
            self._changed.set()
            self._changed = trio.Event()


@asynccontextmanager
async def run_in_background(run: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run a task until the block ends. A single exception is raised as it is, not in a group."""
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
