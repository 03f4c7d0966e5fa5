"""Tells whether the files of a SQLite database are still those that were opened.

A program that deletes, moves or overwrites them does not ask SQLite, and SQLite does not notice: it goes on writing
where nobody will find it again.
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
"""2020-01-01: stamps are 31 bits, seconds since then or larger."""

_LARGEST_STAMP: Final = 2**31 - 2**24
_HEADER_BYTES: Final = 64
_MAGIC: Final = b"SQLite format 3\0"

_Identity = tuple[int, int]


class FilesChanged(StorageUnavailable):
    """The files are not those that were opened."""


class LogState(Enum):
    """What became of the write-ahead log and its index, which the open connections use."""

    SAME = auto()
    GONE = auto()
    """Deleted: only the open connections reach what they hold."""
    FOREIGN = auto()
    """Another program made new ones, and has written to them."""


class DatabaseFiles:
    """The file at `path`, which is open and claimed as `claim` (None: open by SQLite only), and those beside it.

    The database carries a stamp, SQLite's `user_version`, that only grows: a file that was overwritten by a copy of
    another time has another one. `stamp` is the stamp in the last transaction.
    """

    def __init__(self, path: Path, claim: DatabaseLock | None) -> None:
        self._path = path
        self._claim = claim
        self._names = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]
        self._own = _identity(os.stat(path) if claim is None else os.fstat(claim.handle))
        self._log: list[_Identity | None] = [None, None]
        self._written: tuple[int, int] | None = None
        self.is_overwritten: bool = False
        self._final = False
        self.stamp: int = 0
        self._first = 0
        self._seen: int | None = None
        self._checking = Lock()
        self.problem: str | None = None

    def first_stamp(self, known: int, now: float) -> int:
        """The stamp that this process begins with; `known` is the one that the database has now."""
        stamp = max(known + 1, int(now) - _STAMP_EPOCH)
        self.stamp = self._first = stamp if 0 < stamp < _LARGEST_STAMP else 1
        return self.stamp

    def check(self) -> None:
        """Raise `FilesChanged` if `path` is not the file that is open, or was overwritten. Costs one system call.

        `problem` then says what is wrong, until a call finds nothing.
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
        written = status.st_mtime_ns, status.st_size
        if written != self._written and self._first:
            # A checkpoint, or another program. Readers check too: a stamp is read and compared in one step, or an
            # older one that another thread has read could be taken for the stamp of another file.
            with self._checking:
                self._check_stamp()
                self._written = written
        self.problem = None

    def restored(self) -> NoReturn:
        """Another program has put an older content into the database, by way of SQLite.

        This and the two that follow raise `FilesChanged`, now and at each `check`.
        """
        self._final = True
        self._fail(
            f"{self._path} was given an older content while the server runs: restart the server to use what is there"
            " now"
        )

    def overwritten(self) -> NoReturn:
        """Another program has written to the file itself. The log, which is of the old content, is renamed."""
        self.is_overwritten = self._final = True
        kept = self._set_log_aside()
        self._fail(
            f"{self._path} was overwritten while the server runs: restart the server to use what is there now"
            + (f"; the log of the old content was renamed to {kept}" if kept else "")
        )

    def log_replaced(self) -> NoReturn:
        """Another program has written to a log of its own."""
        self._final = True
        self._fail(
            f"the write-ahead log of {self._path} was replaced by another program's while the server runs: stop both,"
            " see what `PRAGMA integrity_check` says, and restore a backup if anything"
        )

    def check_claim(self) -> None:
        """Raise `StorageUnavailable` if another process has got the claim."""
        if self._claim is not None and not self._claim.still_held():
            raise StorageUnavailable(f"another server uses {self._path}; stop one of them")

    def log_opened(self) -> None:
        """A connection has just used the log: from now on this is the log to look for."""
        self._log = [_identity_of(name) for name in self._names]

    def log_closed(self) -> None:
        """No connection is open any more: SQLite has deleted the log, and the next connection makes another."""
        self._log = [None, None]

    def log_state(self) -> LogState:
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
        """Bytes of the write-ahead log's file."""
        try:
            return os.stat(self._names[0]).st_size
        except OSError:
            return 0

    def leave_alone(self, leave: bool) -> None:
        """With True, closing connections changes and deletes nothing that is at `path` now."""
        if self._claim is not None:
            self._claim.keep_log(leave)

    def _fail(self, problem: str) -> NoReturn:
        self.problem = problem
        raise FilesChanged(problem)

    def _check_stamp(self) -> None:
        stamp = self._read_stamp()
        if stamp is None:
            return
        # A checkpoint writes the newest of the stamps that this process has given.
        if self._seen is not None and stamp != self._seen:
            oldest = self._seen if self._first <= self._seen <= self.stamp else self._first
            if not oldest <= stamp <= self.stamp:
                self.overwritten()
        self._seen = stamp

    def _read_stamp(self) -> int | None:
        """The stamp in the file itself, without the log; -1 if the file is no database. None: it can't be read here."""
        if self._claim is None or not hasattr(os, "pread"):
            return None
        header = os.pread(self._claim.handle, _HEADER_BYTES, 0)
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            return -1
        return int.from_bytes(header[60:64], "big")

    def _set_log_aside(self) -> Path | None:
        """Rename the log, so that it is not applied to a database that it doesn't belong to."""
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
