"""Moves bytes to and from one peer, over a plain socket or over any Trio stream such as TLS.

Both kinds of stream are the `Wire` of an outbox and are read by one task.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final, Protocol

import trio

from actorchat.transports.kernel import KERNEL, Kernel
from actorchat.transports.outbox import Wire

__all__ = ["ByteStream", "SocketByteStream", "TrioByteStream"]

_RECEIVE_BYTES: Final = 4_096
# One TLS record. With more, it would take longer to notice that a peer doesn't read.
_SEND_BYTES: Final = 16_384
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class ByteStream(Wire, Protocol):
    """The connection to one peer. `scope`, once set, is cancelled at `deadline`."""

    scope: trio.CancelScope | None
    deadline: float

    async def receive(self) -> bytes:
        """Receive some bytes, or b"" at the end of the stream. Raises BrokenResourceError."""

    async def finish(self, *, peer_knows: bool) -> None:
        """Shut down the sending side, wait for the end of the peer's stream, and close.

        With `peer_knows`, the peer has sent its Close, so this does not wait. Bytes that still arrive are dropped:
        closing over unread bytes would reset the connection, and the peer might never read our last frame. The caller
        bounds the wait.
        """

    async def reset(self) -> None:
        """Close at once and drop what is in flight. Never waits, and does nothing if it is closed."""


class _Deadline:
    __slots__ = ("deadline", "scope")

    def __init__(self) -> None:
        self.deadline: float = inf
        self.scope: trio.CancelScope | None = None

    def closing(self, linger: float) -> None:
        """End within `linger` seconds."""
        self.deadline = min(self.deadline, trio.current_time() + linger)
        if self.scope is not None:
            self.scope.deadline = self.deadline


class SocketByteStream(_Deadline):
    """A connected non-blocking stdlib TCP socket.

    `send` is the kernel's own; a task exists only while its buffer is full.
    """

    __slots__ = ("_kernel", "_nursery", "_wanted", "_writing", "send", "socket")

    def __init__(self, sock: socket.socket, nursery: trio.Nursery, kernel: Kernel = KERNEL) -> None:
        super().__init__()
        self.socket: socket.socket = sock
        self.send: Callable[[bytes | memoryview], int] = sock.send
        self._kernel = kernel
        self._nursery = nursery
        self._wanted = False
        self._writing = False

    def want_write(self, flush: Callable[[], None]) -> None:
        self._wanted = True
        if not self._writing:
            self._writing = True
            self._nursery.start_soon(self._write, flush)

    async def _write(self, flush: Callable[[], None]) -> None:
        while self._wanted:
            self._wanted = False
            try:
                await self._kernel.wait_writable(self.socket)
            except (trio.ClosedResourceError, OSError, ValueError):  # closed before or while this waited
                break
            flush()
        self._writing = False

    async def receive(self) -> bytes:
        while True:
            await self._kernel.wait_readable(self.socket)
            try:
                return self.socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    def detach(self) -> socket.socket:
        """Give the socket to the caller. This stream ends, and the peer is sent nothing."""
        return self._kernel.move(self.socket)

    async def finish(self, *, peer_knows: bool) -> None:
        with suppress(OSError, trio.BrokenResourceError):
            self.socket.shutdown(socket.SHUT_WR)
            while not peer_knows and await self.receive():
                pass
        await trio.lowlevel.checkpoint()
        self._close()

    async def reset(self) -> None:
        if self.socket.fileno() != -1:
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            self._close()

    def _close(self) -> None:
        if self.socket.fileno() != -1:
            self._kernel.notify_closing(self.socket)
            self.socket.close()


class TrioByteStream(_Deadline):
    """Any Trio stream, such as TLS.

    One task does all writes and exists only while there is something to write. At most 16 KiB have left the outbox and
    are not written yet. `sock` is the socket under the stream, if there is one.
    """

    __slots__ = ("_broken", "_chunk", "_flush", "_idle", "_nursery", "_socket", "_stream")

    def __init__(self, stream: trio.abc.Stream, nursery: trio.Nursery, sock: socket.socket | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._nursery = nursery
        self._socket = sock
        self._chunk = b""
        self._broken = False
        self._flush: Callable[[], None] | None = None
        self._idle: trio.Event | None = None

    def send(self, data: bytes | memoryview, /) -> int:
        if self._broken:
            raise BrokenPipeError("the stream is broken")
        if self._chunk:
            raise BlockingIOError
        self._chunk = bytes(data[:_SEND_BYTES])
        if self._idle is None:
            self._idle = trio.Event()
            self._nursery.start_soon(self._write)
        return len(self._chunk)

    def want_write(self, flush: Callable[[], None]) -> None:
        self._flush = flush

    async def _write(self) -> None:
        while self._chunk:
            try:
                await self._stream.send_all(self._chunk)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._broken = True
            self._chunk = b""
            flush, self._flush = self._flush, None
            if flush is not None:
                flush()
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    async def receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_RECEIVE_BYTES))
        except trio.ClosedResourceError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def finish(self, *, peer_knows: bool) -> None:
        if self._idle is not None:
            await self._idle.wait()
        with suppress(trio.BrokenResourceError):
            while not peer_knows and not self._broken and await self.receive():
                pass
        await self._stream.aclose()

    async def reset(self) -> None:
        if self._socket is not None and self._socket.fileno() != -1:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        await trio.aclose_forcefully(self._stream)
