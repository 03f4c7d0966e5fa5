"""Serves HTTP/1.1 on accepted connections with Hypercorn, whose per-connection class is undocumented API."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from itertools import islice
from math import inf
from typing import Any, Final

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import ASGIApp

from actorchat.http.body_pace import PACE_STATE, BodyPace
from actorchat.http.request_target import split_target
from actorchat.http.unix_user import UNIX_USER, unix_user
from actorchat.protocol import encode_entity

__all__ = ["HttpServer"]

KEEP_ALIVE_SECONDS: Final = 75.0
"""An idle connection is closed after this time. Many proxies close theirs after 60 seconds. This server waits longer,
because a request that arrives while the server closes the connection is lost.
"""

SEND_SECONDS: Final = 30.0
"""The time limit for sending one part of a response, of at most `_SENT_BYTES`."""

PIPELINED_AT_ONCE: Final = 16
PIPELINED_PER_SECOND: Final = 20.0
"""Limits of pipelined requests, which arrive before the previous response of their connection is sent: the size of a
burst, and the rate after it. A client that waits for each response is never slowed down.
"""

STARTS_PER_PASS: Final = 4
"""Requests of all connections that start in one scheduler pass, so that hundreds of requests at once don't delay the
websockets.
"""

BODY_GRACE: Final = 0.5
"""Seconds that a draining server waits for the bodies of open requests."""

LINGER_SECONDS: Final = 2.0
"""How long a peer that is still sending its request has to read the response and to close the connection."""

STALLED_SECONDS: Final = 1.0
"""A connection whose peer stalls its request for this long may be closed to make room for a new connection."""

_CANDIDATES: Final = 16
"""Connections that `close_idle` looks at, so that its cost does not grow with their number."""
_DISCARDED_BYTES: Final = 1_048_576
_RECEIVED_BYTES: Final = 16_384
"""The size of one read, and thereby the limit for buffered pipelined requests."""
_BODY_BYTES: Final = 65_536
"""The size of one read while a large body arrives. Each read has a fixed cost."""

_SENT_BYTES: Final = 65_536
_SENT_BYTES_TLS: Final = 8_192
"""Smaller than `_SENT_BYTES`, because TLS keeps an encrypted copy of what the peer has not received yet."""

_HEAD_TOO_LARGE: Final = 431


class HttpServer:
    """Serves HTTP on connections that a listener has accepted. Each listener has its own."""

    def __init__(self, app: ASGIApp, *, keep_alive: float = KEEP_ALIVE_SECONDS) -> None:
        """`keep_alive` is how many seconds a connection without a request stays open."""
        self._app = ASGIWrapper(app)  # type: ignore[arg-type] # two spellings of the same ASGI types
        self._config = _make_config(keep_alive)
        self._context = WorkerContext(None)
        self._open: dict[_GuardedStream, _Connection] = {}
        # Connections without and with a request, each in the order in which they entered that state.
        self._idle: dict[_Connection, None] = {}
        self._busy: dict[_Connection, None] = {}
        self._starting = trio.Semaphore(STARTS_PER_PASS)
        self._none_open = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> bytes | None:
        """Serve HTTP/1.1 requests with keep-alive until the connection is closed; then return None.

        If a request asks for a websocket upgrade, return it, with all bytes read after it, once the requests before it
        are answered. The connection stays open and belongs to the caller again.

        `stream` has an attribute `socket` like `trio.SocketStream`, or is a TLS stream after its handshake.
        """
        guarded = _GuardedStream(stream)
        state: dict[str, object] = {PACE_STATE: guarded.pace}
        # TLS streams have no such attribute.
        sock = getattr(stream, "socket", None)
        if sock is not None and sock.family == getattr(socket, "AF_UNIX", None):
            state[UNIX_USER] = unix_user(sock)
        connection = _Connection(self._app, self._config, self._context, state, guarded)  # type: ignore[arg-type] # duck-typed
        connection.starting = self._starting
        connection.idle, connection.busy = self._idle, self._busy
        connection.scope = trio.CancelScope()
        self._open[guarded] = connection
        try:
            try:
                with connection.scope:
                    await connection.run()
            finally:
                del self._open[guarded]
                self._idle.pop(connection, None)
                self._busy.pop(connection, None)
                if not self._open:
                    self._none_open.set()
            await connection.linger()
        finally:
            if connection.upgrade is None:
                # Hypercorn does not close the connection when it is cancelled. This does not wait for the peer.
                await trio.aclose_forcefully(stream)
        return connection.upgrade

    async def drain(self) -> None:
        """Close idle connections now and the others after their response; return when all are closed.

        A request whose body does not arrive within `BODY_GRACE` is answered without it.
        """
        await self._context.terminated.set()
        while self._open:
            self._none_open = trio.Event()
            with trio.move_on_after(BODY_GRACE):
                await self._none_open.wait()
            for connection in tuple(self._open.values()):
                await connection.give_up_body()

    def abort(self) -> None:
        """Close all connections at once, also those in the middle of a request."""
        for connection in self._open.values():
            connection.abort()

    def close_idle(self) -> bool:
        """Close the connection that has been idle for longest, or else one whose peer has stalled its request.

        A peer stalls if it has sent no body, or received nothing of a response, for `STALLED_SECONDS`. Returns False if
        there is no such connection. The connection ends when the scheduler runs its task.
        """
        for connection in self._idle:
            del self._idle[connection]
            connection.close()
            return True
        for connection in islice(self._busy, _CANDIDATES):
            if connection.is_stalled:
                del self._busy[connection]
                connection.abort()
                return True
        return False

    def __len__(self) -> int:
        return len(self._open)


def _make_config(keep_alive: float) -> Config:
    config = Config()
    # Hypercorn's loggers would bypass the configured logging. The application logs errors itself.
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = keep_alive
    # With a limit, a request whose body is no longer read would never end. The queue stays short without one: the
    # application reads the body immediately or answers immediately, and after the response nothing is queued.
    config.max_app_queue_size = sys.maxsize
    return config


class _GuardedStream:
    """Wraps a stream for Hypercorn: limits the size of reads and the duration of sends.

    `broken` is true once the peer receives no more. `sending_since` is when the current send began, None between sends.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.broken = False
        self.pace = BodyPace()
        self._stream = stream
        self._send_size = _SENT_BYTES_TLS if hasattr(stream, "transport_stream") else _SENT_BYTES
        self.sending_since: float | None = None
        self._sending: trio.CancelScope | None = None
        self._aborted = False

    def __getattr__(self, name: str) -> Any:  # Any: Hypercorn tells TLS from TCP by the attributes there are
        return getattr(self._stream, name)

    async def receive_some(self, max_bytes: int) -> bytes:
        await self.pace.wait()
        size = _BODY_BYTES if self.pace.active else _RECEIVED_BYTES
        data = bytes(await self._stream.receive_some(min(max_bytes, size)))
        self.pace.received(len(data))
        return data

    async def send_all(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), self._send_size):
                await self._send(memoryview(data)[start : start + self._send_size])
        except trio.BrokenResourceError:
            self.broken = True
            raise

    async def _send(self, part: memoryview) -> None:
        self.sending_since = trio.current_time()
        deadline = self.sending_since + (-inf if self._aborted else SEND_SECONDS)
        with trio.CancelScope(deadline=deadline) as self._sending:
            await self._stream.send_all(part)
        self.sending_since = None
        if self._sending.cancelled_caught:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the peer does not read the response")

    def abort(self) -> None:
        self._aborted = True
        if self._sending is not None:
            self._sending.cancel()


