"""Bundles the functions that wait for sockets and wrap them, so that a simulation can replace the operating system."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import attrs
import trio

__all__ = ["KERNEL", "Kernel", "Selector"]


class Selector(Protocol):
    """The methods of `selectors.DefaultSelector` that a reactor uses."""

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
    """The functions of the operating system that transports use, besides the methods of sockets.

    The first three fields are the functions of that name in `trio.lowlevel`. `selector` makes a selector for a reactor,
    which waits for its file descriptor with `wait_readable`. `stream` wraps an accepted socket for HTTP and TLS. `move`
    returns a new socket object for the same connection and detaches the given one. `has_unread` returns whether the
    socket has received bytes that are not read yet.
    """

    wait_readable: Callable[[socket.socket | int], Awaitable[None]] = trio.lowlevel.wait_readable
    wait_writable: Callable[[socket.socket | int], Awaitable[None]] = trio.lowlevel.wait_writable
    notify_closing: Callable[[socket.socket | int], None] = trio.lowlevel.notify_closing
    selector: Callable[[], Selector] = selectors.DefaultSelector
    stream: Callable[[socket.socket], trio.SocketStream] = _stream
    move: Callable[[socket.socket], socket.socket] = _move
    has_unread: Callable[[socket.socket], bool] = _has_unread


KERNEL: Final = Kernel()
"""The real operating system."""
