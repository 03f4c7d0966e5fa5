"""Locks a database file, so that only one process, and only one store in it, uses the database.

It is an operating system lock on a byte of the database file that SQLite does not use. The lock ends with its process,
however that ends, and does not depend on a separate file that could be deleted while a server runs.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.error_messages import describe_os_error
from actorchat.storage.store import StoreUrlError

__all__ = ["DatabaseLock", "lock_database"]

_HELD: Final = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
"""The error numbers that mean that another process has the lock."""

_OUR_BYTE: Final = 0x40000400
"""SQLite locks the 512 bytes from 0x40000000 on, and never stores data in the page that contains them."""

_SHARED_BYTES: Final = (0x40000002, 510)
"""Start and length of the range that SQLite write-locks to find out whether a connection is the last one."""


class DatabaseLock:
    """A locked database file, made by `lock_database`.

    `path` has no symbolic links; `handle` is the file descriptor; `created` are the files that did not exist before.
    """

    def __init__(self, path: Path, handle: int, lock_file: int, created: tuple[Path, ...]) -> None:
        self.path = path
        self.handle = handle
        self.created = created
        self._lock_file = lock_file

    def discard(self) -> None:
        """Delete the files that a failed start has created. A database that existed before is kept."""
        if self.path in self.created:
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        for path in self.created:
            path.unlink(missing_ok=True)

    def release(self) -> None:
        """Release the lock. All SQLite connections to the file must be closed first."""
        _unlock(self.handle, _OUR_BYTE, 1)
        _close(self.handle)
        os.close(self._lock_file)

    def still_held(self) -> bool:
        """Lock again if the system may have dropped the lock. Returns False if another process has locked the file.

        Where locks belong to processes, closing any descriptor of the file in this process drops them.
        """
        return not _CLOSING_UNLOCKS or _lock(self.handle, _OUR_BYTE, 1)

    def keep_log(self, keep: bool) -> None:
        """With True, make SQLite assume that another connection is open, so that closing one neither copies the
        write-ahead log into the file nor deletes it. Works on Linux only and does nothing elsewhere.
        """
        if _HAS_SHARED_LOCKS:
            if keep:
                _lock(self.handle, *_SHARED_BYTES, shared=True)
            else:
                _unlock(self.handle, *_SHARED_BYTES)


def lock_database(path: Path) -> DatabaseLock:
    """Lock the database at `path`. A missing file is created empty, readable by its owner only.

    Raises `StorageUnavailable` if another server uses it, and `StoreUrlError` if there cannot be a file at `path`.
    """
    path = _resolve(path)
    lock_path = path.with_name(f"{path.name}.lock")
    created = tuple(file for file in (path, lock_path) if not os.path.lexists(file))
    with ExitStack() as stack:
        # Older versions lock only this file. It also keeps a second store in this process from opening the database,
        # because closing that descriptor again would drop SQLite's locks.
        lock_file = _open(lock_path)
        stack.callback(os.close, lock_file)
        if not _lock_whole(lock_file):
            raise _in_use(path)
        handle = _open(path)
        stack.callback(_close, handle)
        if not _lock(handle, _OUR_BYTE, 1):
            raise _in_use(path)
        stack.pop_all()
    return DatabaseLock(path, handle, lock_file, created)


def _in_use(path: Path) -> StorageUnavailable:
    return StorageUnavailable(f"another server uses {path}; stop it or choose another --data or --storage")


def _resolve(path: Path) -> Path:
    """The path without symbolic links, so that all names of a database lock the same file. Raises `StoreUrlError`."""
    try:
        path = path.resolve()
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return path
    # Python before 3.13 raises a RuntimeError for a loop of symbolic links.
    except (OSError, RuntimeError, ValueError) as error:
        detail = describe_os_error(path, error) if isinstance(error, OSError) else f"{path} cannot be used: {error}"
        raise StoreUrlError(detail) from error
    if kind == stat.S_IFDIR:
        raise StoreUrlError(f"{path} is a folder, but a file is needed there")
    if kind != stat.S_IFREG:
        raise StoreUrlError(f"{path} is not a regular file: name another one")
    return path


def _open(path: Path) -> int:
    try:
        # Only the owner may read the chats. SQLite gives its log files the mode of the database.
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUrlError(describe_os_error(path, error)) from error


def _close(handle: int) -> None:
    """Close it, unless this process has another descriptor of the file.

    SQLite uses POSIX locks, which a process loses when it closes any of its descriptors of the file.
    """
    if not _open_elsewhere(handle):
        os.close(handle)


def _open_elsewhere(handle: int) -> bool:
    own = os.fstat(handle)
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return False
    for name in names:
        try:
            if int(name) != handle and os.path.samestat(os.fstat(int(name)), own):
                return True
        except (OSError, ValueError):
            continue
    return False


if sys.platform == "win32":
    import msvcrt

    _CLOSING_UNLOCKS = _HAS_SHARED_LOCKS = False

    def _lock(handle: int, start: int, length: int, *, shared: bool = False) -> bool:
        os.lseek(handle, start, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, length)
        except OSError:
            return False
        return True

    def _unlock(handle: int, start: int, length: int) -> None:
        os.lseek(handle, start, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, length)

    def _lock_whole(handle: int) -> bool:
        return _lock(handle, 0, 1)

else:
    import fcntl

    # On Linux a lock can belong to the open file; elsewhere it belongs to the process.
    _HAS_SHARED_LOCKS = hasattr(fcntl, "F_OFD_SETLK")
    _CLOSING_UNLOCKS = not _HAS_SHARED_LOCKS

    def _lock(handle: int, start: int, length: int, *, shared: bool = False) -> bool:
        """Returns False if another process has the lock. Raises `StorageUnavailable` if locking is not supported."""
        try:
            if _HAS_SHARED_LOCKS:
                _set(handle, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, start, length)
            else:
                fcntl.lockf(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB, length, start)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise StorageUnavailable(f"the database cannot be locked: {error.strerror}") from error
        return True

    def _unlock(handle: int, start: int, length: int) -> None:
        if _HAS_SHARED_LOCKS:
            _set(handle, fcntl.F_UNLCK, start, length)
        else:
            fcntl.lockf(handle, fcntl.LOCK_UN, length, start)

    def _set(handle: int, kind: int, start: int, length: int) -> None:
        # This is struct flock; its process id must be 0 for these locks.
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))

    def _lock_whole(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise StorageUnavailable(f"the database cannot be locked: {error.strerror}") from error
        return True
