"""Sockets, file descriptors, a selector and streams for the two ends of a simulated connection.

They have the interfaces of real ones: the server's sockets are non-blocking, and a `Kernel` waits for them; a client's
stream is a `trio.abc.HalfCloseableStream`.
"""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
from itertools import count
from random import Random
from typing import Final, Protocol, cast

import trio

from actorchat.testing.simulation.network import Backlog, Connection, End, Network
from actorchat.transports.kernel import Kernel

__all__ = ["ClientStream", "Descriptors", "Listener", "ServerSocket", "dial"]

_FIRST: Final = 1_000_000
"""The first simulated descriptor: higher than any real one."""


class _Waitable(Protocol):
    lot: trio.lowlevel.ParkingLot

    @property
    def readable(self) -> bool: ...

    @property
    def writable(self) -> bool: ...


class _HasFileNo(Protocol):
    def fileno(self) -> int: ...


class Descriptors:
    """The file descriptors of one simulated machine, and its `Kernel`. Real descriptors are passed on to Trio."""

    def __init__(self, network: Network, random: Random) -> None:
        self.network = network
        self.random = random
        self._open: dict[int, _Waitable] = {}
        self._next = count(_FIRST)
        self.kernel: Kernel = Kernel(
            wait_readable=self._wait_readable,
            wait_writable=self._wait_writable,
            notify_closing=self._notify_closing,
            selector=lambda: _Selector(self),
            stream=lambda sock: cast("trio.SocketStream", ServerStream(cast("ServerSocket", sock), self)),
            move=lambda sock: cast("socket.socket", cast("ServerSocket", sock).move()),
            has_unread=lambda sock: bool(cast("ServerSocket", sock).end.into.inbox),
        )

    def open(self, thing: _Waitable) -> int:
        fd = next(self._next)
        self._open[fd] = thing
        return fd

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def end(self, fd: int) -> End:
        return cast("End", self._open[fd])

    async def listen(self, host: str, port: int) -> tuple[socket.socket, ...]:
        """Replaces `actorchat.transports.listener.bind`."""
        await trio.lowlevel.checkpoint()
        if port in self.network.backlogs:
            raise OSError(errno.EADDRINUSE, "in use")
        backlog = Backlog(self.network, port or 8_000, deferred=True)
        return (cast("socket.socket", _ListeningSocket(self, backlog)),)

    async def _wait_readable(self, sock: int | _HasFileNo) -> None:
        await self._wait(sock, readable=True)

    async def _wait_writable(self, sock: int | _HasFileNo) -> None:
        await self._wait(sock, readable=False)

    async def _wait(self, sock: int | _HasFileNo, *, readable: bool) -> None:
        fd = sock if isinstance(sock, int) else sock.fileno()
        thing = self._open.get(fd)
        if thing is None:
            raise ValueError(f"no such descriptor: {fd}")
        await trio.lowlevel.checkpoint()
        while not (thing.readable if readable else thing.writable):
            await thing.lot.park()
            if fd not in self._open:
                raise trio.ClosedResourceError("another task closed it")

    def _notify_closing(self, sock: int | _HasFileNo) -> None:
        fd = sock if isinstance(sock, int) else sock.fileno()
        thing = self._open.pop(fd, None)
        if thing is not None:
            thing.lot.unpark_all()


class ServerSocket:
    """An accepted connection, with the interface of `socket.socket`."""

    family: socket.AddressFamily = socket.AF_INET
    type: socket.SocketKind = socket.SOCK_STREAM
    proto: int = 0

    def __init__(self, descriptors: Descriptors, end: End) -> None:
        self.end = end
        self._descriptors = descriptors
        self._fd = descriptors.open(end)
        self._linger_zero = False

    def fileno(self) -> int:
        return self._fd

    def move(self) -> ServerSocket:
        """Replaces `Kernel.move`."""
        moved = object.__new__(ServerSocket)
        moved.end, moved._descriptors, moved._linger_zero = self.end, self._descriptors, self._linger_zero
        moved._fd, self._fd = self._fd, -1
        return moved

    def setblocking(self, flag: bool) -> None:
        return None

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        if option == socket.SO_LINGER:
            self._linger_zero = True

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8_000)

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 20_000 + self.end.connection.number)

    def recv(self, most: int) -> bytes:
        self._check()
        end = self.end
        if end.into.inbox:
            data = end.into.take(most)
            end.connection.tap.server_read(data)
            return data
        if end.broken:
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        if end.into.eof:
            return b""
        raise BlockingIOError

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: bytes | memoryview, /) -> int:
        self._check()
        end, chance = self.end, self.end.connection.random
        if end.broken:
            raise BrokenPipeError(errno.EPIPE, "gone")
        free = end.out.free
        if free <= 0 or end.out.waited:
            # Bytes that had to wait for room may be old, so `full_at` is renewed when they are written.
            end.out.full_at = trio.current_time()
            end.out.waited = free <= 0
        if free <= 0:
            raise BlockingIOError
        size = min(free, len(data))
        if size > 1 and chance.random() < 0.05:
            size = chance.randint(1, size)
        if size < len(data):
            end.out.full_at = trio.current_time()
            end.out.waited = True
        taken = bytes(data[:size])
        end.connection.tap.server_wrote(taken)
        end.out.write(taken)
        return size

    def shutdown(self, how: int) -> None:
        self._check()
        if self.end.broken:
            raise OSError(errno.ENOTCONN, "gone")
        self.end.out.finish()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd != -1:
            self._descriptors.close(fd)
            self.end.close(reset=self._linger_zero)

    def _check(self) -> None:
        if self._fd == -1 or self.end.closed:
            raise OSError(errno.EBADF, "closed")


