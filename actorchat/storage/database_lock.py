"""Claims a database file: one process at a time, and one store in it.

The claim is a lock of the operating system on the database file itself, on a byte that SQLite does not use. It goes
with its process however that ends, and it does not depend on any file that could be deleted while a server runs.
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

__all__ = ["DatabaseLock", "claim"]

_HELD: Final = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})

_CLAIM_BYTE: Final = 0x40000400
"""SQLite locks the 512 bytes from 0x40000000 on, and no database keeps data in the page around them."""

_SHARED_BYTES: Final = (0x40000002, 510)
"""Start and length of what SQLite write-locks to learn whether a connection is the last one."""


class DatabaseLock:
    """A claimed database file, made by `claim`. `path` has no symbolic links; `handle` is the open file.

    `made` names the files that did not exist before.
    """

    def __init__(self, path: Path, handle: int, lock_file: int, made: tuple[Path, ...]) -> None:
        self.path = path
        self.handle = handle
        self.made = made
        self._lock_file = lock_file

    def discard(self) -> None:
        """Delete what was made by a start that failed; a database that was there before is kept."""
        if self.path in self.made:
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        for path in self.made:
            path.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the claim up. SQLite's connections to the file must be closed before."""
        _unlock(self.handle, _CLAIM_BYTE, 1)
        _close(self.handle)
        os.close(self._lock_file)

    def still_held(self) -> bool:
        """Lock again where the system may have dropped the lock. False: another process has the claim now.

        Only where locks belong to processes does closing any descriptor of the file drop them.
        """
        return not _CLOSING_UNLOCKS or _lock(self.handle, _CLAIM_BYTE, 1)

    def keep_log(self, keep: bool) -> None:
        """With True no connection takes itself for the last one: closing it moves nothing from the write-ahead log into
        the file, and deletes no log. Works on Linux only, and does nothing elsewhere.
        """
        if _HAS_SHARED_LOCKS:
            if keep:
                _lock(self.handle, *_SHARED_BYTES, shared=True)
            else:
                _unlock(self.handle, *_SHARED_BYTES)


def claim(path: Path) -> DatabaseLock:
    """Claim the database `path`, which is made if it does not exist, as an empty file for its owner only.

    Raises `StorageUnavailable` if another server has it, `StoreUrlError` if there can be no such file.
    """
    path = _resolve(path)
    lock_path = path.with_name(f"{path.name}.lock")
    made = tuple(file for file in (path, lock_path) if not os.path.lexists(file))
    with ExitStack() as stack:
        # Older versions lock this file and nothing else. It also keeps a second store of this process from opening the
        # database: closing that descriptor again would drop SQLite's locks.
        lock_file = _open(lock_path)
        stack.callback(os.close, lock_file)
        if not _lock_whole(lock_file):
            raise _in_use(path)
        handle = _open(path)
        if not _lock(handle, _CLAIM_BYTE, 1):
            _close(handle)
            raise _in_use(path)
        stack.pop_all()
    return DatabaseLock(path, handle, lock_file, made)


def _in_use(path: Path) -> StorageUnavailable:
    return StorageUnavailable(f"another server uses {path}; stop it or choose another --data or --storage")


def _resolve(path: Path) -> Path:
    """The path without symbolic links: two names of one database are one database. Raises `StoreUrlError`."""
    try:
        path = path.resolve()
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return path
    # Python before 3.13 raises a RuntimeError for a loop of symbolic links.
    except (OSError, RuntimeError, ValueError) as error:
        detail = describe_os_error(path, error) if isinstance(error, OSError) else f"{path} can't be used: {error}"
        raise StoreUrlError(detail) from error
    if kind == stat.S_IFDIR:
        raise StoreUrlError(f"{path} is a folder, and a file is needed there")
    if kind != stat.S_IFREG:
        raise StoreUrlError(f"{path} is no regular file: name another one")
    return path


def _open(path: Path) -> int:
    try:
        # What people write to each other is nobody else's: SQLite gives its log files the mode of the database.
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUrlError(describe_os_error(path, error)) from error


def _close(handle: int) -> None:
    """Close it, unless this process has the file open elsewhere: POSIX locks of a process, and SQLite's are such, end
    when any descriptor of their file is closed.
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

    # Linux has locks that belong to an open file. Elsewhere they belong to the process.
    _HAS_SHARED_LOCKS = hasattr(fcntl, "F_OFD_SETLK")
    _CLOSING_UNLOCKS = not _HAS_SHARED_LOCKS

    def _lock(handle: int, start: int, length: int, *, shared: bool = False) -> bool:
        """False if somebody else has it. Raises `StorageUnavailable` where there are no locks."""
        try:
            if _HAS_SHARED_LOCKS:
                _set(handle, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, start, length)
            else:
                fcntl.lockf(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB, length, start)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise StorageUnavailable(f"the database can't be locked: {error.strerror}") from error
        return True

    def _unlock(handle: int, start: int, length: int) -> None:
        if _HAS_SHARED_LOCKS:
            _set(handle, fcntl.F_UNLCK, start, length)
        else:
            fcntl.lockf(handle, fcntl.LOCK_UN, length, start)

    def _set(handle: int, kind: int, start: int, length: int) -> None:
        # struct flock; these locks want no process.
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))

    def _lock_whole(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise StorageUnavailable(f"the database can't be locked: {error.strerror}") from error
        return True
