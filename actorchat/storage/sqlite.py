"""Owns a SQLite file: its connections, its transactions, and what each of its failures means.

Decides nothing. One connection writes, in one thread; each reading thread has its own. A failed write leaves
nothing behind but the question whether COMMIT was durable, and `recover` answers it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import UUID

from actorchat.chat.model import ChatState, Identity, PersonRecord, Policy
from actorchat.chat.operations import Operation, RefuseMessage
from actorchat.chat.ports import (
    PAGE_BYTES,
    ChatFilter,
    ChatPage,
    FeedSnapshot,
    OperatorRecord,
    Page,
    StorageUnavailable,
)
from actorchat.protocol import Role
from actorchat.storage.batch import decide_each
from actorchat.storage.explaining import explain_os_error, explain_sqlite_error, fault_beside
from actorchat.storage.rows import person_key
from actorchat.storage.sql_batch import SqlBatches
from actorchat.storage.sql_reads import SqlReads
from actorchat.storage.sql_start import prepare_start
from actorchat.storage.statements import Statements
from actorchat.storage.store import Batch, CommitInDoubt, Decided, StoreUrlError
from actorchat.storage.upgrade import check_owner, upgrade

__all__ = ["Connect", "SqliteStore", "connect"]

_log = logging.getLogger("actorchat.storage")

_BUSY_TIMEOUT: Final = 2.0

Connect = Callable[[Path, bool], sqlite3.Connection]
"""Opens a connection to a file that exists; with True it must not be able to write."""


def connect(path: Path, read_only: bool, factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    """A connection as the store needs it, to a file that exists. `factory` makes it."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
        factory=factory,
        uri=True,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,  # transactions begin and end where this module says so
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
            connection.execute("PRAGMA wal_autocheckpoint=10000")
    except BaseException:
        connection.close()
        raise
    return connection


