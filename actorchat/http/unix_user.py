"""Finds out which user of this machine has connected to a Unix socket."""

from __future__ import annotations

import socket
import struct
from typing import Final

__all__ = ["UNIX_USER", "unix_user"]

UNIX_USER: Final = "unix_user"
"""The key in the state of a request that came through a Unix socket: what `unix_user` returned."""

_CREDENTIALS: Final = struct.Struct("3i")
"""`struct ucred` of Linux: process, user and group."""


def unix_user(sock: socket.socket) -> int | None:
    """The number of the user at the other end of a Unix socket, None if this platform does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    try:
        _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    except (OSError, struct.error):
        return None
    return int(user)