class _ListeningSocket:
    family: socket.AddressFamily = socket.AF_INET

    def __init__(self, descriptors: Descriptors, backlog: Backlog) -> None:
        self._descriptors, self._backlog = descriptors, backlog
        self._fd = descriptors.open(backlog)

    def fileno(self) -> int:
        return -1 if self._backlog.closed else self._fd

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", self._backlog.port)

    def listen(self, backlog: int) -> None:
        """Do nothing: the socket listens from the beginning."""

    def accept(self) -> tuple[ServerSocket, tuple[str, int]]:
        if self._backlog.closed:
            raise OSError(errno.EBADF, "closed")
        sock = ServerSocket(self._descriptors, self._backlog.accept())
        return sock, sock.getpeername()

    def close(self) -> None:
        self._descriptors.close(self._fd)
        self._backlog.close()


class _Selector:
    """Replaces `selectors.DefaultSelector`. Ready sockets are returned in a random order."""

    writable = False

    def __init__(self, descriptors: Descriptors) -> None:
        self.lot = trio.lowlevel.ParkingLot()
        self._descriptors = descriptors
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._fd = descriptors.open(self)

    def fileno(self) -> int:
        return self._fd

    def register(self, fd: int, events: int, data: object, /) -> None:
        self._keys[fd] = selectors.SelectorKey(fd, fd, events, data)
        self._descriptors.end(fd).watchers[self] = None
        self.changed()

    def modify(self, fd: int, events: int, data: object, /) -> None:
        self.register(fd, events, data)

    def unregister(self, fd: int, /) -> None:
        del self._keys[fd]
        self._descriptors.end(fd).watchers.pop(self, None)

    def select(self, timeout: float | None, /) -> list[tuple[selectors.SelectorKey, int]]:
        found = [(key, ready) for key in self._keys.values() if (ready := self._ready(key) & key.events)]
        self._descriptors.random.shuffle(found)
        return found

    def close(self) -> None:
        self._descriptors.close(self._fd)
        self._fd = -1

    def changed(self) -> None:
        if self.lot and self.readable:
            self.lot.unpark_all()

    @property
    def readable(self) -> bool:
        return any(self._ready(key) & key.events for key in self._keys.values())

    def _ready(self, key: selectors.SelectorKey) -> int:
        end = self._descriptors.end(key.fd)
        return (selectors.EVENT_READ if end.readable else 0) | (selectors.EVENT_WRITE if end.writable else 0)


class ServerStream(trio.abc.HalfCloseableStream):
    """Replaces `trio.SocketStream` for an accepted socket."""

    def __init__(self, sock: ServerSocket, descriptors: Descriptors) -> None:
        self.socket = sock
        self._kernel = descriptors.kernel

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.socket.recv(max_bytes or 65_536)
            except BlockingIOError:
                await self._kernel.wait_readable(cast("socket.socket", self.socket))
            except OSError as error:
                raise self._ended() from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                await self._kernel.wait_writable(cast("socket.socket", self.socket))
            except OSError as error:
                raise self._ended() from error

    async def wait_send_all_might_not_block(self) -> None:
        await self._kernel.wait_writable(cast("socket.socket", self.socket))

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._ended() from error

    async def aclose(self) -> None:
        if self.socket.fileno() != -1:
            self._kernel.notify_closing(cast("socket.socket", self.socket))
            self.socket.close()
        await trio.lowlevel.checkpoint()

    def _ended(self) -> Exception:
        if self.socket.fileno() == -1:
            return trio.ClosedResourceError("this end was closed")
        return trio.BrokenResourceError("the connection is broken")


class ClientStream(trio.abc.HalfCloseableStream):
    """A client's end of a connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.end: End = connection.client

    @classmethod
    async def dial(cls, network: Network, port: int) -> ClientStream:
        """Connect to `port`. Raises ConnectionRefusedError if nothing listens there."""
        return cls(await network.connect(port))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        end = self.end
        while True:
            self._check()
            if end.into.inbox:
                return end.into.take(max_bytes or 65_536)
            if end.into.eof:
                return b""
            await end.lot.park()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            if self.end.broken:
                raise trio.BrokenResourceError("reset")
            self._check()
            free = self.end.out.free
            if free <= 0:
                await self.end.lot.park()
                continue
            self.end.out.write(rest[:free])
            rest = rest[free:]

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        self.end.out.finish()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.end.close()
        await trio.lowlevel.checkpoint()

    def _check(self) -> None:
        if self.end.closed:
            raise trio.ClosedResourceError("this end was closed")
        if self.end.broken and not self.end.into.inbox:
            raise trio.BrokenResourceError("reset")


async def dial(network: Network, host: str, port: int, tls: ssl.SSLContext | None = None) -> ClientStream:
    """Replaces the function with which `actorchat.client` connects. `tls` is ignored."""
    return await ClientStream.dial(network, port)


class Listener(trio.abc.Listener[ServerStream]):
    """For `trio.serve_listeners`: accepts connections on a port of the simulated network."""

    def __init__(self, descriptors: Descriptors, port: int) -> None:
        if port in descriptors.network.backlogs:
            raise OSError(errno.EADDRINUSE, f"port {port} is in use")
        self._descriptors = descriptors
        self._backlog = Backlog(descriptors.network, port, deferred=False)

    async def accept(self) -> ServerStream:
        await trio.lowlevel.checkpoint()
        while not self._backlog.readable:
            if self._backlog.closed:
                raise trio.ClosedResourceError("this listener was closed")
            await self._backlog.lot.park()
        return ServerStream(ServerSocket(self._descriptors, self._backlog.accept()), self._descriptors)

    async def aclose(self) -> None:
        self._backlog.close()
        await trio.lowlevel.checkpoint()
