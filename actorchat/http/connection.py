"""Owns HTTP connections: Hypercorn's per-connection class, which is not documented API, is used here only.

Refuses to know routes, and how connections are accepted.
"""

from __future__ import annotations

import sys
from math import inf
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import ASGIApp

__all__ = ["HttpServer"]

IDLE_SECONDS: Final = 60.0
"""A kept-alive connection without a request for this long is closed."""

SEND_SECONDS: Final = 30.0
"""A peer that doesn't take one piece of an answer for this long is cut off."""


class HttpServer:
    """Serves the requests of connections that somebody else accepted. One for each listener."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = ASGIWrapper(app)  # type: ignore[arg-type] # two spellings of the same ASGI types
        self._config = _make_config()
        self._context = WorkerContext(None)
        self._open: set[_GuardedStream] = set()
        self._none_open = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer every request that comes, HTTP/1.1 with keep-alive; return when the connection is closed.

        `stream` has the `socket` of a `trio.SocketStream`, or is like a `trio.SSLStream` after its handshake.
        """
        guarded = _GuardedStream(stream)
        self._open.add(guarded)
        try:
            await _Connection(self._app, self._config, self._context, {}, guarded).run()  # type: ignore[arg-type] # duck-typed
        finally:
            # Hypercorn's own closing is skipped when it is cancelled. This doesn't wait for the peer.
            await trio.aclose_forcefully(stream)
            self._open.discard(guarded)
            if not self._open:
                self._none_open.set()

    async def drain(self) -> None:
        """Close idle connections now, each other one after its answer; return when all are closed."""
        await self._context.terminated.set()
        while self._open:
            self._none_open = trio.Event()
            await self._none_open.wait()

    def abort(self) -> None:
        """Cut off answers that are being sent: nothing else would, they are shielded from cancellation."""
        for guarded in self._open:
            guarded.abort()

    def __len__(self) -> int:
        return len(self._open)


def _make_config() -> Config:
    config = Config()
    # Its loggers would write past the program's own; the application logs what fails.
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = IDLE_SECONDS
    # With a bound a request whose body nobody reads any more would never end. What is read is bounded by the
    # application, which reads at once or answers at once; after the answer nothing is queued.
    config.max_app_queue_size = sys.maxsize
    return config


class _GuardedStream:
    """The stream as Hypercorn sees it: the same, but for sends that end within `SEND_SECONDS`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._sending: trio.CancelScope | None = None
        self._aborted = False

    def __getattr__(self, name: str) -> Any:  # Any: Hypercorn tells TLS from TCP by the attributes there are
        return getattr(self._stream, name)

    async def send_all(self, data: bytes) -> None:
        deadline = trio.current_time() + (-inf if self._aborted else SEND_SECONDS)
        with trio.CancelScope(deadline=deadline) as self._sending:
            await self._stream.send_all(data)
        if self._sending.cancelled_caught:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the peer doesn't take the answer")

    def abort(self) -> None:
        self._aborted = True
        if self._sending is not None:
            self._sending.cancel()


class _Connection(TCPServer):
    """Hypercorn's connection, for HTTP/1.1 only: upgraded to h2c, requests get past proxies."""

    _wrapper: ProtocolWrapper

    @property
    def protocol(self) -> ProtocolWrapper:
        return self._wrapper

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        assert isinstance(wrapper.protocol, H11Protocol)  # noqa: S101 - no other protocol is offered
        wrapper.protocol._check_protocol = _stay_with_http1  # type: ignore[method-assign] # there is no setting
        self._wrapper = wrapper

    async def _read_data(self) -> None:
        await super()._read_data()
        # The timer for idle peers would hold the connection of one that is gone until it runs out.
        await self.idle_task.stop()


async def _stay_with_http1(event: object) -> None:
    """Takes the place of the look for an `Upgrade: h2c`."""
