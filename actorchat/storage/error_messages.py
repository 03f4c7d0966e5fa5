"""Translates errors of the operating system and of SQLite into one line that says what is wrong and what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import sys
from pathlib import Path
from typing import Final

from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.store import StoreUrlError

__all__ = ["describe_os_error", "describe_sqlite_error", "fault_beside"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC})
_MIN_FREE_BYTES: Final = 256 * 1024
"""SQLite reports some full disks as I/O errors; with less free space than this, the disk is assumed to be full."""

_SUFFIXES: Final = ("-wal", "-shm", "-journal")
"""The suffixes of the files that SQLite keeps next to a database."""


def describe_os_error(path: Path, error: OSError) -> str:
    """One line that starts with the path at fault and says what is wrong and what to do."""
    folder = path.parent
    if error.errno == errno.ENOENT:
        if path.is_symlink():
            return f"{path} is a symbolic link to a file that does not exist"
        return f"{folder} does not exist: name a file in an existing folder"
    if error.errno in (errno.EACCES, errno.EPERM):
        return _denied(path)
    if error.errno == errno.EROFS:
        return f"{path} is on a file system that is read-only"
    if error.errno in _FULL:
        return f"{path} cannot be written because the disk is full: free some space"
    if error.errno == errno.EISDIR:
        return f"{path} is a folder, but a file is needed there"
    if error.errno == errno.ENOTDIR:
        return f"{path} cannot exist: a part of the path is a file, not a folder"
    if error.errno == errno.EMFILE:
        return f"{path} cannot be opened because this process has too many open files: raise the limit (ulimit -n)"
    return f"{path} cannot be used: {error.strerror or error}"


def describe_sqlite_error(path: Path, error: sqlite3.Error) -> StoreUrlError | StorageUnavailable:
    """The exception to raise instead of `error` if the database at `path` cannot be opened."""
    name = str(getattr(error, "sqlite_errorname", ""))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StorageUnavailable(
            f"{path} is locked by another program: close the program that has it open, such as a database browser, the"
            " sqlite3 shell or a backup"
        )
    if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and _is_full(path)):
        return StorageUnavailable(f"{path} cannot be written because the disk is full: free some space")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return StoreUrlError(
            f"{path} is not an SQLite database, or is damaged ({error}): restore a backup, or name another file"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return StorageUnavailable(fault_beside(path) or f"{path} cannot be used: {error}")
    if name == "SQLITE_ERROR":
        # A table or column does not exist.
        return StoreUrlError(
            f"{path} does not have the tables of actorchat, or is damaged ({error}): restore a backup, or name"
            " another file"
        )
    return StorageUnavailable(f"{path} cannot be used: {error}")


def fault_beside(path: Path) -> str | None:
    """Describe what is wrong with the database's folder or with SQLite's other files in it; None if nothing is."""
    if not _may(path.parent, os.W_OK | os.X_OK):
        return _denied(path.parent)
    for suffix in _SUFFIXES:
        file = path.with_name(path.name + suffix)
        try:
            mode = file.stat().st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            return describe_os_error(file, error)
        if not stat.S_ISREG(mode):
            return f"{file} is not a file, but SQLite needs a file with that name: move it elsewhere"
        if not _may(file, os.R_OK | os.W_OK):
            return _denied(file)
    return None


def _is_full(path: Path) -> bool:
    if sys.platform == "win32":
        return False
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _MIN_FREE_BYTES


def _denied(path: Path) -> str:
    """Describe the first part of `path` that this user may not access, with its owner and mode."""
    path = path.absolute()
    parts = [part for part in (*reversed(path.parents), path) if os.path.exists(part)]
    for part in parts:
        needed = os.X_OK
        if part == parts[-1]:
            needed = os.W_OK | (os.X_OK if os.path.isdir(part) else os.R_OK)
        if not _may(part, needed):
            status = part.stat()
            return (
                f"{part} may not be used by {_user_name()}: it belongs to {_owner_name(status.st_uid)} and has the mode"
                f" {stat.S_IMODE(status.st_mode):04o}"
            )
    return f"{path} may not be used by {_user_name()}: permission denied"


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _user_name() -> str:
    return _owner_name(os.geteuid()) if hasattr(os, "geteuid") else "this user"


def _owner_name(uid: int) -> str:
    if sys.platform == "win32":
        return "another user"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
