"""Owns HTTP connections: Hypercorn's per-connection class, which is not documented API, is used here only.

Refuses to know routes, and how connections are accepted.
"""

from __future__ import annotations

import sys
from math import inf
from typing import Any, Final

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import ASGIApp

from actorchat.protocol import encode_entity

__all__ = ["HttpServer"]

KEEP_ALIVE_SECONDS: Final = 75.0
"""A kept-alive connection without a request for this long is closed. Proxies often close theirs after 60: a request
sent while this side closes is lost, so this side waits longer.
"""

SEND_SECONDS: Final = 30.0
"""A peer that doesn't take one piece of an answer for this long is cut off."""

BODY_GRACE: Final = 0.5
"""Seconds that a draining server gives a request's body to arrive."""

_HEAD_TOO_LARGE: Final = 431


class HttpServer:
    """Serves the requests of connections that somebody else accepted. One for each listener."""

    def __init__(self, app: ASGIApp, *, keep_alive: float = KEEP_ALIVE_SECONDS) -> None:
        """`keep_alive` is how many seconds a connection without a request stays open."""
        self._app = ASGIWrapper(app)  # type: ignore[arg-type] # two spellings of the same ASGI types
        self._config = _make_config(keep_alive)
        self._context = WorkerContext(None)
        self._open: dict[_GuardedStream, _Connection] = {}
        self._none_open = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> bytes | None:
        """Answer every request that comes, HTTP/1.1 with keep-alive; return None when the connection is closed.

        If a request comes that asks for a websocket, every one before it is answered, and it is returned with what
        was read behind it: the open connection is the caller's again.

        `stream` has the `socket` of a `trio.SocketStream`, or is like a `trio.SSLStream` after its handshake.
        """
        guarded = _GuardedStream(stream)
        connection = _Connection(self._app, self._config, self._context, {}, guarded)  # type: ignore[arg-type] # duck-typed
        self._open[guarded] = connection
        try:
            await connection.run()
        finally:
            if connection.upgrade is None:
                # Hypercorn's own closing is skipped when it is cancelled. This doesn't wait for the peer.
                await trio.aclose_forcefully(stream)
            del self._open[guarded]
            if not self._open:
                self._none_open.set()
        return connection.upgrade

    async def drain(self) -> None:
        """Close idle connections now, each other one after its answer; return when all are closed.

        A request whose body does not come within `BODY_GRACE` is answered without it.
        """
        await self._context.terminated.set()
        while self._open:
            self._none_open = trio.Event()
            with trio.move_on_after(BODY_GRACE):
                await self._none_open.wait()
            for connection in tuple(self._open.values()):
                await connection.give_up_body()

    def abort(self) -> None:
        """Cut off answers that are being sent: nothing else would, they are shielded from cancellation."""
        for guarded in self._open:
            guarded.abort()

    def __len__(self) -> int:
        return len(self._open)


def _make_config(keep_alive: float) -> Config:
    config = Config()
    # Its loggers would write past the program's own; the application logs what fails.
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = keep_alive
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


class _UpgradeAsked(Exception):  # noqa: N818 - what came, not a failure
    """Ends the reading within a request's head."""

    def __init__(self, request: h11.Request) -> None:
        super().__init__()
        self.request = request


class _Connection(TCPServer):
    """Hypercorn's connection, for HTTP/1.1 only: upgraded to h2c, requests get past proxies.

    `upgrade` is the request for a websocket that it ended with, and what was read behind it.
    """

    upgrade: bytes | None = None
    _wrapper: ProtocolWrapper | None = None

    @property
    def protocol(self) -> ProtocolWrapper:
        assert self._wrapper is not None  # noqa: S101 - Hypercorn sets it before it asks
        return self._wrapper

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        assert isinstance(wrapper.protocol, H11Protocol)  # noqa: S101 - no other protocol is offered
        wrapper.protocol._check_protocol = _look_for_upgrade  # type: ignore[method-assign, assignment] # no setting
        wrapper.protocol._send_error_response = self._refuse  # type: ignore[method-assign, assignment] # no setting
        self._wrapper = wrapper

    @property
    def _h11(self) -> H11Protocol:
        protocol = self.protocol.protocol
        assert isinstance(protocol, H11Protocol)  # noqa: S101 - seen above
        return protocol

    async def give_up_body(self) -> None:
        """If a request's body is still coming, tell the application that it won't; what it answers closes this."""
        if self._wrapper is not None and self._h11.connection.their_state is h11.SEND_BODY:
            await self._h11.handle(Closed())

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        except _UpgradeAsked as asked:
            self.upgrade = _request_bytes(asked.request) + self._h11.connection.trailing_data[0]
        # The timer for idle peers would hold the connection of one that is gone until it runs out.
        await self.idle_task.stop()

    async def _close(self) -> None:
        if self.upgrade is None:
            await super()._close()

    async def _refuse(self, status: int) -> None:
        """The answer to what is no request."""
        detail = "the request's head is too large" if status == _HEAD_TOO_LARGE else "this is not HTTP/1.1"
        body = encode_entity({"error": {"code": "bad_request", "detail": detail, "path": ""}})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            await self._h11._send_h11_event(event)


async def _look_for_upgrade(request: h11.Request) -> None:
    """Takes the place of the look for an `Upgrade: h2c`. Called with a head, when the answer before it is sent."""
    asked = b",".join(value for name, value in request.headers if name == b"upgrade").lower().split(b",")
    if b"websocket" in map(bytes.strip, asked):
        raise _UpgradeAsked(request)


def _request_bytes(request: h11.Request) -> bytes:
    lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)]
    lines += [b"%s: %s" % (name, value) for name, value in request.headers]
    return b"\r\n".join([*lines, b"", b""])
