"""Binds a Unix socket to listen on, and removes what an earlier server has left at its path."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["UNIX_PEER", "bind_unix", "identity_of", "remove_unix"]

UNIX_PEER: Final = "unix"
"""The address of every client of a Unix socket."""

_MODE: Final = 0o660
"""The owner and its group may connect: the group is that of the proxy."""

MAX_PATH_BYTES: Final = 103
"""Every platform allows paths of sockets of this length. Linux allows four bytes more."""


def bind_unix(path: Path) -> socket.socket:
    """Bind a socket at `path`, which its owner and group may use. A socket that nobody listens on is replaced.

    Clients can't connect before a `Listener` serves it. Raises OSError: EADDRINUSE if a server listens there, EEXIST if
    there is a file of another kind.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "this platform has no Unix sockets")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"the path of a Unix socket may have at most {MAX_PATH_BYTES} bytes")
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(str(path))
        # In time, because nobody can connect before `listen`.
        os.chmod(path, _MODE)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def remove_unix(path: Path, identity: tuple[int, int]) -> None:
    """Remove the file of a socket, unless another server has bound the path since. `identity` is that of the file."""
    with suppress(OSError):
        if identity_of(path) == identity:
            path.unlink()


def identity_of(path: Path) -> tuple[int, int]:
    """Return what identifies the file at `path`. Raises OSError."""
    status = path.lstat()
    return status.st_dev, status.st_ino
