"""Owns HTTP connections: Hypercorn's per-connection class, which is not documented API, is used here only.

Refuses to know routes, and how connections are accepted.
"""

from __future__ import annotations

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

from actorchat.http.request_target import split_target
from actorchat.protocol import encode_entity

__all__ = ["HttpServer"]

KEEP_ALIVE_SECONDS: Final = 75.0
"""A kept-alive connection without a request for this long is closed. Proxies often close theirs after 60: a request
sent while this side closes is lost, so this side waits longer.
"""

SEND_SECONDS: Final = 30.0
"""A peer that doesn't take one piece of an answer, of `_SENT_BYTES` at most, for this long is cut off."""

PIPELINED_AT_ONCE: Final = 16
PIPELINED_PER_SECOND: Final = 20.0
"""Requests of one connection that were there before the answer to the one before: so many at once, then so many a
second. A client that waits for its answers is never slowed down.
"""

BEGUN_AT_ONCE: Final = 4
"""Requests of all connections that begin before every other task has had its turn: websockets have no answers to wait
for, and hundreds of requests at once must not keep them waiting.
"""

BODY_GRACE: Final = 0.5
"""Seconds that a draining server gives a request's body to arrive."""

LINGER_SECONDS: Final = 2.0
"""A peer that is still sending when it is answered gets so long to read the answer and to end."""

STALLED_SECONDS: Final = 1.0
"""A peer that keeps its request waiting for so long may lose its connection to a newcomer, if no more may be open."""

_CANDIDATES: Final = 16
_DISCARDED_BYTES: Final = 1_048_576
_RECEIVED_BYTES: Final = 16_384
"""What is read at a time, and so kept of requests that wait for the answers before them."""

_SENT_BYTES: Final = 65_536
_SENT_BYTES_TLS: Final = 8_192
"""Smaller, because TLS keeps as much again of what the peer has yet to take."""

_HEAD_TOO_LARGE: Final = 431


class HttpServer:
    """Serves the requests of connections that somebody else accepted. One for each listener."""

    def __init__(self, app: ASGIApp, *, keep_alive: float = KEEP_ALIVE_SECONDS) -> None:
        """`keep_alive` is how many seconds a connection without a request stays open."""
        self._app = ASGIWrapper(app)  # type: ignore[arg-type] # two spellings of the same ASGI types
        self._config = _make_config(keep_alive)
        self._context = WorkerContext(None)
        self._open: dict[_GuardedStream, _Connection] = {}
        # Those without a request, and those with one, each in the order in which they came to be so.
        self._idle: dict[_Connection, None] = {}
        self._busy: dict[_Connection, None] = {}
        self._beginning = trio.Semaphore(BEGUN_AT_ONCE)
        self._none_open = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> bytes | None:
        """Answer every request that comes, HTTP/1.1 with keep-alive; return None when the connection is closed.

        If a request comes that asks for a websocket, every one before it is answered, and it is returned with what
        was read behind it: the open connection is the caller's again.

        `stream` has the `socket` of a `trio.SocketStream`, or is like a `trio.SSLStream` after its handshake.
        """
        guarded = _GuardedStream(stream)
        connection = _Connection(self._app, self._config, self._context, {}, guarded)  # type: ignore[arg-type] # duck-typed
        connection.beginning = self._beginning
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
                # Hypercorn's own closing is skipped when it is cancelled. This doesn't wait for the peer.
                await trio.aclose_forcefully(stream)
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
        """Cut off every connection, whatever it waits for."""
        for connection in self._open.values():
            connection.abort()

    def close_idle(self) -> bool:
        """Have a connection closed that waits for its peer: the one that has been without a request for longest, else
        one whose peer has not sent a body or taken an answer for `STALLED_SECONDS`. False: there is none.
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
    """The stream as Hypercorn sees it: the same, but it reads little at a time and ends sends that get stuck.

    `broken`: the peer takes no more. `sending_since` is when the piece was begun that it is taking now.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.broken = False
        self._stream = stream
        self._piece = _SENT_BYTES_TLS if hasattr(stream, "transport_stream") else _SENT_BYTES
        self.sending_since: float | None = None
        self._sending: trio.CancelScope | None = None
        self._aborted = False

    def __getattr__(self, name: str) -> Any:  # Any: Hypercorn tells TLS from TCP by the attributes there are
        return getattr(self._stream, name)

    async def receive_some(self, max_bytes: int) -> bytes:
        return bytes(await self._stream.receive_some(min(max_bytes, _RECEIVED_BYTES)))

    async def send_all(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), self._piece):
                await self._send(memoryview(data)[start : start + self._piece])
        except trio.BrokenResourceError:
            self.broken = True
            raise

    async def _send(self, piece: memoryview) -> None:
        self.sending_since = trio.current_time()
        deadline = self.sending_since + (-inf if self._aborted else SEND_SECONDS)
        with trio.CancelScope(deadline=deadline) as self._sending:
            await self._stream.send_all(piece)
        self.sending_since = None
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


class _BadRequest(Exception):  # noqa: N818 - what came, not a failure
    """A request whose head can be parsed but must not be served: answered with 400, and the connection closed."""


