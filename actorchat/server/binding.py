"""Binds the port or the Unix socket of a server, and says what to do if that fails."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from actorchat.server.bootstrap import StartFailed
from actorchat.server.environment import Environment
from actorchat.server.settings import Settings
from actorchat.transports.listener import bind
from actorchat.transports.unix_socket import bind_unix, identity_of, remove_unix

__all__ = ["bind_for_workers", "bind_sockets"]


async def bind_for_workers(stack: AsyncExitStack, settings: Settings) -> tuple[tuple[socket.socket, ...], ...]:
    """Bind the port once for each worker; closing `stack` closes the sockets. Raises StartFailed."""
    bound: list[tuple[socket.socket, ...]] = []
    port = settings.port or 0
    # Without sharing it, as a worker must not join the port of another program of this user.
    for sock in await _bind(bind, settings.host, port):
        port = sock.getsockname()[1]
        sock.close()
    for _ in range(settings.workers):
        sockets = await _bind(partial(bind, shared=True), settings.host, port)
        for sock in sockets:
            stack.callback(sock.close)
        bound.append(sockets)
    return tuple(bound)


async def bind_sockets(
    stack: AsyncExitStack, settings: Settings, environment: Environment
) -> tuple[socket.socket, ...]:
    """Bind what the settings say: a Unix socket, a port, or nothing. Raises StartFailed.

    Closing `stack` removes the path of a Unix socket.
    """
    if settings.unix is not None:
        return (_listen_unix(settings.unix, stack),)
    if settings.port is None:
        return ()
    return await _bind(environment.listen, settings.host, settings.port)


async def _bind(
    listen: Callable[[str, int], Awaitable[tuple[socket.socket, ...]]], host: str, port: int
) -> tuple[socket.socket, ...]:
    try:
        return await listen(host, port)
    except OSError as error:
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            advice = "another program listens on it; choose another port with --port"
            raise StartFailed(f"{where} is in use: {advice}") from None
        raise StartFailed(f"can't listen on {where}: {error.strerror or error}") from None
    except UnicodeError:
        raise StartFailed(f"can't listen on {host}:{port}: invalid host name") from None


def _listen_unix(path: Path, stack: AsyncExitStack) -> socket.socket:
    try:
        sock = bind_unix(path)
        stack.callback(remove_unix, path, identity_of(path))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartFailed(f"{path} is in use: another server listens on it; choose another path") from None
        raise StartFailed(f"can't listen on {path}: {error.strerror or error}") from None
    return sock
