"""Accepts connections, reads their request heads, and passes them to the HTTP server or the websocket transport."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from http import HTTPStatus
from math import inf
from typing import Any, Final, Protocol

import attrs
import orjson
import trio

from actorchat.protocol import close_frame, select_subprotocol
from actorchat.transports.byte_stream import ByteStream, SocketByteStream, TrioByteStream
from actorchat.transports.http_stream import HttpStream, TlsHttpStream
from actorchat.transports.kernel import KERNEL, Kernel
from actorchat.transports.ports import Admission
from actorchat.transports.request_head import BadHead, HeadReader, RequestHead, Upgrade, read_head
from actorchat.transports.throttled_log import ThrottledLog
from actorchat.transports.unfinished_requests import UnfinishedRequests
from actorchat.transports.unix_socket import UNIX_PEER
from actorchat.transports.websocket_accept import accept

__all__ = ["AuthorizeUpgrade", "Deciding", "HttpSide", "Listener", "Rejection", "UpgradeSide", "bind"]

_logger: Final = logging.getLogger(__name__)
_BACKLOG: Final = 1_024
_ACCEPTS_PER_CHECKPOINT: Final = 16
_HEAD_BYTES: Final = 4_096
_DEFER_SECONDS: Final = 1
_EXHAUSTED_PAUSE: Final = 0.1
"""Seconds before the next attempt, after no file descriptor was left for a connection."""
_UNSENT_BYTES: Final = 131_072
"""TCP_NOTSENT_LOWAT: how much unsent data the kernel buffers for a slow peer. The default allows megabytes."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CLOSED: Final = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EINVAL})
_HANDSHAKE_SECONDS: Final = 10.0
_REPLY_SECONDS: Final = 2.0
_HEAD_GRACE: Final = 0.25
"""Seconds that every connection has for sending its head before it may be closed for a new one."""
_MIN_ACCEPTS_PER_SECOND: Final = 4_096
"""The rate at which connections are accepted even if no peer sends anything. Shortens `_HEAD_GRACE` if necessary."""
_CANDIDATES: Final = 16
"""Connections that `_evict` looks at, so that its cost does not grow with their number."""
_DISCARDED_BYTES: Final = 65_536
_ADVICE: Final = "raise the limit for open files: `ulimit -n`, LimitNOFILE= of systemd, --ulimit nofile= of docker"


@attrs.frozen(kw_only=True)
class Rejection:
    """Refuses an upgrade with an HTTP response, or with `close_code` by accepting it and closing the socket at once."""

    status: int
    body: bytes = b""
    close_code: int | None = None
    reason: str = ""


class Deciding(Protocol):
    """A decision about an upgrade that has to wait, such as a coroutine. It limits its own time."""

    def __await__(self) -> Generator[Any, Any, Admission | Rejection]: ...  # Any: what a coroutine yields and receives

    def close(self) -> None:
        """Give up the decision, which was not awaited."""


AuthorizeUpgrade = Callable[[RequestHead, str], Admission | Rejection | Deciding]
"""Decides on an upgrade by its head and the client's address."""

HttpSide = Callable[[HttpStream | TlsHttpStream, RequestHead], Awaitable[bytes | None]]
"""Serves HTTP on a connection. The stream yields the head again. The connection is closed when this returns None.

Otherwise it returns a websocket upgrade request with all bytes read after it; earlier requests are answered.
"""

_NextStep = Awaitable["_NextStep | None"]
"""A step of serving a connection. Its result is the next step, None if the connection has ended."""


class UpgradeSide(Protocol):
    """The transport that serves the websockets."""

    nursery: trio.Nursery

    @property
    def untasked(self) -> int:
        """The number of open websockets whose `serve` has returned."""

    def serve(self, byte_stream: ByteStream, upgrade: Upgrade, admission: Admission, /) -> Awaitable[None] | None:
        """Open a websocket on `byte_stream`. Returns None if it needs no task, else an awaitable that serves it."""


async def bind(host: str, port: int, *, shared: bool = False) -> tuple[socket.socket, ...]:
    """Bind the same port on every address of `host`; port 0 = any free port. Raises OSError.

    Clients can't connect before a `Listener` serves the sockets. With `shared`, a port may be bound several times by
    this user, and the kernel spreads connections over the sockets that listen.
    """
    found = await trio.socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
    )
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            bound.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(bound) > 1:
                port = bound[0].getsockname()[1]
            sock.bind((address[0], port, *address[2:]))
            if hasattr(socket, "TCP_DEFER_ACCEPT"):
                # Clients send first. A connection that is accepted with its first bytes usually needs no task.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_SECONDS)
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return tuple(bound)


