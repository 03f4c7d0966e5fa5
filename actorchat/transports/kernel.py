"""How sockets are waited for and wrapped: by default with the operating system and Trio, in a simulation without."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import attrs
import trio

__all__ = ["KERNEL", "Kernel", "Selector"]


class Selector(Protocol):
    """What a reactor uses of `selectors.DefaultSelector`."""

    def fileno(self) -> int: ...

    def register(self, fd: int, events: int, data: object, /) -> object: ...

    def modify(self, fd: int, events: int, data: object, /) -> object: ...

    def unregister(self, fd: int, /) -> object: ...

    def select(self, timeout: float | None, /) -> list[tuple[selectors.SelectorKey, int]]: ...

    def close(self) -> None: ...


def _stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _move(sock: socket.socket) -> socket.socket:
    moved = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    moved.setblocking(False)
    return moved


def _has_unread(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


@attrs.frozen(kw_only=True)
class Kernel:
    """What transports ask of the operating system beside the methods of a socket.

    The first three fields are the functions of that name in `trio.lowlevel`. `selector` makes what a reactor waits
    on; its descriptor is waited for with `wait_readable`. `stream` wraps an accepted socket for HTTP and TLS. `move`
    returns the same connection as another socket object and leaves the given one closed. `has_unread` says whether
    bytes of the peer have arrived that nobody has read.
    """

    wait_readable: Callable[[socket.socket | int], Awaitable[None]] = trio.lowlevel.wait_readable
    wait_writable: Callable[[socket.socket | int], Awaitable[None]] = trio.lowlevel.wait_writable
    notify_closing: Callable[[socket.socket | int], None] = trio.lowlevel.notify_closing
    selector: Callable[[], Selector] = selectors.DefaultSelector
    stream: Callable[[socket.socket], trio.SocketStream] = _stream
    move: Callable[[socket.socket], socket.socket] = _move
    has_unread: Callable[[socket.socket], bool] = _has_unread


KERNEL: Final = Kernel()
"""The operating system."""
