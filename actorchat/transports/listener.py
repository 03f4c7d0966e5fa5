"""Owns the port: accepts connections, reads each one's first head, and hands it to websockets or to HTTP.

Refuses to know routes and tokens: the door decides on upgrades, the HTTP side on all else.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from math import inf
from typing import Final, Protocol

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
from actorchat.transports.websocket_accept import accept

__all__ = ["AuthorizeUpgrade", "HttpSide", "Listener", "Rejection", "UpgradeSide", "bind"]

_logger: Final = logging.getLogger(__name__)
_BACKLOG: Final = 1_024
_ACCEPTED_A_TURN: Final = 16
_HEAD_BYTES: Final = 4_096
_DEFER_SECONDS: Final = 1
_PAUSE: Final = 0.1
# What the kernel may hold of one slow peer beyond what is in flight, instead of megabytes.
_UNSENT_BYTES: Final = 131_072
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CLOSED: Final = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EINVAL})
_HANDSHAKE_SECONDS: Final = 10.0
_REPLY_SECONDS: Final = 2.0
_HEAD_GRACE: Final = 0.25
"""Seconds that a connection has for its head, however many others wait."""
_NEWCOMERS_A_SECOND: Final = 4_096
"""So many are accepted even if all of them are silent: where few may be opening, each has less time."""
_CANDIDATES: Final = 16
_TURNED_AWAY_BYTES: Final = 65_536
_RAISE_IT: Final = "raise the limit for open files: `ulimit -n`, LimitNOFILE= of systemd, --ulimit nofile= of docker"


@attrs.frozen(kw_only=True)
class Rejection:
    """Why a socket is not opened: an HTTP answer, or with `close_code` an upgrade and that close at once."""

    status: int
    body: bytes = b""
    close_code: int | None = None
    reason: str = ""


AuthorizeUpgrade = Callable[[RequestHead, str], "Admission | Rejection | Awaitable[Admission | Rejection]"]
"""Judges an upgrade by its head and the peer's address: at once where it can, else by what is returned, which is
bounded in time by itself.
"""

HttpSide = Callable[[HttpStream | TlsHttpStream, RequestHead], Awaitable[bytes | None]]
"""Serves a connection whose head is replayed; the connection is closed when it returns None.

Else it returns a later request that asks for a websocket, with what was read behind it. All before is answered.
"""

_Serving = Awaitable["_Serving | None"]
"""Serves a connection, and tells what does so afterwards."""


class UpgradeSide(Protocol):
    """The transport that websockets are handed to."""

    nursery: trio.Nursery

    @property
    def untasked(self) -> int:
        """The websockets that are open although `serve` has returned."""

    def serve(self, line: ByteStream, upgrade: Upgrade, admission: Admission) -> Awaitable[None] | None:
        """Open a websocket on `line`. None: no task is needed for it any more; else the rest has to be awaited."""


async def bind(host: str, port: int) -> tuple[socket.socket, ...]:
    """Take a port on every address of `host`, the same on all; port 0 = any free one. Raises OSError.

    Nobody can connect before a `Listener` serves them.
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
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(bound) > 1:
                port = bound[0].getsockname()[1]
            sock.bind((address[0], port, *address[2:]))
            if hasattr(socket, "TCP_DEFER_ACCEPT"):
                # Who connects says something first: taken when it has, most connections are opened in one step.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_SECONDS)
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return tuple(bound)


@attrs.define(slots=True, eq=False)
class _Opening:
    """One accepted connection. Cancelling `waiting` ends its wait for a head, and with it the connection.

    `since` is when it began to wait.
    """

    line: ByteStream
    socket: socket.socket
    http: Callable[[bytes], HttpStream | TlsHttpStream]
    handshake: Callable[[], Awaitable[None]] | None
    waiting: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    since: float = inf