class _UpgradeRequested(Exception):  # noqa: N818 - describes the request
    """Stops Hypercorn at a request for a websocket upgrade."""

    def __init__(self, request: h11.Request) -> None:
        super().__init__()
        self.request = request


class _BadRequest(Exception):  # noqa: N818 - describes the request
    """A well-formed request that must not be served. It is answered with 400, and the connection is closed."""


class _Parser(h11.Connection):
    """An h11 parser that ignores empty lines before a request (RFC 9112, section 2.2)."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.IDLE:
            buffered, _ = self.trailing_data
            empty = len(buffered) - len(buffered.lstrip(b"\r\n"))
            if empty:
                self._receive_buffer.maybe_extract_at_most(empty)
        return super().next_event()


class _Requests(H11Protocol):
    """Hypercorn's HTTP/1.1 without the upgrade to h2c, which attackers use to bypass the checks of a proxy."""

    connection: h11.Connection

    def __init__(self, wrapper: ProtocolWrapper, starting: trio.Semaphore) -> None:
        super().__init__(
            wrapper.app,
            wrapper.config,
            wrapper.context,
            wrapper.task_group,
            wrapper.state,
            wrapper.ssl,
            wrapper.client,
            wrapper.server,
            wrapper.send,
        )
        self.connection = _Parser(h11.SERVER, max_incomplete_event_size=wrapper.config.h11_max_incomplete_size)
        self._starting = starting
        self._pipelined = False
        # When the latest pipelined request is due at the permitted rate.
        self._due = -inf

    @property
    def is_body_unread(self) -> bool:
        """Whether a part of the request has not been read yet, or the parser has lost the end of the request."""
        return self.connection.their_state in (h11.SEND_BODY, h11.ERROR)

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and (self.is_body_unread or self.context.terminated.is_set()):
            # The connection is closed after this response. The header tells the peer not to send another request.
            headers = [(name, value) for name, value in event.headers if name != b"connection"]
            event = Response(event.stream_id, [*headers, (b"connection", b"close")], event.status_code)
        await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Check a request's head. Hypercorn calls this after the previous response is sent."""
        names = {name for name, _ in event.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            # Request smuggling: a proxy that uses the other header sees other request boundaries than this server.
            raise _BadRequest("a request must not have both Content-Length and Transfer-Encoding")
        upgrades = b",".join(value for name, value in event.headers if name == b"upgrade").lower().split(b",")
        if b"websocket" in map(bytes.strip, upgrades):
            raise _UpgradeRequested(event)
        await self._wait_for_turn()

    async def _wait_for_turn(self) -> None:
        if self._pipelined:
            self._due = max(self._due, trio.current_time()) + 1 / PIPELINED_PER_SECOND
            await trio.sleep_until(self._due - PIPELINED_AT_ONCE / PIPELINED_PER_SECOND)
        async with self._starting:
            await trio.lowlevel.checkpoint()

    async def _maybe_recycle(self) -> None:
        """Hypercorn calls this when a response is sent."""
        self._pipelined = bool(self.connection.trailing_data[0])
        await super()._maybe_recycle()

    async def _create_stream(self, request: h11.Request) -> None:
        host, target = split_target(request.target.decode("ascii"))
        if host is not None:
            headers = [(name, value) for name, value in request.headers if name != b"host"]
            request = h11.Request(
                method=request.method,
                target=target,
                headers=[(b"host", host.encode("ascii")), *headers],
                http_version=request.http_version,
            )
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        """Answer bytes that are not a valid request."""
        too_large = status_code == _HEAD_TOO_LARGE
        await self.refuse(status_code, "the request's head is too large" if too_large else "this is not HTTP/1.1")

    async def refuse(self, status: int, detail: str) -> None:
        """Answer with an error. The caller closes the connection."""
        body = encode_entity({"error": {"code": "bad_request", "detail": detail, "path": ""}})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            await self._send_h11_event(event)


class _Connection(TCPServer):
    """Hypercorn's connection, limited to HTTP/1.1.

    It is in `busy` while it serves a request, and in `idle` between requests. `upgrade` is the websocket upgrade
    request that ended it, with all bytes read after it, else None.
    """

    scope: trio.CancelScope
    idle: dict[_Connection, None]
    busy: dict[_Connection, None]
    _busy_since = -inf
    starting: trio.Semaphore
    stream: _GuardedStream  # type: ignore[assignment] # duck-typed
    upgrade: bytes | None = None
    _wrapper: ProtocolWrapper | None = None
    _requests: _Requests
    _gave_up_body = False
    _lingers = False

    @property
    def protocol(self) -> ProtocolWrapper:
        assert self._wrapper is not None  # noqa: S101 - Hypercorn sets it before it reads it
        return self._wrapper

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        self._requests = wrapper.protocol = _Requests(wrapper, self.starting)
        self._wrapper = wrapper
        self._reading = trio.CancelScope()

    async def give_up_body(self) -> None:
        """End a request whose body is incomplete: the application sees a disconnect, and its response ends this."""
        if self._wrapper is not None and self._requests.connection.their_state is h11.SEND_BODY:
            self._gave_up_body = True
            await self._requests.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Closed):
            await self.protocol.handle(Closed())
            # The reading task may still wait for bytes. Cancelling it closes the connection.
            self._reading.cancel()
        elif self.stream.broken:
            # The peer can't receive the responses to its other requests.
            self._reading.cancel()
        else:
            if isinstance(event, Updated):
                old, new = (self.busy, self.idle) if event.idle else (self.idle, self.busy)
                old.pop(self, None)
                new[self] = None
                self._busy_since = trio.current_time()
            # Starlette cancels a streamed response at its last part. Then the keep-alive timer would not start.
            with trio.CancelScope(shield=isinstance(event, Updated)):
                await super().protocol_send(event)

    @property
    def is_stalled(self) -> bool:
        """Whether the peer stalls its request: it does not send the rest of the body, or does not read the response."""
        now, sending_since = trio.current_time(), self.stream.sending_since
        if sending_since is not None:
            return now - sending_since >= STALLED_SECONDS
        return self._requests.connection.their_state is h11.SEND_BODY and now - self._busy_since >= STALLED_SECONDS

    def close(self) -> None:
        """Close the connection if it serves no request."""
        self._reading.cancel()

    def abort(self) -> None:
        """Close the connection at once, also in the middle of a request."""
        self.scope.cancel()
        # Hypercorn shields its sends from cancellation.
        self.stream.abort()

    async def _read_data(self) -> None:
        with self._reading:
            try:
                await super()._read_data()
            except _UpgradeRequested as upgrade:
                self.upgrade = _request_bytes(upgrade.request) + self._requests.connection.trailing_data[0]
            except _BadRequest as error:
                await self._requests.refuse(400, str(error))
        # Otherwise this connection would stay open until the keep-alive timer expires, though its peer is gone.
        await self.idle_task.stop()

    async def _close(self) -> None:
        if self.upgrade is not None:
            return
        self._lingers = self._wrapper is not None and self._requests.is_body_unread and not self._gave_up_body
        if not self._lingers:
            await super()._close()

    async def linger(self) -> None:
        """Read and discard the rest of the request for at most `LINGER_SECONDS`, if the response came before its end.

        Closing a socket with unread bytes resets the connection, and the peer may then lose the response.
        """
        if not self._lingers:
            return
        discarded = 0
        with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if hasattr(self.stream, "send_eof"):  # TLS can't close one direction alone
                await self.stream.send_eof()
            while discarded < _DISCARDED_BYTES and (data := await self.stream.receive_some(_RECEIVED_BYTES)):
                discarded += len(data)


def _request_bytes(request: h11.Request) -> bytes:
    lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)]
    lines += [b"%s: %s" % (name, value) for name, value in request.headers]
    return b"\r\n".join([*lines, b"", b""])
