"""Stores chats in a SQLite file, in one transaction per batch, and handles outages and damage of the file.

After a failed COMMIT it is unknown whether the batch is stored; `recover` finds out.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from math import inf
from pathlib import Path
from typing import Final, ParamSpec, TypeVar
from uuid import UUID

from actorchat.chat.commit_log import LogEntry, TooOld, Trimmed
from actorchat.chat.model import (
    ChatState,
    Policy,
)
from actorchat.chat.operations import Changed, Decision, Operation, Refused, RefuseMessage, Undecided, refusal_of
from actorchat.chat.ports import (
    FeedSnapshot,
    StorageDamaged,
    StorageUnavailable,
)
from actorchat.protocol import RefusalCode
from actorchat.storage.commit_recorder import CommitRecorder
from actorchat.storage.connections import Connect, Connections, LogBusy, connect
from actorchat.storage.database_files import DatabaseFiles
from actorchat.storage.database_lock import DatabaseLock
from actorchat.storage.decider import decide_each
from actorchat.storage.error_messages import describe_os_error, describe_sqlite_error, fault_beside
from actorchat.storage.log_tables import prepare_log, trim_log
from actorchat.storage.row_cache import person_key
from actorchat.storage.row_mapping import DamagedRow, Row
from actorchat.storage.schema_upgrade import check_owner, upgrade
from actorchat.storage.sql_reads import SqlReads
from actorchat.storage.sql_writer import SqlWriter
from actorchat.storage.startup_repair import database_identity, prepare_start
from actorchat.storage.statements import Statements
from actorchat.storage.store import (
    Batch,
    CommitInDoubt,
    DecisionAndCounters,
    StoreUrlError,
)
from actorchat.storage.stored_reads import StoredReads

__all__ = ["SqliteStore"]

_log = logging.getLogger("actorchat.storage")

P = ParamSpec("P")
T = TypeVar("T")

_NO_TEXT: Final = "Could not decode"
"""How errors of the sqlite3 module begin that mean that text in a row is not UTF-8. They have no SQLite code."""

_LOOK_PERIOD: Final = 1.0
"""Seconds between two checks of the write-ahead log's files."""

_MOST_DAMAGED: Final = 1_000
"""The number of damaged chats that are remembered. Further ones are found again for each operation, and not logged."""

_READ_RETRY: Final = 10.0
"""Seconds for which operations of a chat are refused after the disk has failed to read its rows."""

_MOST_READ_ERRORS: Final = 3
"""With more chats of one batch that the disk fails to read, storage as a whole is away."""

_READ_ERRORS: Final = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})

_STAMP_PERIOD: Final = 10.0
"""Seconds after which a commit changes the stamp, by which the database differs from older copies of it."""


_IS_DAMAGED: Final = "a part of the database that this needs is damaged"
_DAMAGED: Final = Refused(RefusalCode.STORAGE_UNAVAILABLE, _IS_DAMAGED)


class _RowsDamaged(StorageUnavailable):
    """`operation` needs damaged rows."""

    def __init__(self, operation: Operation) -> None:
        super().__init__("damaged rows")
        self.operation = operation


