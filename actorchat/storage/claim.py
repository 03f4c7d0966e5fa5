"""Owns the claim on a database file: one process at a time, and one store in it.

Knows no store. The claim is a lock of the operating system on a file beside the database, so it goes with its
process however that ends; the file stays, for deleting it would let two hold a claim each.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.explaining import explain_os_error
from actorchat.storage.store import StoreUrlError

__all__ = ["claim"]

_HELD: Final = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})


def claim(path: Path) -> Callable[[], None]:
    """Claim the database `path`, which need not exist; what is returned gives the claim up.

    Raises `StorageUnavailable` if somebody else has it, `StoreUrlError` if there can be no file.
    """
    path = _resolve(path)
    lock = path.with_name(f"{path.name}.lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUrlError(explain_os_error(lock, error)) from error
    try:
        _lock(handle)
    except OSError as error:
        os.close(handle)
        if error.errno in _HELD:
            raise StorageUnavailable(
                f"another server uses {path}; stop it or choose another --data or --storage"
            ) from None
        raise StorageUnavailable(f"{path} can't be locked: {error.strerror}") from error

    def give_up() -> None:
        os.close(handle)

    return give_up


def _resolve(path: Path) -> Path:
    """The path without symbolic links: two names of one database are one database. Raises `StoreUrlError`."""
    try:
        path = path.resolve()
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return path
    # Python before 3.13 raises a RuntimeError for a loop of symbolic links.
    except (OSError, RuntimeError, ValueError) as error:
        detail = explain_os_error(path, error) if isinstance(error, OSError) else f"{path} can't be used: {error}"
        raise StoreUrlError(detail) from error
    if kind == stat.S_IFDIR:
        raise StoreUrlError(f"{path} is a folder, and a file is needed there")
    if kind != stat.S_IFREG:
        raise StoreUrlError(f"{path} is no regular file: name another one")
    return path


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
