"""Manages the connections to a SQLite file: one for writing, used by one thread, and a pool for reading."""

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
"""A commit that leaves more pages in the write-ahead log copies them into the database; this many take 41 MB."""

_LOG_BYTES: Final = (LOG_PAGES + 1_000) * 4_120
"""The log's file is larger than this only while a reader still uses an old state of the database."""

_LARGE_LOG: Final = 8 * _LOG_BYTES

Connect = Callable[[Path, bool], sqlite3.Connection]
"""Opens a connection to an existing file; with True, a read-only one."""


def connect(path: Path, read_only: bool, factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    """Open a connection with the store's settings to an existing file."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
        factory=factory,
        uri=True,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,  # the store begins and ends transactions itself
        check_same_thread=False,  # the store lets only one thread at a time use it
    )
    try:
        if not read_only:
            [(mode,)] = connection.execute("PRAGMA journal_mode=WAL").fetchall()
            if mode != "wal":
                raise StorageUnavailable(
                    f"{path} is on a file system that does not support SQLite's write-ahead log: use a local disk"
                )
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


class LogBusy(StorageUnavailable):
    """The log was deleted but is still being read. The writing connection has to stay open until the log is saved."""


class Connections:
    """The connections to the database at `path`. Only `reading` may be called by several threads at once."""

    def __init__(self, path: Path, connect: Connect, files: DatabaseFiles) -> None:
        self._path = path
        self._connect = connect
        self._files = files
        self._writer: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []
        self._reading = 0
        # The number of open connections: SQLite deletes the log when the last one is closed.
        self._open = 0
        # Held to take or return a reader, to close all readers, to open the first connection, and to close any.
        self._pool = RLock()
        self._warned_of_size = False

    def open_writer(self) -> sqlite3.Connection:
        """Return the writing connection, a new one if there is none.

        Raises `sqlite3.Error` and `StorageUnavailable`.
        """
        if self._writer is None:
            with self._pool:
                self._writer = self._open_connection(read_only=False)
                self._files.leave_alone(False)
                self._files.log_opened()
        return self._writer

    def _open_connection(self, *, read_only: bool) -> sqlite3.Connection:
        """Open a connection. The first one creates the log, whose identity is remembered."""
        connection = self._connect(self._path, read_only)
        try:
            # Any query makes SQLite open the log.
            connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
        except BaseException:
            connection.close()
            raise
        with self._pool:
            if not self._open:
                self._files.log_opened()
            self._open += 1
        return connection

    def _close_connection(self, connection: sqlite3.Connection) -> None:
        with self._pool:
            with suppress(sqlite3.Error):
                connection.close()
            self._open -= 1
            if not self._open:
                self._files.log_closed()

    def close_writer(self) -> None:
        """Roll back and close the writing connection, if there is one."""
        connection, self._writer = self._writer, None
        if connection is None:
            return
        with suppress(sqlite3.Error):
            # SQLite keeps a closed connection, and its lock, until its last cursor is gone, which a traceback may hold.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if self._files.problem is not None:
                self._prepare_to_abandon(connection)
        self._close_connection(connection)

    def close(self) -> None:
        """Close all connections. If another file is at `path` by now, it is not changed."""
        with suppress(FilesChanged):
            self._files.check()
        if self._files.problem is not None:
            self._files.leave_alone(True)
        with self._pool:
            self._close_idle()
        self.close_writer()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Cursor]:
        """A read transaction, on a connection that no other thread uses during the block."""
        with self._pool:
            if self._files.problem is not None:
                raise FilesChanged(self._files.problem)
            connection = self._idle.pop() if self._idle else None
            fresh = connection is None
            if connection is None and not self._open:
                # Opened while the pool is held, so that only one thread creates the log.
                connection = self._open_connection(read_only=True)
            self._reading += 1
        done = False
        try:
            if connection is None:
                connection = self._open_connection(read_only=True)
            if fresh:
                # It was opened by its path, which may name another file by now.
                self._files.check()
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            yield cursor
            cursor.execute("COMMIT")
            done = True
        finally:
            if connection is not None and not done:
                self._close_connection(connection)
            with self._pool:
                self._reading -= 1
                if connection is not None and done:
                    self._idle.append(connection)

    @contextmanager
    def fresh_reading(self) -> Iterator[sqlite3.Cursor]:
        """A new connection without cached pages, so that everything is read from the files."""
        with self._pool:
            connection = self._open_connection(read_only=True)
        try:
            self._files.check()
            yield connection.cursor()
        finally:
            self._close_connection(connection)

    def mend_log(self) -> None:
        """If the write-ahead log or its index was deleted, save its content into the database and create a new one.

        Raises `LogBusy` if that is not possible yet, and `FilesChanged` if another program has created and written a
        new log, so that it is not possible at all.
        """
        state = self._files.log_state()
        if state is LogState.SAME:
            return
        if self._writer is not None:
            [(busy, *_)] = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if busy:
                raise LogBusy(f"the write-ahead log of {self._path} was deleted, and is still being read")
        if state is LogState.FOREIGN:
            self._files.fail_log_replaced()
        with self._pool:
            # Close all connections, because a new one would share the old log with any that is still open.
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
        """Truncate the log's file if it is larger than usual and nothing reads from it."""
        size = self._files.log_size()
        if size <= _LOG_BYTES:
            self._warned_of_size = False
        elif self._writer is not None:
            self._checkpoint(self._writer)

    def warn_of_large_log(self) -> None:
        """Log a warning if the log's file is very large; once, until it has shrunk."""
        size = self._files.log_size()
        if size > _LARGE_LOG and not self._warned_of_size:
            self._warned_of_size = True
            _log.warning(
                "the write-ahead log of %s has grown to %d MB: another program, such as a backup or a shell, has been"
                " reading the database for a long time; the log shrinks when that ends",
                self._path,
                size // 1_000_000,
            )

    def _prepare_to_abandon(self, connection: sqlite3.Connection) -> None:
        """Prepare to close a connection whose file was moved, deleted or overwritten."""
        self._files.leave_alone(True)
        if not self._files.is_overwritten:
            # The file may have been moved: save all commits into it.
            self._checkpoint(connection)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Copy the log into the database and truncate it, as far as readers allow. Does not wait for them."""
        connection.execute("PRAGMA busy_timeout=0")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(_BUSY_TIMEOUT * 1000)}")

    def _close_idle(self) -> None:
        while self._idle:
            self._close_connection(self._idle.pop())