class Listener:
    """Takes connections from `sockets` (stdlib, non-blocking, bound; closed by it) until it is closed."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        transport: UpgradeSide,
        authorize: AuthorizeUpgrade,
        http: HttpSide,
        tls: ssl.SSLContext | None = None,
        max_opening: int = 1_024,
        max_connections: int | None = None,
        close_idle: Callable[[], bool] = lambda: False,
        kernel: Kernel = KERNEL,
    ) -> None:
        """Newcomers don't wait for peers that say nothing.

        At most `max_opening` connections, or half of `max_connections` if that is less, are between accept and a whole
        head. For one more the oldest of the address with the most is closed. As many upgrades wait for the door;
        newcomers wait for those in the kernel.

        At most `max_connections` are open at all, None = any number. For one more a connection without a whole head is
        closed, else `close_idle` closes one; if it returns False the newcomer gets a 503.
        """
        self._sockets = tuple(sockets)
        self._transport = transport
        self._authorize = authorize
        self._http = http
        self._tls = tls
        self._kernel = kernel
        # Peers that say nothing never take all that may be open.
        self._max_opening = max_opening if max_connections is None else max(1, min(max_opening, max_connections // 2))
        # Over TLS a head takes round trips, else mostly none.
        self._grace = _HEAD_GRACE if tls is not None else min(_HEAD_GRACE, self._max_opening / _NEWCOMERS_A_SECOND)
        self._max_connections = max_connections
        self._close_idle = close_idle
        self._unfinished_requests = UnfinishedRequests[_Opening]()
        self._tasks = 0
        self._judging = 0
        self._newcomers = trio.lowlevel.ParkingLot()
        self._crowded = ThrottledLog(_logger)
        self._full = ThrottledLog(_logger)
        self._exhausted = ThrottledLog(_logger)

    @property
    def port(self) -> int:
        """The port of the first socket; raises OSError after `close`."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def opening(self) -> int:
        """Connections between accept and a whole head."""
        return len(self._unfinished_requests)

    @property
    def connections(self) -> int:
        """Open connections of every kind."""
        return self._tasks + self._transport.untasked

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, and accept until `close`; then return when every connection has ended.

        The failure of one never ends another. Raises OSError if a port can't be listened on.
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
        """Take new connections with `tls`; open ones keep theirs. Raises RuntimeError if it takes them without TLS."""
        if self._tls is None:
            raise RuntimeError("this listener takes connections without TLS")
        self._tls = tls

    def close(self) -> None:
        """Stop taking connections; those taken go on."""
        for sock in self._sockets:
            if sock.fileno() != -1:
                self._kernel.notify_closing(sock)
                sock.close()

    async def _accept(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            try:
                await self._kernel.wait_readable(listening)
                while True:
                    for _ in range(_ACCEPTED_A_TURN):
                        if self._judging >= self._max_opening or len(self._unfinished_requests) > self._max_opening:
                            await self._wait_for_room()
                        sock, address = listening.accept()
                        self._take(sock, _peer(address), nursery)
                    await trio.lowlevel.checkpoint()
            except BlockingIOError:
                continue
            except (trio.ClosedResourceError, ValueError):
                return
            except OSError as error:
                if listening.fileno() == -1 or error.errno in _CLOSED:
                    return
                if error.errno in _EXHAUSTED:
                    self._exhausted(
                        "no connection can be accepted (%s) while %d are open; %s", error, self.connections, _RAISE_IT
                    )
                    self._make_room()
                    await trio.sleep(_PAUSE)

    async def _wait_for_room(self) -> None:
        """Return when one more connection may be opening: mostly at once, because another is closed for it."""
        while self._judging >= self._max_opening or (
            len(self._unfinished_requests) > self._max_opening and not self._evict()
        ):
            with trio.move_on_after(self._grace):
                await self._newcomers.park()

    def _take(self, sock: socket.socket, peer: str, nursery: trio.Nursery) -> None:
        """Do at once what can be: often that is all, and the connection never costs a task."""
        if self._max_connections is not None and self.connections >= self._max_connections and not self._make_room():
            self._turn_away(sock)
            return
        try:
            opening = self._open(sock)
        except Exception:  # it was reset between accept and now
            _logger.debug("connection of %s ended before it was open", peer, exc_info=True)
            sock.close()
            return
        try:
            serving = self._begin(opening, peer)
        except Exception:
            _logger.exception("connection of %s failed", peer)
            serving = opening.line.reset()
        if serving is not None:
            self._tasks += 1
            nursery.start_soon(self._connection, opening, serving, peer)

    def _make_room(self) -> bool:
        """Have a connection closed that nothing is lost with, the next time that tasks run. False if there is none."""
        return self._evict() or self._close_idle()

    def _evict(self) -> bool:
        """Have a connection closed whose peer has been silent or slow in its head. False: there is none."""
        unfinished_requests, now = self._unfinished_requests, trio.current_time()
        for _ in range(min(_CANDIDATES, len(unfinished_requests))):
            opening = unfinished_requests.choose()
            if now < opening.since + self._grace:
                return False
            if self._kernel.has_unread(opening.socket):
                # It is this server that is slow.
                unfinished_requests.postpone(opening)
                continue
            self._crowded(
                "%d connections of %d addresses have not sent a whole request (%s has %d); the oldest ones of the "
                "address with the most are closed for newcomers",
                len(unfinished_requests),
                unfinished_requests.addresses,
                *unfinished_requests.most,
            )
            unfinished_requests.discard(opening)
            opening.waiting.cancel()
            return True
        return False

    def _turn_away(self, sock: socket.socket) -> None:
        """Answer 503 as far as that takes no time, and close."""
        self._full("%d connections are open, no more are allowed: newcomers get 503; %s", self.connections, _RAISE_IT)
        with sock, suppress(OSError):
            sock.setblocking(False)
            if self._tls is None:
                # Unread bytes would make a reset of the close, and the peer might not read the answer.
                with suppress(BlockingIOError):
                    sock.recv(_TURNED_AWAY_BYTES)
                sock.send(_FULL)

    def _begin(self, opening: _Opening, peer: str) -> _Serving | None:
        """Serve a connection as far as nothing has to be waited for."""
        line, reader = opening.line, HeadReader()
        if isinstance(line, SocketByteStream):
            try:
                data = line.socket.recv(_HEAD_BYTES)
                head = reader.feed(data) if data else None
            except OSError:
                # Nothing has come yet, or nothing ever will: whoever waits for it hears which.
                head = None
            except BadHead as bad:
                return _refuse_head(line, bad)
            if head is not None:
                return self._decide(opening, peer, head)
        opening.since = trio.current_time()
        self._unfinished_requests.add(opening, peer)
        return self._route(opening, peer, line.receive, reader)

    async def _connection(self, opening: _Opening, serving: _Serving | None, peer: str) -> None:
        try:
            while serving is not None:
                serving = await serving
        except (trio.BrokenResourceError, OSError) as error:
            _logger.debug("connection of %s broke: %s", peer, error)
        except Exception:
            _logger.exception("connection of %s failed", peer)
        finally:
            self._unfinished_requests.discard(opening)
            self._tasks -= 1
            await opening.line.reset()

    def _open(self, sock: socket.socket) -> _Opening:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        nursery, kernel = self._transport.nursery, self._kernel
        if self._tls is None:
            line = SocketByteStream(sock, nursery, kernel)
            return _Opening(line, sock, lambda replay: HttpStream(kernel.stream(sock), replay), None)
        stream = trio.SSLStream(kernel.stream(sock), self._tls, server_side=True, https_compatible=True)
        return _Opening(
            TrioByteStream(stream, nursery, sock),
            sock,
            lambda replay: TlsHttpStream(stream, replay),
            stream.do_handshake,
        )

    async def _route(
        self, opening: _Opening, peer: str, receive: Callable[[], Awaitable[bytes]], reader: HeadReader
    ) -> _Serving | None:
        """Read the head; what is returned serves the connection and holds only what it needs."""
        head = None
        try:
            with opening.waiting:
                if opening.handshake is not None:
                    # One that is done is not done again.
                    with trio.fail_after(_HANDSHAKE_SECONDS):
                        await opening.handshake()
                head = await read_head(receive, reader)
        except BadHead as bad:
            return _refuse_head(opening.line, bad)
        except trio.TooSlowError:
            return None
        finally:
            self._unfinished_requests.discard(opening)
            self._newcomers.unpark_all()
        return None if head is None else self._decide(opening, peer, head)

    def _decide(self, opening: _Opening, peer: str, head: RequestHead) -> _Serving | None:
        if not head.is_websocket_upgrade:
            return self._serve_http(opening, peer, head)
        try:
            upgrade = head.upgrade(select_subprotocol(head.subprotocols)[0])
        except BadHead as bad:
            return _refuse_head(opening.line, bad)
        try:
            verdict = self._authorize(head, peer)
        except Exception:
            _logger.exception("connection of %s failed", peer)
            return _reply(opening.line, 500, _FAILED)
        if isinstance(verdict, Admission | Rejection):
            return self._follow(opening, upgrade, verdict)
        return self._wait_for(verdict, opening, upgrade)

    async def _wait_for(
        self, asked: Awaitable[Admission | Rejection], opening: _Opening, upgrade: Upgrade
    ) -> _Serving | None:
        self._judging += 1
        try:
            verdict = await asked
        except Exception:
            await _reply(opening.line, 500, _FAILED)
            raise
        finally:
            self._judging -= 1
            self._newcomers.unpark_all()
        return self._follow(opening, upgrade, verdict)

    def _follow(self, opening: _Opening, upgrade: Upgrade, verdict: Admission | Rejection) -> _Serving | None:
        if isinstance(verdict, Admission):
            return self._transport.serve(opening.line, upgrade, verdict)
        if verdict.close_code is not None:
            return _refuse(opening.line, upgrade, verdict.close_code, verdict.reason)
        return _reply(opening.line, verdict.status, verdict.body)

    async def _serve_http(self, opening: _Opening, peer: str, head: RequestHead) -> _Serving | None:
        stream = opening.http(head.raw)
        serving = self._http(stream, head)
        # As long as the connection lives nobody needs it, and it may be 16 KiB.
        del head
        upgrade: bytes | None = None
        try:
            upgrade = await serving
        finally:
            if upgrade is None:
                await trio.aclose_forcefully(stream)
        if upgrade is None:
            return None
        read = upgrade + stream.unread

        async def receive() -> bytes:
            nonlocal read
            if not read:
                return await opening.line.receive()
            known, read = read, b""
            return known

        opening.waiting = trio.CancelScope()
        return self._route(opening, peer, receive, HeadReader())


def _peer(address: object) -> str:
    return str(address[0]) if isinstance(address, tuple) else str(address)


def _error_body(code: str, detail: str) -> bytes:
    return orjson.dumps({"error": {"code": code, "detail": detail, "path": ""}})


def _refuse_head(line: ByteStream, bad: BadHead) -> _Serving:
    return _reply(line, bad.status, _error_body("bad_request", bad.detail))


async def _reply(line: ByteStream, status: int, body: bytes) -> None:
    """Answer and close. The answer is small and the first thing sent: it fits whatever buffer there is."""
    extra = b"Sec-WebSocket-Version: 13\r\n" if status == HTTPStatus.UPGRADE_REQUIRED else b""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    ).encode("ascii")
    with trio.move_on_after(_REPLY_SECONDS):
        line.send(head + extra + b"\r\n" + body)
        await line.finish(peer_knows=False)


async def _refuse(line: ByteStream, upgrade: Upgrade, code: int, reason: str) -> None:
    """Open a websocket only to close it: browsers cannot read the status of a refused handshake."""
    with trio.move_on_after(_REPLY_SECONDS):
        line.send(accept(upgrade) + close_frame(code, reason))
        await line.finish(peer_knows=False)


_FAILED: Final = _error_body("server_failed", "the server failed")
_OVERLOADED: Final = _error_body("overloaded", "too many connections are open; try again later")
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 5\r\nConnection: close\r\n\r\n%s" % (len(_OVERLOADED), _OVERLOADED)
)