class SqliteStore(StoredReads):
    """A `Store` in the file `path`, which is created if it is missing and upgraded if its schema is older.

    With `brokers`, their names, it is a `StoredLog` too; without any it keeps no log and forgets an older one.

    Raises `StoreUrlError` if the path can't be a database, `StorageUnavailable` if it can't be opened now.
    `corrected_counters` is the number of counters that differed from the chats when they were recounted at the start.
    `identity` is the random name of the database, which its backups have too.
    `messages_stored` counts the messages that were committed since then.
    """

    def __init__(
        self,
        path: Path,
        policy: Policy,
        connect: Connect = connect,
        clock: Callable[[], float] = time.time,
        claim: DatabaseLock | None = None,
        brokers: Collection[str] = (),
    ) -> None:
        self._path = path
        self._brokers = brokers
        self._epoch = 0
        self._policy = policy
        self._clock = clock
        self._statements = Statements()
        self._batches = SqlWriter(self._statements, policy)
        self._data_version: int | None = None
        # Whether the cached rows equal the committed ones. Also valid while there is no connection.
        self._rows_hold = True
        self.corrected_counters: int = 0
        self.identity: str = ""
        self.messages_stored: int = 0
        self._in_doubt = 0
        self._looked_at = self._stamped_at = -inf
        self._last: Batch | None = None
        # Chats with damaged rows (None stands for people), and the time until which their operations are refused
        # without another attempt.
        self._damaged: dict[UUID | None, float] = {}
        self._left_out: set[str] = set()
        _make_file(path)
        self._files = DatabaseFiles(path, claim)
        self._connections = Connections(path, connect, self._files)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
        # The places of operations that need damaged rows. They are left out of the batch and refused.
        refused: set[int] = set()
        if self._damaged:
            for place, operation in enumerate(operations):
                chat = getattr(operation, "chat", None)
                if chat is not None and batch.now < self._damaged.get(chat, -inf):
                    refused.add(place)
        read_errors = 0
        while True:
            sound = operations
            if refused:
                sound = [operation for place, operation in enumerate(operations) if place not in refused]
            try:
                return self._with_refused(self._commit(sound, batch), refused, operations)
            except CommitInDoubt as doubt:
                raise CommitInDoubt(self._with_refused(doubt.decided, refused, operations)) from doubt.__cause__
            except _RowsDamaged as damage:
                read_errors += isinstance(damage.__cause__, Exception) and _is_read_error(damage.__cause__)
                if read_errors > _MOST_READ_ERRORS:
                    raise StorageUnavailable(f"{self._path}: {damage.__cause__}") from damage.__cause__
                chat = getattr(damage.operation, "chat", None)
                refused.update(
                    place
                    for place, each in enumerate(operations)
                    if each is damage.operation or (chat is not None and getattr(each, "chat", None) == chat)
                )

    def _with_refused(
        self, decided: list[DecisionAndCounters], refused: set[int], operations: Sequence[Operation]
    ) -> list[DecisionAndCounters]:
        """`decided`, with refusals at the places `refused`, which were left out of the batch."""
        if not refused:
            return decided
        others = iter(decided)
        return [
            (self._refusal(operation), ()) if place in refused else next(others)
            for place, operation in enumerate(operations)
        ]

    def _refusal(self, operation: Operation) -> Decision:
        """The decision about an operation that needs damaged rows, which may hold the message of its `client_id`."""
        refusal = refusal_of(operation, _DAMAGED)
        if refusal is None:
            return _DAMAGED
        return refusal.refusal if self.is_new(refusal) else Undecided(_IS_DAMAGED)

    def _commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
        """Commit `operations`. Raises `_RowsDamaged` for the first that needs damaged rows; then none is stored."""
        with self._outages_reported():
            if abs(batch.now - self._looked_at) >= _LOOK_PERIOD:
                self._looked_at = batch.now
                self._look_at_files()
            cursor = self._begin()
            changes = None
            recorder = CommitRecorder(batch.now, self._epoch) if self._brokers else None
            try:
                decided, changes = self._batches.store(cursor, operations, batch.now)
                if recorder is not None:
                    recorder.add(decided, changes, self._batches.rows)
            except Exception as error:
                if _is_outage(error) and not _is_damage(error) and not _is_read_error(error):
                    raise
                # A page that is damaged or cannot be read concerns only the operations that need it. `decide_each` logs
                # all other errors. After some of them SQLite has rolled back already.
                if cursor.connection.in_transaction:
                    cursor.execute("ROLLBACK")
                cursor = self._begin(fresh=True)
                self._rows_hold = False
                recorder = CommitRecorder(batch.now, self._epoch) if self._brokers else None
                decided = decide_each(operations, lambda operation: self._alone(cursor, operation, batch.now, recorder))
            # Without this check, SQLite would commit to a file that was deleted or replaced, and lose the batch.
            self._files.check()
            if changes is not None and changes.nothing:
                # Without a COMMIT nothing waits for the disk and nothing can be in doubt.
                cursor.execute("ROLLBACK")
                self._batches.committed(changes)
                return decided
            last_id = (self._batches.rows if changes is None else changes).next_message_id - 1
            cursor.execute(self._statements.put_batch, (batch.writer, batch.number, last_id, int(batch.now), 0))
            if recorder is not None and (payload := recorder.payload()) is not None:
                cursor.execute(self._statements.insert_entry, (batch.writer, batch.number, batch.now, payload))
            if abs(batch.now - self._stamped_at) >= _STAMP_PERIOD:
                self._stamped_at = batch.now
                self._stamp(cursor, self._files.stamp + 1)
        try:
            cursor.execute("COMMIT")
        except (sqlite3.Error, MemoryError) as error:
            self._disconnect()
            self._in_doubt = _count_messages(decided) if changes is None else len(changes.messages)
            raise CommitInDoubt(decided) from error
        if changes is not None:
            self._batches.committed(changes)
        self.messages_stored += _count_messages(decided) if changes is None else len(changes.messages)
        self._rows_hold = True
        self._last = batch
        return decided

    def recover(self, batch: Batch) -> bool:
        with self._outages_reported():
            self._files.check()
            self._look_at_files()
            self._disconnect()
            # The cache stays unchanged until the next commit, because another thread may call `is_new`.
            cursor = self._connections.open_writer().cursor()
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute(self._statements.batch, (batch.writer,))
            known = cursor.fetchall()
            self._check_history(batch.writer, known)
            # After a crash, SQLite could still apply or lose the part of the log that a failed COMMIT wrote. Another
            # commit after it makes the answer final.
            cursor.execute(self._statements.fence, (batch.writer, 0, 0, int(batch.now), 0))
            cursor.execute("COMMIT")
        stored = bool(known) and known[0][0] == batch.number
        if stored:
            # The cache lacks this batch until the next commit reads it, and that may fail.
            self._rows_hold = False
            self._last = batch
            self.messages_stored += self._in_doubt
        self._in_doubt = 0
        return stored

    def tidy(self) -> None:
        """Check the files. Call this about once a second while nothing is committed.

        Raises `StorageUnavailable` if they are not those that were opened.
        """
        with self._outages_reported():
            self._files.check()
            self._look_at_files()
            self._connections.shrink_log()

    def is_new(self, operation: RefuseMessage) -> bool:
        message = operation.message
        if message.client_id is None:
            return True
        rows = self._batches.rows
        return self._rows_hold and rows.is_new_key(message.chat, person_key(message.author), message.client_id)

    def look_up(self, operations: Sequence[RefuseMessage]) -> list[DecisionAndCounters]:
        with self._reading_cursor() as cursor:
            return SqlWriter(self._statements, self._policy).look_up(cursor, operations)

    def close(self) -> None:
        self._connections.close()

    def positions(self) -> Mapping[str, int]:
        with self._reading_cursor() as cursor:
            cursor.execute(self._statements.relayed)
            return dict(cursor.fetchall())

    def entries(self, after: int, size: int) -> Sequence[LogEntry]:
        found: list[LogEntry] = []
        with self._reading_cursor() as cursor:
            cursor.execute(self._statements.entries, (after,))
            while size > 0 and (row := cursor.fetchone()) is not None:
                entry = LogEntry(*row)
                found.append(entry)
                size -= len(entry.payload)
        return found

    def record_relayed(self, positions: Mapping[str, int], expired: TooOld) -> Trimmed:
        if self._data_version is None:
            # The next commit reconnects. Until then the cache must not change, and a commit may be in doubt.
            raise StorageUnavailable(f"{self._path} is away")
        with self._outages_reported():
            cursor = self._begin()
            self._files.check()
            trimmed = trim_log(cursor, self._statements, positions, expired)
            cursor.execute("COMMIT")
        return trimmed

    def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        with suppress(StorageDamaged), self._reading() as reads:
            return reads.feed_snapshot(sources, limit)
        # Read each chat by itself, because consoles must open even if a page of chats is damaged.
        with self._reading() as reads:
            numbers = reads.active_numbers(sources)
        chats = [chat for _, chat in self._read_each(numbers)]
        with self._reading() as reads:
            return reads.feed_snapshot(sources, limit, chats)

    def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        with suppress(StorageDamaged), self._reading() as reads:
            return reads.unused(before, limit)
        with self._reading() as reads:
            numbers = reads.unused_numbers(before, limit + _MOST_DAMAGED)
        return tuple([chat.uuid for _, chat in islice(self._read_each(numbers), limit)])

    def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        with suppress(StorageDamaged), self._reading() as reads:
            return reads.due(now, limit)
        with self._reading() as reads:
            numbers = reads.due_numbers(now, limit + _MOST_DAMAGED)
        return tuple([chat.uuid for _, chat in islice(self._read_each(numbers), limit)])

    def _read_each(self, numbers: Iterable[int]) -> Iterator[tuple[int, ChatState]]:
        """Read each chat by itself, and leave out those whose row or page is damaged, with a line in the log."""
        for number in numbers:
            try:
                with self._reading() as reads:
                    chats = reads.numbered(number)
            except StorageDamaged as error:
                self._warn_of_row(f"number {number}", error)
            else:
                yield from ((number, chat) for chat in chats)

    def probe(self) -> None:
        with self._outages_named(), self._connections.fresh_reading() as cursor:
            for statement in self._statements.probes:
                cursor.execute(statement).fetchall()

    def _begin(self, *, fresh: bool = False) -> sqlite3.Cursor:
        """Begin a transaction that excludes other writers. With `fresh`, clear the cache."""
        cursor = self._connections.open_writer().cursor()
        cursor.execute("BEGIN IMMEDIATE")
        # The version changes when another connection has written. Then the cache is outdated.
        [(version,)] = cursor.execute("PRAGMA data_version").fetchall()
        if version != self._data_version and self._last is not None:
            cursor.execute(self._statements.batch, (self._last.writer,))
            self._check_history(self._last.writer, cursor.fetchall())
        if fresh or version != self._data_version:
            self._batches.forget(cursor)
            self._data_version = version
        return cursor

    def _check_history(self, writer: str, known: list[Row]) -> None:
        """Raise `StorageUnavailable` if `known`, the database's last batch of `writer`, is older than this store's.

        Then another program has restored an older content, by way of SQLite.
        """
        last = self._last
        if last is not None and last.writer == writer and (not known or known[0][0] < last.number):
            self._files.fail_restored()

    def _look_at_files(self) -> None:
        self._files.check_lock()
        self._connections.mend_log()
        self._connections.warn_of_large_log()

    def _stamp(self, cursor: sqlite3.Cursor, stamp: int) -> None:
        self._files.stamp = stamp
        cursor.execute(f"PRAGMA user_version={stamp}")

    def _alone(
        self, cursor: sqlite3.Cursor, operation: Operation, now: float, recorder: CommitRecorder | None
    ) -> DecisionAndCounters:
        cursor.execute("SAVEPOINT alone")
        try:
            [decided], changes = self._batches.store(cursor, [operation], now)
        except Exception as error:
            if _is_damage(error) or _is_read_error(error):
                # SQLite lets this transaction write nothing more.
                self._warn_of_damage(operation, error, now)
                raise _RowsDamaged(operation) from error
            if _is_outage(error):
                raise StorageUnavailable(str(error)) from error
            cursor.execute("ROLLBACK TO alone")
            raise
        finally:
            if cursor.connection.in_transaction:
                cursor.execute("RELEASE alone")
        if recorder is not None:
            recorder.add([decided], changes, self._batches.rows)
        # The next operation must see these rows. If the transaction fails, the cache is cleared.
        self._batches.committed(changes)
        return decided

    def _warn_of_damage(self, operation: Operation, error: Exception, now: float) -> None:
        """Log damage once for each chat, and refuse the chat until the next start, or for a while if a read failed."""
        chat = getattr(operation, "chat", None)
        if chat in self._damaged:
            self._damaged[chat] = max(self._damaged[chat], self._refused_until(error, now))
        elif len(self._damaged) < _MOST_DAMAGED:
            self._damaged[chat] = self._refused_until(error, now)
            what = "a person" if chat is None else f"chat {chat}"
            if _is_read_error(error):
                _log.error(
                    "%s can't be stored: the disk fails to read a part of %s (%s). Check the disk, and restore a backup"
                    " if needed",
                    what,
                    self._path,
                    error,
                )
            else:
                _log.error("%s can't be stored: %s is damaged (%s). Restore a backup", what, self._path, error)

    def _refused_until(self, error: Exception, now: float) -> float:
        return now + _READ_RETRY if _is_read_error(error) else inf

    def _warn_of_row(self, chat: str, error: Exception) -> None:
        """Log once for each chat that lists leave it out."""
        if len(self._left_out) < _MOST_DAMAGED and chat not in self._left_out:
            self._left_out.add(chat)
            reason = error.__cause__ or error
            _log.error("chat %s is left out of lists: %s is damaged (%s). Restore a backup", chat, self._path, reason)

    def _disconnect(self) -> None:
        self._data_version = None
        self._connections.close_writer()

    @contextmanager
    def _outages_reported(self) -> Iterator[None]:
        try:
            yield
        except LogBusy:
            # The connection must stay open: only through it can the content of the deleted log be saved.
            raise
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
            yield SqlReads(cursor, self._statements, self._clock(), self._warn_of_row)

    @contextmanager
    def _reading_cursor(self) -> Iterator[sqlite3.Cursor]:
        with self._outages_named(), self._connections.reading() as cursor:
            yield cursor

    @contextmanager
    def _outages_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if _is_damage(error):
                raise StorageDamaged(f"{self._path} is damaged ({error}): restore a backup") from error
            if _is_outage(error):
                raise StorageUnavailable(f"{self._path}: {error}") from error
            raise

    def _prepare(self) -> None:
        if (fault := fault_beside(self._path)) is not None:
            raise StoreUrlError(fault)
        try:
            # Before the writer is opened, which would change the journal mode of another program's database. The reader
            # is not kept, because it was opened before the write-ahead log existed.
            with self._connections.fresh_reading() as reader:
                check_owner(reader.connection, self._path)
            upgrade(self._connections.open_writer(), self._path)
            cursor = self._begin()
            try:
                self.corrected_counters = self._put_in_order(cursor)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                # SQLite lets this transaction write nothing more. Each chat is read by itself before the next one.
                self._disconnect()
                with self._reading() as reads:
                    numbers = reads.all_active_numbers()
                active = list(self._read_each(numbers))
                cursor = self._begin()
                self.corrected_counters = self._put_in_order(cursor, active)
            self._epoch = prepare_log(cursor, self._statements, self._brokers, int(self._clock()))
            [(known,)] = cursor.execute("PRAGMA user_version").fetchall()
            self._stamp(cursor, self._files.first_stamp(known, self._clock()))
            cursor.execute("COMMIT")
            self._batches.forget(cursor)
            self._files.check()
        except sqlite3.Error as error:
            raise describe_sqlite_error(self._path, error) from error

    def _put_in_order(self, cursor: sqlite3.Cursor, active: Iterable[tuple[int, ChatState]] | None = None) -> int:
        try:
            self.identity = database_identity(cursor, self._statements)
            return prepare_start(cursor, self._statements, self._policy, int(self._clock()), active)
        except (DamagedRow, ValueError, TypeError, LookupError) as error:
            raise StoreUrlError(
                f"{self._path} holds a value that actorchat did not write ({error}): it is damaged; restore a backup"
            ) from error


