"""Detects that the files of an open SQLite database were deleted, moved, replaced or overwritten.

SQLite does not notice: it would go on writing to files that nobody finds again.
"""

from __future__ import annotations

import os
from enum import Enum, auto
from pathlib import Path
from threading import Lock
from typing import Final, NoReturn

from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.database_lock import DatabaseLock

__all__ = ["DatabaseFiles", "FilesChanged", "LogState"]

_STAMP_EPOCH: Final = 1_577_836_800
"""2020-01-01. A stamp has 31 bits; its first value is the number of seconds since then."""

_LARGEST_STAMP: Final = 2**31 - 2**24
_HEADER_BYTES: Final = 64
_MAGIC: Final = b"SQLite format 3\0"

_Identity = tuple[int, int]


class FilesChanged(StorageUnavailable):
    """The files at the database's path are not those that were opened."""


class LogState(Enum):
    """Whether the write-ahead log and its index are still the files that the open connections use."""

    SAME = auto()
    GONE = auto()
    """The files were deleted, so only the open connections can reach their content."""
    FOREIGN = auto()
    """Another program has created new files and written to them."""


class DatabaseFiles:
    """The files of the database at `path`. `lock` holds the open file; with None, only SQLite has it open.

    The database contains a stamp, in SQLite's `user_version`, that only grows, so that a copy from another time has
    another stamp. `stamp` is the one in the last transaction. `problem` describes what is wrong, None if nothing is.
    """

    def __init__(self, path: Path, lock: DatabaseLock | None) -> None:
        self._path = path
        self._lock = lock
        self._names = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]
        self._own = _identity(os.stat(path) if lock is None else os.fstat(lock.handle))
        self._log: list[_Identity | None] = [None, None]
        self._time_and_size: tuple[int, int] | None = None
        self.is_overwritten: bool = False
        self._final = False
        self.stamp: int = 0
        self._first_stamp = 0
        self._last_stamp_read: int | None = None
        self._checking = Lock()
        self.problem: str | None = None

    def first_stamp(self, known: int, now: float) -> int:
        """Choose the first stamp of this process; `known` is the database's current one, `now` is epoch seconds."""
        stamp = max(known + 1, int(now) - _STAMP_EPOCH)
        self.stamp = self._first_stamp = stamp if 0 < stamp < _LARGEST_STAMP else 1
        return self.stamp

    def check(self) -> None:
        """Raise `FilesChanged` and set `problem` if `path` is not the open file, or the file was overwritten.

        Usually takes one system call.
        """
        try:
            status = os.stat(self._path)
        except OSError:
            self._fail(
                f"{self._path} was deleted or moved while the server runs: put it back, or stop the server, restore a"
                " backup and start it again"
            )
        if _identity(status) != self._own:
            self._fail(
                f"{self._path} was replaced by another file while the server runs: restart the server to use the new"
                " file, or put the old one back"
            )
        if self._final:
            raise FilesChanged(self.problem)
        time_and_size = status.st_mtime_ns, status.st_size
        if time_and_size != self._time_and_size and self._first_stamp:
            # A checkpoint or another program has written to the file. Several threads check: without this lock, one
            # could compare an old stamp after another thread has seen a newer one.
            with self._checking:
                self._check_stamp()
                self._time_and_size = time_and_size
        self.problem = None

    def fail_restored(self) -> NoReturn:
        """Raise `FilesChanged`, now and at each `check`: another program has restored older content with SQLite."""
        self._final = True
        self._fail(
            f"the content of {self._path} was replaced by an older one while the server runs: restart the server to use"
            " the new content"
        )

    def fail_overwritten(self) -> NoReturn:
        """Raise `FilesChanged`, now and at each `check`: another program has overwritten the file.

        The write-ahead log, which belongs to the old content, is renamed.
        """
        self.is_overwritten = self._final = True
        kept = self._rename_log()
        self._fail(
            f"{self._path} was overwritten while the server runs: restart the server to use the new content"
            + (f"; the log of the old content was renamed to {kept}" if kept else "")
        )

    def fail_log_replaced(self) -> NoReturn:
        """Raise `FilesChanged`, now and at each `check`: another program has created and written its own log."""
        self._final = True
        self._fail(
            f"the write-ahead log of {self._path} was replaced by another program while the server runs: stop both,"
            " run `PRAGMA integrity_check`, and restore a backup if it reports errors"
        )

    def check_lock(self) -> None:
        """Raise `StorageUnavailable` if another process has locked the database."""
        if self._lock is not None and not self._lock.still_held():
            raise StorageUnavailable(f"another server uses {self._path}; stop one of them")

    def log_opened(self) -> None:
        """Remember which files are the log; call it after a connection has used the database."""
        self._log = [_identity_of(name) for name in self._names]

    def log_closed(self) -> None:
        """Forget which files are the log, because SQLite deletes it with the last connection."""
        self._log = [None, None]

    def log_state(self) -> LogState:
        """Whether the log is still the one that was opened."""
        state = LogState.SAME
        for name, own in zip(self._names, self._log, strict=True):
            if own is None:
                continue
            try:
                status = os.stat(name)
            except OSError:
                state = LogState.GONE
                continue
            if _identity(status) != own:
                if status.st_size:
                    return LogState.FOREIGN
                state = LogState.GONE
        return state

    def log_size(self) -> int:
        """The size of the write-ahead log's file in bytes."""
        try:
            return os.stat(self._names[0]).st_size
        except OSError:
            return 0

    def leave_alone(self, leave: bool) -> None:
        """With True, closing connections neither changes nor deletes the files that are at `path` now."""
        if self._lock is not None:
            self._lock.keep_log(leave)

    def _fail(self, problem: str) -> NoReturn:
        self.problem = problem
        raise FilesChanged(problem)

    def _check_stamp(self) -> None:
        stamp = self._read_stamp()
        if stamp is None:
            return
        # A checkpoint of this process writes one of its own stamps, and never an older one than was read before.
        last = self._last_stamp_read
        if last is not None and stamp != last:
            oldest = last if self._first_stamp <= last <= self.stamp else self._first_stamp
            if not oldest <= stamp <= self.stamp:
                self.fail_overwritten()
        self._last_stamp_read = stamp

    def _read_stamp(self) -> int | None:
        """The stamp in the file itself, without the log; -1 if it is not a database, None if it cannot be read here."""
        if self._lock is None or not hasattr(os, "pread"):
            return None
        header = os.pread(self._lock.handle, _HEADER_BYTES, 0)
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            return -1
        return int.from_bytes(header[60:64], "big")

    def _rename_log(self) -> Path | None:
        """Rename the log, so that it is not applied to the new content. Returns the new name, or None without a log."""
        log = self._names[0]
        kept = log.with_name(f"{log.name}.{self.stamp}")
        try:
            if _identity_of(log) != self._log[0] or not os.stat(log).st_size:
                return None
            os.rename(log, kept)
        except OSError:
            return None
        return kept


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _identity_of(path: Path) -> _Identity | None:
    try:
        return _identity(os.stat(path))
    except OSError:
        return None