@attrs.define(slots=True, eq=False)
class _Connection:
    """An accepted connection. Cancelling `waiting` stops waiting for its request head and closes it.

    `since` is when the wait began. `http` returns the stream for the HTTP server. `handshake` performs the TLS
    handshake, None without TLS.
    """

    byte_stream: ByteStream
    socket: socket.socket
    http: Callable[[bytes], HttpStream | TlsHttpStream]
    handshake: Callable[[], Awaitable[None]] | None
    waiting: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    since: float = inf


class Listener:
    """Accepts connections from bound, non-blocking stdlib `sockets`, which it closes itself."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        transport: UpgradeSide,
        authorize: AuthorizeUpgrade,
        http: HttpSide,
        tls: ssl.SSLContext | None = None,
        max_unfinished: int = 1_024,
        max_connections: int | None = None,
        close_idle: Callable[[], bool] = lambda: False,
        kernel: Kernel = KERNEL,
    ) -> None:
        """Limit the connections so that silent peers don't keep others from connecting.

        At most `max_unfinished` connections, or half of `max_connections` if that is less, may have an incomplete
        request head. For one more, the oldest one of the address with the most is closed. At most as many upgrades may
        wait for `authorize`; further ones are answered with 503.

        At most `max_connections` may be open in all, None = any number. For one more, a connection with an incomplete
        head is closed, else `close_idle` closes one. If it returns False, the new connection is answered with 503.
        """
        self._sockets = tuple(sockets)
        self._transport = transport
        self._authorize = authorize
        self._http = http
        self._tls = tls
        self._kernel = kernel
        # Half, so that silent peers can't use up all connections.
        self._max_unfinished = (
            max_unfinished if max_connections is None else max(1, min(max_unfinished, max_connections // 2))
        )
        # Over TLS, a head takes round trips. Otherwise it mostly arrives with the connection.
        self._grace = (
            _HEAD_GRACE if tls is not None else min(_HEAD_GRACE, self._max_unfinished / _MIN_ACCEPTS_PER_SECOND)
        )
        self._max_connections = max_connections
        self._close_idle = close_idle
        self._unfinished_requests = UnfinishedRequests[_Connection]()
        self._tasks = 0
        self._authorizing = 0
        self._accepting = trio.lowlevel.ParkingLot()
        self._log_eviction = ThrottledLog(_logger)
        self._log_authorizing = ThrottledLog(_logger)
        self._log_full = ThrottledLog(_logger)
        self._log_exhausted = ThrottledLog(_logger)

    @property
    def port(self) -> int:
        """The port of the first socket. Raises OSError after `close`, and for a Unix socket."""
        address = self._sockets[0].getsockname()
        if not isinstance(address, tuple):
            raise OSError("a Unix socket has no port")
        return int(address[1])

    @property
    def unfinished(self) -> int:
        """Connections with an incomplete request head."""
        return len(self._unfinished_requests)

    @property
    def connections(self) -> int:
        """Open connections of every kind."""
        return self._tasks + self._transport.untasked

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, and accept connections until `close`; return when all connections have ended.

        A failing connection does not affect others. Raises OSError if a socket can't listen.
        """
        try:
            for sock in self._sockets:
                sock.listen(_BACKLOG)
            async with trio.open_nursery() as nursery:
                for sock in self._sockets:
                    nursery.start_soon(self._accept, sock, nursery)
                task_status.started()
        finally:
            self.close()

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Use `tls` for new connections. Raises RuntimeError if this listener was made without TLS."""
        if self._tls is None:
            raise RuntimeError("this listener was made without TLS")
        self._tls = tls

    def close(self) -> None:
        """Stop accepting. Open connections continue."""
        for sock in self._sockets:
            if sock.fileno() != -1:
                self._kernel.notify_closing(sock)
                sock.close()

    async def _accept(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            try:
                await self._kernel.wait_readable(listening)
                while True:
                    for _ in range(_ACCEPTS_PER_CHECKPOINT):
                        if len(self._unfinished_requests) > self._max_unfinished:
                            await self._wait_for_room()
                        sock, address = listening.accept()
                        self._handle_accepted(sock, _peer(address), nursery)
                    await trio.lowlevel.checkpoint()
            except BlockingIOError:
                continue
            except (trio.ClosedResourceError, ValueError):
                return
            except OSError as error:
                if listening.fileno() == -1 or error.errno in _CLOSED:
                    return
                if error.errno in _EXHAUSTED:
                    self._log_exhausted(
                        "can't accept connections (%s) while %d are open; %s", error, self.connections, _ADVICE
                    )
                    self._make_room()
                    await trio.sleep(_EXHAUSTED_PAUSE)

    async def _wait_for_room(self) -> None:
        """Wait until one more connection may have an incomplete head. Usually another one is closed for it at once."""
        while len(self._unfinished_requests) > self._max_unfinished and not self._evict():
            with trio.move_on_after(self._grace):
                await self._accepting.park()

    def _handle_accepted(self, sock: socket.socket, peer: str, nursery: trio.Nursery) -> None:
        """Serve an accepted connection, in a task only if it has to wait."""
        if self._max_connections is not None and self.connections >= self._max_connections and not self._make_room():
            self._refuse_full(sock)
            return
        try:
            connection = self._open(sock, peer)
        except Exception:  # the peer has reset the connection in the meantime
            _logger.debug("connection of %s was reset before it was served", peer, exc_info=True)
            sock.close()
            return
        try:
            step = self._begin(connection, peer)
        except Exception:
            _logger.exception("connection of %s failed", peer)
            step = connection.byte_stream.reset()
        if step is not None:
            self._tasks += 1
            nursery.start_soon(self._serve_connection, connection, step, peer)

    def _make_room(self) -> bool:
        """Close a connection that has no request in progress. Returns False if there is none.

        The connection ends when the scheduler runs its task.
        """
        return self._evict() or self._close_idle()

    def _evict(self) -> bool:
        """Close a connection whose request head is overdue. Returns False if there is none."""
        unfinished_requests, now = self._unfinished_requests, trio.current_time()
        for _ in range(min(_CANDIDATES, len(unfinished_requests))):
            connection = unfinished_requests.choose()
            if now < connection.since + self._grace:
                return False
            if self._kernel.has_unread(connection.socket):
                # The peer has sent data, and this server has not read it yet.
                unfinished_requests.postpone(connection)
                continue
            self._log_eviction(
                "%d connections from %d addresses have sent no complete request (%s has %d); to accept new ones, the "
                "oldest ones of the address with the most are closed",
                len(unfinished_requests),
                unfinished_requests.addresses,
                *unfinished_requests.most,
            )
            unfinished_requests.discard(connection)
            connection.waiting.cancel()
            return True
        return False

    def _refuse_full(self, sock: socket.socket) -> None:
        """Answer 503 if that is possible without waiting, and close."""
        self._log_full("%d connections are open, which is the limit: new ones get 503; %s", self.connections, _ADVICE)
        with sock, suppress(OSError):
            sock.setblocking(False)
            if self._tls is None:
                # Closing a socket with unread bytes resets the connection, and the peer may lose the answer.
                with suppress(BlockingIOError):
                    sock.recv(_DISCARDED_BYTES)
                sock.send(_FULL)

    def _begin(self, connection: _Connection, peer: str) -> _NextStep | None:
        """Serve a connection as far as possible without waiting. The result serves the rest, None if there is none."""
        byte_stream, reader = connection.byte_stream, HeadReader()
        if isinstance(byte_stream, SocketByteStream):
            try:
                data = byte_stream.socket.recv(_HEAD_BYTES)
                head = reader.feed(data) if data else None
            except OSError:
                # Nothing has arrived yet, or the connection is broken; the next step finds out.
                head = None
            except BadHead as bad:
                return _refuse_head(byte_stream, bad)
            if head is not None:
                return self._decide(connection, peer, head)
        connection.since = trio.current_time()
        self._unfinished_requests.add(connection, peer)
        return self._route(connection, peer, byte_stream.receive, reader)

    async def _serve_connection(self, connection: _Connection, step: _NextStep | None, peer: str) -> None:
        try:
            while step is not None:
                step = await step
        except (trio.BrokenResourceError, OSError) as error:
            _logger.debug("connection of %s broke: %s", peer, error)
        except Exception:
            _logger.exception("connection of %s failed", peer)
        finally:
            self._unfinished_requests.discard(connection)
            self._tasks -= 1
            await connection.byte_stream.reset()

    def _open(self, sock: socket.socket, peer: str) -> _Connection:
        sock.setblocking(False)
        is_tcp = peer != UNIX_PEER
        if is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if is_tcp and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        nursery, kernel = self._transport.nursery, self._kernel
        if self._tls is None:
            byte_stream = SocketByteStream(sock, nursery, kernel)
            return _Connection(byte_stream, sock, lambda replay: HttpStream(kernel.stream(sock), replay), None)
        stream = trio.SSLStream(kernel.stream(sock), self._tls, server_side=True, https_compatible=True)
        return _Connection(
            TrioByteStream(stream, nursery, sock),
            sock,
            lambda replay: TlsHttpStream(stream, replay),
            stream.do_handshake,
        )

    async def _route(
        self, connection: _Connection, peer: str, receive: Callable[[], Awaitable[bytes]], reader: HeadReader
    ) -> _NextStep | None:
        """Read the head. The result serves the connection."""
        head = None
        try:
            with connection.waiting:
                if connection.handshake is not None:
                    # Does nothing if it is already done, for a later request of this connection.
                    with trio.fail_after(_HANDSHAKE_SECONDS):
                        await connection.handshake()
                head = await read_head(receive, reader)
        except BadHead as bad:
            return _refuse_head(connection.byte_stream, bad)
        except trio.TooSlowError:
            return None
        finally:
            self._unfinished_requests.discard(connection)
            self._accepting.unpark_all()
        return None if head is None else self._decide(connection, peer, head)

    def _decide(self, connection: _Connection, peer: str, head: RequestHead) -> _NextStep | None:
        if not head.is_websocket_upgrade:
            return self._serve_http(connection, peer, head)
        try:
            upgrade = head.upgrade(select_subprotocol(head.subprotocols)[0])
        except BadHead as bad:
            return _refuse_head(connection.byte_stream, bad)
        try:
            decision = self._authorize(head, peer)
        except Exception:
            _logger.exception("connection of %s failed", peer)
            return _reply(connection.byte_stream, 500, _FAILED)
        if isinstance(decision, Admission | Rejection):
            return self._apply(decision, connection, upgrade)
        if self._authorizing >= self._max_unfinished:
            decision.close()
            self._log_authorizing(
                "%d websocket upgrades wait for access control, which is the limit: further ones get 503",
                self._authorizing,
            )
            return _reply(connection.byte_stream, 503, _BUSY)
        self._authorizing += 1
        return self._wait_for_decision(decision, connection, upgrade)

    async def _wait_for_decision(
        self, decision: Awaitable[Admission | Rejection], connection: _Connection, upgrade: Upgrade
    ) -> _NextStep | None:
        try:
            decided = await decision
        except Exception:
            await _reply(connection.byte_stream, 500, _FAILED)
            raise
        finally:
            self._authorizing -= 1
        return self._apply(decided, connection, upgrade)

    def _apply(self, decision: Admission | Rejection, connection: _Connection, upgrade: Upgrade) -> _NextStep | None:
        if isinstance(decision, Admission):
            return self._transport.serve(connection.byte_stream, upgrade, decision)
        if decision.close_code is not None:
            return _accept_and_close(connection.byte_stream, upgrade, decision.close_code, decision.reason)
        return _reply(connection.byte_stream, decision.status, decision.body)

    async def _serve_http(self, connection: _Connection, peer: str, head: RequestHead) -> _NextStep | None:
        stream = connection.http(head.raw)
        serving = self._http(stream, head)
        # Frees up to 16 KiB for as long as the connection is open.
        del head
        upgrade: bytes | None = None
        try:
            upgrade = await serving
        finally:
            if upgrade is None:
                await trio.aclose_forcefully(stream)
        if upgrade is None:
            return None
        unread = upgrade + stream.unread

        async def receive() -> bytes:
            nonlocal unread
            if not unread:
                return await connection.byte_stream.receive()
            data, unread = unread, b""
            return data

        connection.waiting = trio.CancelScope()
        return self._route(connection, peer, receive, HeadReader())


def _peer(address: object) -> str:
    # Clients of a Unix socket have no address.
    return str(address[0]) if isinstance(address, tuple) else UNIX_PEER


def _error_body(code: str, detail: str) -> bytes:
    return orjson.dumps({"error": {"code": code, "detail": detail, "path": ""}})


def _refuse_head(byte_stream: ByteStream, bad: BadHead) -> _NextStep:
    return _reply(byte_stream, bad.status, _error_body("bad_request", bad.detail))


async def _reply(byte_stream: ByteStream, status: int, body: bytes) -> None:
    """Answer and close. The answer fits into the send buffer, because it is small and the first data sent."""
    extra = _EXTRA_HEADERS.get(status, b"")
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    ).encode("ascii")
    with trio.move_on_after(_REPLY_SECONDS):
        byte_stream.send(head + extra + b"\r\n" + body)
        await byte_stream.finish(peer_knows=False)


async def _accept_and_close(byte_stream: ByteStream, upgrade: Upgrade, code: int, reason: str) -> None:
    """Accept the upgrade only to close it: a page in a browser can't read the status of a refused handshake."""
    with trio.move_on_after(_REPLY_SECONDS):
        byte_stream.send(accept(upgrade) + close_frame(code, reason))
        await byte_stream.finish(peer_knows=False)


_EXTRA_HEADERS: Final[dict[int, bytes]] = {
    HTTPStatus.UPGRADE_REQUIRED: b"Sec-WebSocket-Version: 13\r\n",
    HTTPStatus.SERVICE_UNAVAILABLE: b"Retry-After: 5\r\n",
}
_FAILED: Final = _error_body("server_failed", "the server failed")
_BUSY: Final = _error_body("overloaded", "too many websocket upgrades are waiting; try again later")
_OVERLOADED: Final = _error_body("overloaded", "too many connections are open; try again later")
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 5\r\nConnection: close\r\n\r\n%s" % (len(_OVERLOADED), _OVERLOADED)
)