def _is_outage(error: Exception) -> bool:
    """Whether the database failed, not a value: a full disk, an IO error, a lock, a damaged file."""
    if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError):
        return False
    return isinstance(error, sqlite3.DatabaseError | MemoryError)


def _is_damage(error: Exception) -> bool:
    """Whether a page or a row is damaged. Statements that don't read it still work."""
    if isinstance(error, DamagedRow):
        return True
    if isinstance(error, sqlite3.OperationalError) and str(error).startswith(_NO_TEXT):
        return True
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, sqlite3.DatabaseError) and code == sqlite3.SQLITE_CORRUPT


def _is_read_error(error: Exception) -> bool:
    """Whether the disk failed to read a page, as it does again and again for a bad sector."""
    return isinstance(error, sqlite3.DatabaseError) and getattr(error, "sqlite_errorcode", 0) in _READ_ERRORS


def _make_file(path: Path) -> None:
    if path.is_file():
        # Not opened, because closing it would drop all locks of this process on it, including those of SQLite.
        return
    try:
        # Only the owner may read people's messages. SQLite gives its log files the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreUrlError(describe_os_error(path, error)) from error


def _count_messages(decided: Iterable[DecisionAndCounters]) -> int:
    return sum(len(decision.messages) for decision, _ in decided if isinstance(decision, Changed))