class SqliteStore:
    """A `Store` in the file `path`, which is made if it is missing, with its schema brought up to date.

    Raises `StoreUrlError` if the path can't be a database, `StorageUnavailable` if it can't be opened now.
    `corrected_counters` tells how many counters differed from the chats when they were recounted at the
    start.
    """

    def __init__(
        self, path: Path, policy: Policy, connect: Connect = connect, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._policy = policy
        self._connect = connect
        self._clock = clock
        self._statements = Statements()
        self._batches = SqlBatches(self._statements, policy)
        self._readers: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._data_version: int | None = None
        # Whether the cached rows are as committed, also while there is no connection.
        self._rows_hold = True
        self.corrected_counters = 0
        _make_file(path)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def commit(self, operations: Sequence[Operation], batch: Batch) -> list[Decided]:
        with self._outages_reported():
            cursor = self._begin()
            changes = None
            try:
                decided, changes = self._batches.store(cursor, operations, batch.now)
            except Exception as error:
                if _is_outage(error):
                    raise
                # decide_each logs each culprit with its own traceback.
                cursor.execute("ROLLBACK")
                cursor = self._begin(fresh=True)
                self._rows_hold = False
                decided = decide_each(operations, lambda operation: self._alone(cursor, operation, batch.now))
            if changes is not None and changes.nothing:
                # No disk is waited for, and nothing can be in doubt.
                cursor.execute("ROLLBACK")
                self._batches.committed(changes)
                return decided
            last_id = (self._batches.rows if changes is None else changes).next_message_id - 1
            cursor.execute(self._statements.put_batch, (batch.writer, batch.number, last_id, int(batch.now), 0))
        try:
            cursor.execute("COMMIT")
        except (sqlite3.Error, MemoryError) as error:
            self._disconnect()
            raise CommitInDoubt(decided) from error
        if changes is not None:
            self._batches.committed(changes)
        self._rows_hold = True
        return decided

    def recover(self, batch: Batch) -> bool:
        self._disconnect()
        with self._outages_reported():
            # What is cached is kept as it is until the next commit: `is_new` may be asked in another thread.
            cursor = self._open_writer().cursor()
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute(self._statements.batch, (batch.writer,))
            known = cursor.fetchall()
            # What a failed COMMIT left in the log could still come to life after a crash, or be lost if it is
            # there: a commit over it, or after it, is what makes either answer final.
            cursor.execute(self._statements.fence, (batch.writer, 0, 0, int(batch.now), 0))
            cursor.execute("COMMIT")
        return bool(known) and known[0][0] == batch.number

    def is_new(self, operation: RefuseMessage) -> bool:
        message = operation.message
        if message.client_id is None:
            return True
        rows = self._batches.rows
        return self._rows_hold and rows.is_new_key(message.chat, person_key(message.author), message.client_id)

    def look_up(self, operations: Sequence[RefuseMessage]) -> list[Decided]:
        with self._reading_cursor() as cursor:
            return SqlBatches(self._statements, self._policy).look_up(cursor, operations)

    def close(self) -> None:
        while self._readers:
            self._readers.pop().close()
        self._disconnect()

    def chat(self, chat: UUID) -> ChatState | None:
        with self._reading() as reads:
            return reads.chat(chat)

    def newest(self, chat: UUID, role: Role, *, before: int | None, limit: int, size: int = PAGE_BYTES) -> Page | None:
        with self._reading() as reads:
            return reads.newest(chat, role, before=before, limit=limit, size=size)

    def after(self, chat: UUID, role: Role, *, after: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        with self._reading() as reads:
            return reads.after(chat, role, after=after, limit=limit, size=size)

    def since(self, chat: UUID, *, rev: int, limit: int) -> Page | None:
        with self._reading() as reads:
            return reads.since(chat, rev=rev, limit=limit)

    def authored(
        self, chat: UUID, author_role: Role, *, after: int, upto: int, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        with self._reading() as reads:
            return reads.authored(chat, author_role, after=after, upto=upto, limit=limit, size=size)

    def chats(self, which: ChatFilter) -> ChatPage:
        with self._reading() as reads:
            return reads.chats(which)

    def person(self, identity: Identity) -> PersonRecord | None:
        with self._reading() as reads:
            return reads.person(identity)

    def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        with self._reading() as reads:
            return reads.operators(sources)

    def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        with self._reading() as reads:
            return reads.feed_snapshot(sources, limit)

    def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        with self._reading() as reads:
            return reads.unused(before, limit)

    def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        with self._reading() as reads:
            return reads.due(now, limit)

    def _begin(self, *, fresh: bool = False) -> sqlite3.Cursor:
        """Begin a transaction that nobody else can write beside. `fresh` forgets what is cached."""
        cursor = self._open_writer().cursor()
        cursor.execute("BEGIN IMMEDIATE")
        # Moves when another connection has written: then nothing that is cached holds.
        [(version,)] = cursor.execute("PRAGMA data_version").fetchall()
        if fresh or version != self._data_version:
            self._batches.forget(cursor)
            self._data_version = version
        return cursor

    def _open_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            self._writer = self._connect(self._path, False)
            self._data_version = None
        return self._writer

    def _alone(self, cursor: sqlite3.Cursor, operation: Operation, now: float) -> Decided:
        cursor.execute("SAVEPOINT alone")
        try:
            [decided], changes = self._batches.store(cursor, [operation], now)
        except Exception as error:
            if _is_outage(error):
                raise StorageUnavailable(str(error)) from error
            cursor.execute("ROLLBACK TO alone")
            raise
        finally:
            if cursor.connection.in_transaction:
                cursor.execute("RELEASE alone")
        # The next operation must see it. Should the transaction fail, the cache is dropped with its
        # connection.
        self._batches.committed(changes)
        return decided

    def _disconnect(self) -> None:
        connection, self._writer = self._writer, None
        if connection is None:
            return
        with suppress(sqlite3.Error):
            # SQLite keeps a closed connection, with its lock, as long as a traceback holds one of its
            # cursors.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        with suppress(sqlite3.Error):
            connection.close()

    @contextmanager
    def _outages_reported(self) -> Iterator[None]:
        try:
            yield
        except StorageUnavailable:
            self._disconnect()
            raise
        except Exception as error:
            self._disconnect()
            if not _is_outage(error):
                raise
            raise StorageUnavailable(f"{self._path}: {error}") from error

    @contextmanager
    def _reading(self) -> Iterator[SqlReads]:
        with self._reading_cursor() as cursor:
            yield SqlReads(cursor, self._statements, self._clock())

    @contextmanager
    def _reading_cursor(self) -> Iterator[sqlite3.Cursor]:
        """One consistent reading, on a connection that no other thread uses meanwhile."""
        connection = None
        try:
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._connect(self._path, True)
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            yield cursor
            cursor.execute("COMMIT")
        except BaseException as error:
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()
            if isinstance(error, Exception) and _is_outage(error):
                raise StorageUnavailable(f"{self._path}: {error}") from error
            raise
        self._readers.append(connection)

    def _prepare(self) -> None:
        if (fault := fault_beside(self._path)) is not None:
            raise StoreUrlError(fault)
        try:
            # Before the writer, which would change the journal mode of a database that is not ours.
            with closing(self._connect(self._path, True)) as reader:
                check_owner(reader, self._path)
            self._writer = self._connect(self._path, False)
            upgrade(self._writer, self._path)
            cursor = self._begin()
            self.corrected_counters = self._put_in_order(cursor)
            cursor.execute("COMMIT")
            self._batches.forget(cursor)
        except sqlite3.Error as error:
            raise explain_sqlite_error(self._path, error) from error

    def _put_in_order(self, cursor: sqlite3.Cursor) -> int:
        try:
            return prepare_start(cursor, self._statements, self._policy, int(self._clock()))
        except (ValueError, TypeError, LookupError) as error:
            raise StoreUrlError(
                f"{self._path} holds a value that actorchat did not write ({error}): it is damaged; restore a backup"
            ) from error


def _is_outage(error: Exception) -> bool:
    """Whether the database failed, not a value: a full disk, an IO error, a lock, a damaged file."""
    if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError):
        return False
    return isinstance(error, sqlite3.DatabaseError | MemoryError)


def _make_file(path: Path) -> None:
    try:
        # What people write to each other is nobody else's: SQLite gives its log files the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreUrlError(explain_os_error(path, error)) from error