class _Parser(h11.Connection):
    """h11's parser, which ignores empty lines before a request (RFC 9112, 2.2)."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.IDLE:
            buffered, _ = self.trailing_data
            empty = len(buffered) - len(buffered.lstrip(b"\r\n"))
            if empty:
                self._receive_buffer.maybe_extract_at_most(empty)
        return super().next_event()


class _Requests(H11Protocol):
    """Hypercorn's HTTP/1.1, without its upgrade to HTTP/2: upgraded to h2c, requests get past proxies."""

    connection: h11.Connection

    def __init__(self, wrapper: ProtocolWrapper, beginning: trio.Semaphore) -> None:
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
        self._beginning = beginning
        self._pipelined = False
        # When the pipelined requests so far were due at the rate allowed.
        self._pace = -inf

    @property
    def is_body_unread(self) -> bool:
        """Something of the request is still to come, or can't be told from the next one."""
        return self.connection.their_state in (h11.SEND_BODY, h11.ERROR)

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and (self.is_body_unread or self.context.terminated.is_set()):
            # The connection is closed behind this answer: the peer has to know before it sends the next request.
            kept = [(name, value) for name, value in event.headers if name != b"connection"]
            event = Response(event.stream_id, [*kept, (b"connection", b"close")], event.status_code)
        await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Called with a request's head, when the answer before it is sent."""
        names = {name for name, _ in event.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            # A proxy that believes the other one sees other requests than this server.
            raise _BadRequest("a request has Content-Length or Transfer-Encoding, never both")
        asked = b",".join(value for name, value in event.headers if name == b"upgrade").lower().split(b",")
        if b"websocket" in map(bytes.strip, asked):
            raise _UpgradeAsked(event)
        await self._wait_for_turn()

    async def _wait_for_turn(self) -> None:
        if self._pipelined:
            self._pace = max(self._pace, trio.current_time()) + 1 / PIPELINED_PER_SECOND
            await trio.sleep_until(self._pace - PIPELINED_AT_ONCE / PIPELINED_PER_SECOND)
        async with self._beginning:
            await trio.lowlevel.checkpoint()

    async def _maybe_recycle(self) -> None:
        """An answer is sent."""
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
        """Answer what is no request."""
        too_large = status_code == _HEAD_TOO_LARGE
        await self.refuse(status_code, "the request's head is too large" if too_large else "this is not HTTP/1.1")

    async def refuse(self, status: int, detail: str) -> None:
        """Answer a request that is not served; the connection has to be closed behind it."""
        body = encode_entity({"error": {"code": "bad_request", "detail": detail, "path": ""}})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            await self._send_h11_event(event)


class _Connection(TCPServer):
    """Hypercorn's connection, for HTTP/1.1 only.

    `upgrade` is the request for a websocket that it ended with, and what was read behind it. It is in `busy` while it
    has a request, and in `idle` while it has none.
    """

    scope: trio.CancelScope
    idle: dict[_Connection, None]
    busy: dict[_Connection, None]
    _asked_at = -inf
    beginning: trio.Semaphore
    stream: _GuardedStream  # type: ignore[assignment] # duck-typed
    upgrade: bytes | None = None
    _wrapper: ProtocolWrapper | None = None
    _requests: _Requests
    _gave_up = False
    _lingers = False

    @property
    def protocol(self) -> ProtocolWrapper:
        assert self._wrapper is not None  # noqa: S101 - Hypercorn sets it before it asks
        return self._wrapper

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        self._requests = wrapper.protocol = _Requests(wrapper, self.beginning)
        self._wrapper = wrapper
        self._reading = trio.CancelScope()

    async def give_up_body(self) -> None:
        """If a request's body is still coming, tell the application that it won't; what it answers closes this."""
        if self._wrapper is not None and self._requests.connection.their_state is h11.SEND_BODY:
            self._gave_up = True
            await self._requests.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Closed):
            await self.protocol.handle(Closed())
            # It may be waiting for bytes, or for an answer that has been sent. Behind it the connection is closed.
            self._reading.cancel()
        elif self.stream.broken:
            # What it has asked for beyond this is not worth an answer, and an idle peer is not waited for.
            self._reading.cancel()
        else:
            if isinstance(event, Updated):
                before, after = (self.busy, self.idle) if event.idle else (self.idle, self.busy)
                before.pop(self, None)
                after[self] = None
                self._asked_at = trio.current_time()
            await super().protocol_send(event)

    @property
    def is_stalled(self) -> bool:
        """Its peer keeps a request waiting: the rest of the body doesn't come, or the answer isn't taken."""
        now, sending_since = trio.current_time(), self.stream.sending_since
        if sending_since is not None:
            return now - sending_since >= STALLED_SECONDS
        return self._requests.connection.their_state is h11.SEND_BODY and now - self._asked_at >= STALLED_SECONDS

    def close(self) -> None:
        """End the connection now, if it has no request."""
        self._reading.cancel()

    def abort(self) -> None:
        """Cut off the connection, whatever it waits for."""
        self.scope.cancel()
        # Shielded from cancellation.
        self.stream.abort()

    async def _read_data(self) -> None:
        with self._reading:
            try:
                await super()._read_data()
            except _UpgradeAsked as asked:
                self.upgrade = _request_bytes(asked.request) + self._requests.connection.trailing_data[0]
            except _BadRequest as bad:
                await self._requests.refuse(400, str(bad))
        # The timer for idle peers would hold the connection of one that is gone until it runs out.
        await self.idle_task.stop()

    async def _close(self) -> None:
        if self.upgrade is not None:
            return
        self._lingers = self._wrapper is not None and self._requests.is_body_unread and not self._gave_up
        if not self._lingers:
            await super()._close()

    async def linger(self) -> None:
        """Read and drop what the peer still sends, if anything: closed over that, it would lose the answer to a reset.

        Takes no more than `LINGER_SECONDS`.
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
