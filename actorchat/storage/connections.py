"""Keeps the connections to a SQLite file: one that writes, in one thread, and a pool of those that read."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Final

from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.database_files import DatabaseFiles, FilesChanged, LogState

__all__ = ["LOG_PAGES", "Connect", "Connections", "LogBusy", "connect"]

_log = logging.getLogger("actorchat.storage")

_BUSY_TIMEOUT: Final = 2.0

LOG_PAGES: Final = 10_000
"""Pages in the write-ahead log from which a commit moves them into the database: 41 MB."""

_LOG_BYTES: Final = (LOG_PAGES + 1_000) * 4_120
"""More than this the log's file keeps only while somebody reads an old state of the database."""

_LARGE_LOG: Final = 8 * _LOG_BYTES

Connect = Callable[[Path, bool], sqlite3.Connection]
"""Opens a connection to a file that exists; with True it must not be able to write."""


def connect(path: Path, read_only: bool, factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    """A connection as the store needs it, to a file that exists. `factory` makes it."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
        factory=factory,
        uri=True,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,  # transactions begin and end where the store says so
        check_same_thread=False,  # used by one thread at a time, which the sqlite3 module can't know
    )
    try:
        if not read_only:
            [(mode,)] = connection.execute("PRAGMA journal_mode=WAL").fetchall()
            if mode != "wal":
                raise StorageUnavailable(
                    f"{path} is on a file system where SQLite can't keep a write-ahead log: use a local disk"
                )
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


class LogBusy(StorageUnavailable):
    """The log was deleted and somebody still reads it: the connection that writes must stay open until it is saved."""


class Connections:
    """Connections to the database whose files are `files`. Only `reading` may be called by several threads."""

    def __init__(self, path: Path, connect: Connect, files: DatabaseFiles) -> None:
        self._path = path
        self._connect = connect
        self._files = files
        self._writer: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []
        self._reading = 0
        # Connections that are open: SQLite deletes the log with the last one.
        self._open = 0
        # Held while readers are taken, returned, or all closed, and while the first connection is opened or any closed.
        self._pool = RLock()
        self._warned_of_size = False

    def open_writer(self) -> sqlite3.Connection:
        """The connection that writes, a new one if the last was closed.

        Raises `sqlite3.Error` and `StorageUnavailable`.
        """
        if self._writer is None:
            with self._pool:
                self._writer = self._opened(read_only=False)
                self._files.leave_alone(False)
                self._files.log_opened()
        return self._writer

    def _opened(self, *, read_only: bool) -> sqlite3.Connection:
        """A new connection. The first one makes the log that is to be looked for from now on."""
        connection = self._connect(self._path, read_only)
        try:
            # Opens the log, if nothing has yet.
            connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
        except BaseException:
            connection.close()
            raise
        with self._pool:
            if not self._open:
                self._files.log_opened()
            self._open += 1
        return connection

    def _closed(self, connection: sqlite3.Connection) -> None:
        with self._pool:
            with suppress(sqlite3.Error):
                connection.close()
            self._open -= 1
            if not self._open:
                self._files.log_closed()

    def close_writer(self) -> None:
        """Roll back and close the connection that writes, if there is one."""
        connection, self._writer = self._writer, None
        if connection is None:
            return
        with suppress(sqlite3.Error):
            # SQLite keeps a closed connection, with its lock, as long as a traceback holds one of its cursors.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if self._files.problem is not None:
                self._leave(connection)
        self._closed(connection)

    def close(self) -> None:
        """Close all. What is at the path is left as it is if it isn't the database that was opened."""
        with suppress(FilesChanged):
            self._files.check()
        if self._files.problem is not None:
            self._files.leave_alone(True)
        with self._pool:
            self._close_idle()
        self.close_writer()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Cursor]:
        """One consistent reading, on a connection that no other thread uses meanwhile."""
        with self._pool:
            if self._files.problem is not None:
                raise FilesChanged(self._files.problem)
            connection = self._idle.pop() if self._idle else None
            fresh = connection is None
            if connection is None and not self._open:
                # Nobody else may make the log meanwhile.
                connection = self._opened(read_only=True)
            self._reading += 1
        done = False
        try:
            if connection is None:
                connection = self._opened(read_only=True)
            if fresh:
                # It was opened by name.
                self._files.check()
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            yield cursor
            cursor.execute("COMMIT")
            done = True
        finally:
            if connection is not None and not done:
                self._closed(connection)
            with self._pool:
                self._reading -= 1
                if connection is not None and done:
                    self._idle.append(connection)

    @contextmanager
    def fresh_reading(self) -> Iterator[sqlite3.Cursor]:
        """As `reading`, on a connection of its own that knows nothing yet: what it reads comes from the files."""
        with self._pool:
            connection = self._opened(read_only=True)
        try:
            self._files.check()
            yield connection.cursor()
        finally:
            self._closed(connection)

    def mend_log(self) -> None:
        """If the write-ahead log or its index was deleted, save what it holds and begin a new one.

        Raises `StorageUnavailable` if that can't be done now, or never because another program has written to one of
        its own.
        """
        state = self._files.log_state()
        if state is LogState.SAME:
            return
        if self._writer is not None:
            [(busy, *_)] = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if busy:
                raise LogBusy(f"the write-ahead log of {self._path} was deleted, and is still being read")
        if state is LogState.FOREIGN:
            self._files.log_replaced()
        with self._pool:
            # As long as one connection is open, new ones would share its idea of the old log.
            if self._reading:
                raise LogBusy(f"the write-ahead log of {self._path} was deleted, and is still being read")
            self._close_idle()
            self.close_writer()
            self.open_writer()
        _log.warning(
            "the write-ahead log of %s was deleted while the server runs; what it held was saved into the database",
            self._path,
        )

    def shrink_log(self) -> None:
        """Give back what the log's file has taken beyond its usual size, if nobody reads from it."""
        size = self._files.log_size()
        if size <= _LOG_BYTES:
            self._warned_of_size = False
        elif self._writer is not None:
            self._checkpoint(self._writer)

    def warn_of_large_log(self) -> None:
        size = self._files.log_size()
        if size > _LARGE_LOG and not self._warned_of_size:
            self._warned_of_size = True
            _log.warning(
                "the write-ahead log of %s has grown to %d MB: another program has been reading the database for long,"
                " such as a backup or a shell; the log shrinks when that ends",
                self._path,
                size // 1_000_000,
            )

    def _leave(self, connection: sqlite3.Connection) -> None:
        """Before `connection` to a file that was moved, deleted or overwritten is closed."""
        self._files.leave_alone(True)
        if not self._files.is_overwritten:
            # Wherever the file is now, it should hold all that was committed.
            self._checkpoint(connection)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Move the log into the database and empty it; less, where somebody reads it. Waits for nobody."""
        connection.execute("PRAGMA busy_timeout=0")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(_BUSY_TIMEOUT * 1000)}")

    def _close_idle(self) -> None:
        while self._idle:
            self._closed(self._idle.pop())
