"""Stores chats in PostgreSQL, in one transaction per batch, beside other servers that do the same.

Three round trips make a batch: lock and read; write; log and COMMIT. After a failed COMMIT it is unknown whether the
batch is stored; `recover` finds out.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Final

import attrs
import psycopg

from actorchat.chat.commit_log import LogEntry, TooOld, Trimmed
from actorchat.chat.model import Policy
from actorchat.chat.operations import Changed, Decision, Operation, Refused, RefuseMessage, Undecided, refusal_of
from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import RefusalCode
from actorchat.storage.changes import Changes
from actorchat.storage.commit_recorder import CommitRecorder
from actorchat.storage.decider import decide_each
from actorchat.storage.log_tables import trim_log
from actorchat.storage.postgres.advisory import take_start
from actorchat.storage.postgres.commit_tables import (
    LOG_SECONDS,
    place_commits,
    placed_entries,
    prepare_places,
)
from actorchat.storage.postgres.connecting import (
    COMMIT_SECONDS,
    START_SECONDS,
    Connection,
    Connector,
    Readers,
    close,
    is_alive,
)
from actorchat.storage.postgres.cursor import PostgresCursor
from actorchat.storage.postgres.errors import is_damage, is_outage, may_work_again, outages_named, shown
from actorchat.storage.postgres.history import read_history, stored_epoch
from actorchat.storage.postgres.settled import SettledNumbers
from actorchat.storage.postgres.sqlite_import import check_imported
from actorchat.storage.postgres.statements import PostgresStatements
from actorchat.storage.postgres.upgrade import check_server, upgrade
from actorchat.storage.postgres.writer import FencedOff, LockFirst, PostgresWriter, StorageWentBack
from actorchat.storage.row_mapping import DamagedRow
from actorchat.storage.sql_reads import SqlReads
from actorchat.storage.sql_writer import SqlWriter
from actorchat.storage.startup_repair import WRITER_SECONDS, database_identity, prepare_start
from actorchat.storage.store import (
    LOG_PAGE_BYTES,
    Batch,
    CommitInDoubt,
    DecisionAndCounters,
    LoggedBatch,
    RemovedChat,
    SearchableMessage,
    StoreUrlError,
)
from actorchat.storage.stored_reads import StoredReads

__all__ = ["PostgresStore"]

_log = logging.getLogger("actorchat.storage")

_TRIES: Final = 5
"""Attempts at a batch that other writers got in the way of."""

_START_TRIES: Final = 20
_KEEP_SECONDS: Final = 3_600.0
"""Seconds after which a writer that commits nothing shows that it is still there."""

_TEND_PERIOD: Final = 5.0
"""Seconds between two looks at the clock of the database, and between two deletions of what is old in the log."""

_STEP_SECONDS: Final = 1.0
"""A clock that changes by more is reported."""

_MOST_LEFT_OUT: Final = 1_000
_NOT_OF_A_VALUE: Final = (StorageUnavailable, StorageWentBack, LockFirst)
_IS_DAMAGED: Final = "a part of the database that this needs is damaged"
_DAMAGED: Final = Refused(RefusalCode.STORAGE_UNAVAILABLE, _IS_DAMAGED)


@attrs.frozen
class _Prepared:
    """A batch that is written, but not committed. Without `changes` its operations were stored one by one."""

    decided: list[DecisionAndCounters]
    changes: Changes | None
    payload: bytes | None
    messages: int


class PostgresStore(StoredReads):
    """A `Store`, `StoredLog` and `NodeLog` in the database that `url` names, whose schema is upgraded if it is older.

    `brokers` are the names of message brokers. Raises `StoreUrlError` if the database can't be used,
    `StorageUnavailable` if it can't be used now.

    `corrected_counters` is the number of counters that differed from the chats when they were recounted at the start.
    `identity` is the random name of the database. `messages_stored` counts the messages that were committed since then.
    `losses` counts how often an older state of the database was found than this store has committed or read.
    """

    def __init__(
        self,
        url: str,
        policy: Policy,
        clock: Callable[[], float] = time.time,
        brokers: Collection[str] = (),
    ) -> None:
        self._connector = Connector(url)
        self._name = self._connector.name
        self._policy = policy
        self._clock = clock
        self._statements = PostgresStatements()
        self._batches = PostgresWriter(self._statements, policy)
        self._readers = Readers(self._connector)
        self._settled = SettledNumbers(self._statements)
        self._writer: Connection | None = None
        # For each writer, the number that shows that nobody else has recovered it, and its last batch in the log.
        self._fences: dict[str, int] = {}
        self._logged: dict[str, int] = {}
        self._last_logged: LoggedBatch | None = None
        self._log_in_doubt: LoggedBatch | None = None
        # By how many seconds the clock of the database is ahead of this machine's.
        self._ahead = 0.0
        self._history = ""
        self._epoch = 0
        # The highest epoch that another server was heard of.
        self._heard_epoch = 0
        self._in_doubt = 0
        self._last: Batch | None = None
        self._kept_at = self._tended_at = -inf
        # The writer's batches with the monotonic time, from time to time: what is older than `LOG_SECONDS` is trimmed.
        self._log_ages: deque[tuple[float, Batch]] = deque()
        self._left_out: set[str] = set()
        self.corrected_counters: int = 0
        self.identity: str = ""
        self.messages_stored: int = 0
        self.losses: int = 0
        try:
            self._prepare(brokers)
        except BaseException:
            self.close()
            raise

    def now(self) -> float:
        """The time of the database in epoch seconds, which is the same for all servers. Any thread may call."""
        return self._clock() + self._ahead

    # Writing: one thread at a time

    def commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
        with self._outages_reported():
            connection = self._connected()
            self._adopt_epoch()
            fences = self._fences_of(connection, batch)
            prepared = self._prepared(connection, operations, batch, fences)
            if prepared.changes is not None and prepared.changes.nothing:
                connection.execute("ROLLBACK")
                self._batches.committed(prepared.changes)
                return prepared.decided
        self._finish(connection, prepared, batch)
        self._note_logged()
        if prepared.changes is not None:
            self._batches.committed(prepared.changes)
        self.messages_stored += prepared.messages
        self._last = batch
        self._tend(connection)
        return prepared.decided

    def recover(self, batch: Batch) -> bool:
        with self._outages_reported():
            self._disconnect()
            connection = self._connected()
            # This waits for the transaction in doubt. Whatever is left of it can't write any more afterwards.
            found = connection.execute(self._statements.fence_off.encode(), (batch.writer, int(self.now()))).fetchall()
            [(number, self._fences[batch.writer])] = found
            self._read_last_logged(connection, batch.writer)
        stored: bool = number == batch.number
        if stored:
            self.messages_stored += self._in_doubt
            self._note_logged()
        self._in_doubt, self._log_in_doubt = 0, None
        return stored

    def is_new(self, operation: RefuseMessage) -> bool:
        # Another server may have stored it.
        return operation.message.client_id is None

    def look_up(self, operations: Sequence[RefuseMessage]) -> list[DecisionAndCounters]:
        with self._reading_cursor() as cursor:
            return SqlWriter(self._statements, self._policy).look_up(cursor, operations)

    def tidy(self) -> None:
        """Check that the database can be written. Call this about once a second while nothing is committed."""
        with self._outages_reported():
            connection = self._connected()
            connection.execute("SELECT 1")
            self._adopt_epoch()
            if self._last is not None and abs(self.now() - self._kept_at) >= _KEEP_SECONDS:
                self._kept_at = self.now()
                connection.execute(self._statements.keep_writer.encode(), (int(self._kept_at), self._last.writer))
            self._tend(connection)

    def record_relayed(self, positions: Mapping[str, int], expired: TooOld) -> Trimmed:
        with self._outages_reported():
            connection = self._connected()
            with connection.transaction():
                cursor = PostgresCursor(connection, self._statements.row_types)
                return trim_log(cursor, self._statements, positions, expired)

    def close(self) -> None:
        self._disconnect()
        self._readers.close()

    # Reading: any thread

    def positions(self) -> Mapping[str, int]:
        with self._outages_named(), self._readers.connection() as connection:
            return dict(connection.execute(self._statements.relayed.encode()).fetchall())

    def entries(self, after: int, size: int) -> Sequence[LogEntry]:
        with self._outages_named(), self._readers.connection() as connection:
            place_commits(connection, self._statements)
            return placed_entries(connection, self._statements, after, size)

    def newest_batches(self) -> Mapping[str, int]:
        with self._outages_named(), self._readers.connection() as connection:
            return dict(connection.execute(self._statements.newest_batches.encode()).fetchall())

    def batches(
        self, writer: str, *, after: int, upto: int, limit: int, size: int = LOG_PAGE_BYTES
    ) -> Sequence[LoggedBatch]:
        with self._outages_named(), self._readers.connection() as connection:
            values = (writer, after, upto, limit, size)
            found = connection.execute(self._statements.commits.encode(), values).fetchall()
            return [LoggedBatch(writer, *row) for row in found]

    def last_logged(self) -> LoggedBatch | None:
        return self._last_logged

    def epoch(self) -> int:
        return self._epoch

    def follow_epoch(self, epoch: int) -> None:
        self._heard_epoch = max(epoch, self._heard_epoch)

    def searchable(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        settled = self._settled_number()
        return tuple(each for each in super().searchable(after, limit) if each.number <= settled)

    def searchable_edits(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        settled = self._settled_number()
        return tuple(each for each in super().searchable_edits(after, limit) if each.number <= settled)

    def removed_chats(self, after: int, limit: int) -> tuple[RemovedChat, ...]:
        settled = self._settled_number()
        return tuple(each for each in super().removed_chats(after, limit) if each.place <= settled)

    def probe(self) -> None:
        with self._reading_cursor() as cursor:
            for statement in self._statements.probes:
                cursor.execute(statement)
                cursor.fetchall()

    # A batch

    def _prepared(
        self, connection: Connection, operations: Sequence[Operation], batch: Batch, fences: int
    ) -> _Prepared:
        """Decide and write a batch, again if other writers got in the way."""
        for _ in range(_TRIES - 1):
            try:
                return self._write(connection, operations, batch, fences)
            except StorageWentBack as error:
                connection.execute("ROLLBACK")
                self._note_loss(str(error))
                self._read_epoch(connection, self._history, went_back=True)
            except Exception as error:
                if not may_work_again(error) and not isinstance(error, LockFirst):
                    raise
                _log.debug("a batch is tried again: %s", shown(error))
                connection.execute("ROLLBACK")
        return self._write_each(connection, operations, batch, fences)

    def _write(self, connection: Connection, operations: Sequence[Operation], batch: Batch, fences: int) -> _Prepared:
        cursor = PostgresCursor(connection, self._statements.row_types)
        recorder = CommitRecorder(batch.now, self._epoch, nodes=True)
        try:
            self._begin(connection, operations, batch, fences)
            decided, changes = self._batches.write(cursor, operations, batch.now)
        except Exception as error:
            if is_outage(error) or may_work_again(error) or isinstance(error, _NOT_OF_A_VALUE):
                raise
            # A value that can't be stored, or damaged rows. `decide_each` logs all other errors.
            connection.execute("ROLLBACK")
            self._batches.forget_all()
            return self._write_each(connection, operations, batch, fences)
        recorder.add(decided, changes, self._batches.rows)
        return _Prepared(decided, changes, recorder.payload(), len(changes.messages))

    def _write_each(
        self, connection: Connection, operations: Sequence[Operation], batch: Batch, fences: int
    ) -> _Prepared:
        """Store each operation as a whole or not at all. All locks are taken before the first one."""
        sound = list(filter(self._batches.can_lock, operations))
        self._begin(connection, sound, batch, fences, waits=True)
        cursor = PostgresCursor(connection, self._statements.row_types)
        recorder = CommitRecorder(batch.now, self._epoch, nodes=True)

        def alone(operation: Operation) -> DecisionAndCounters:
            connection.execute("SAVEPOINT alone")
            try:
                [decided], changes = self._batches.write(cursor, [operation], batch.now)
                connection.execute("RELEASE alone")
            except Exception as error:
                if is_outage(error):
                    raise StorageUnavailable(f"{self._name}: {shown(error)}") from error
                connection.execute("ROLLBACK TO alone")
                if is_damage(error):
                    _log.error("%s is damaged (%s). Restore a backup", self._name, shown(error))
                    return _refused_as_damaged(operation), ()
                raise
            recorder.add([decided], changes, self._batches.rows)
            # The next operation must see these rows.
            self._batches.committed(changes)
            return decided

        try:
            decided = decide_each(operations, alone)
        finally:
            # The cached rows are ahead of the stored ones until COMMIT.
            self._batches.forget_all()
        messages = sum(len(decision.messages) for decision, _ in decided if isinstance(decision, Changed))
        return _Prepared(decided, None, recorder.payload(), messages)

    def _begin(
        self,
        connection: Connection,
        operations: Sequence[Operation],
        batch: Batch,
        fences: int,
        *,
        waits: bool = False,
    ) -> None:
        try:
            self._batches.begin(connection, operations, batch, fences, waits=waits)
        except FencedOff:
            self._fences.pop(batch.writer, None)
            raise StorageUnavailable(f"{self._name}: the state of this server's writer has changed") from None

    def _finish(self, connection: Connection, prepared: _Prepared, batch: Batch) -> None:
        """Log the batch and commit it. Whatever fails here leaves it in doubt."""
        statements = self._statements
        self._log_in_doubt = None
        try:
            with connection.pipeline():
                if prepared.payload is not None:
                    writer, number, drawn = batch.writer, batch.number, self._batches.drawn
                    previous = self._logged[writer]
                    logged = self._log_in_doubt = LoggedBatch(writer, number, previous, batch.now, prepared.payload)
                    row = (writer, number, previous, drawn, batch.now, logged.payload)
                    connection.execute(statements.add_commit.encode(), row)
                    connection.execute(statements.queue_commit.encode(), (writer, number, drawn))
                committed = connection.execute("COMMIT")
            if committed.statusmessage != "COMMIT":
                raise psycopg.OperationalError(f"COMMIT was answered with {committed.statusmessage}")
        except (psycopg.Error, OSError, MemoryError) as error:
            self._disconnect()
            self._in_doubt = prepared.messages
            raise CommitInDoubt(prepared.decided) from error

    def _fences_of(self, connection: Connection, batch: Batch) -> int:
        fences = self._fences.get(batch.writer)
        if fences is None:
            found = connection.execute(self._statements.register.encode(), (batch.writer, int(batch.now))).fetchall()
            fences = self._fences[batch.writer] = int(found[0][0])
            self._read_last_logged(connection, batch.writer)
        return fences

    def _read_last_logged(self, connection: Connection, writer: str) -> None:
        [(self._logged[writer],)] = connection.execute(self._statements.last_logged.encode(), (writer,)).fetchall()

    def _note_logged(self) -> None:
        logged, self._log_in_doubt = self._log_in_doubt, None
        if logged is not None:
            self._last_logged = logged
            self._logged[logged.writer] = logged.number

    def _tend(self, connection: Connection) -> None:
        """Every few seconds, look at what may have changed, and delete what is old in the log of this writer."""
        now = time.monotonic()
        if now - self._tended_at < _TEND_PERIOD:
            return
        self._tended_at = now
        try:
            before = self._ahead
            self._look_at_clock(connection)
            if abs(self._ahead - before) > _STEP_SECONDS:
                _log.warning(
                    "a clock was set: that of %s is %.1f s ahead of this machine's, and was %.1f s",
                    self._name,
                    self._ahead,
                    before,
                )
            if self._history:
                # A pooler, which can't be told from a server, keeps this connection when another one takes over.
                self._look_at_history(connection)
            self._trim_own(connection, now)
        except psycopg.Error as error:
            # The batch is committed. The next one reconnects if it has to.
            _log.warning("the database can't be looked after now: %s", shown(error))

    def _trim_own(self, connection: Connection, now: float) -> None:
        if self._last is None:
            return
        ages = self._log_ages
        ages.append((now, self._last))
        old: Batch | None = None
        while now - ages[0][0] >= LOG_SECONDS:
            _, old = ages.popleft()
        if old is not None:
            upto = {"writer": old.writer, "upto": old.number}
            connection.execute(self._statements.trim_commits.encode(), upto)

    # Connections

    def _connected(self) -> Connection:
        """The writing connection, a new one if there is none or the server has closed it."""
        connection = self._writer
        if connection is not None and is_alive(connection):
            return connection
        self._disconnect()
        connection = self._writer = self._connector.open(COMMIT_SECONDS)
        self._look_at_clock(connection)
        self._look_at_history(connection)
        return connection

    def _disconnect(self) -> None:
        connection, self._writer = self._writer, None
        if connection is not None:
            close(connection)

    def _look_at_clock(self, connection: Connection) -> None:
        asked = self._clock()
        [(answered,)] = connection.execute(self._statements.database_time.encode()).fetchall()
        least, most = answered - self._clock(), answered - asked
        # What is known stays if it may be right, so that a slow answer changes nothing.
        if not least <= self._ahead <= most:
            self._ahead = (least + most) / 2

    def _look_at_history(self, connection: Connection) -> None:
        history = read_history(connection, self._statements)
        # A standby that has not taken over yet tells none.
        if self._epoch and history in ("", self._history):
            return
        # First, because it may fail, and the next look must not count the same loss again.
        self._read_epoch(connection, history)
        before, self._history = self._history, history
        if before:
            self._note_loss(f"the history of the database was {before}, and is {history} now")
            # The writer's row, and the last batch in its log, may be older ones.
            self._fences.clear()

    def _read_epoch(self, connection: Connection, history: str, *, went_back: bool = False) -> None:
        epoch = stored_epoch(connection, self._statements, history, int(self.now()), went_back=went_back)
        self._epoch = max(epoch, self._heard_epoch)

    def _adopt_epoch(self) -> None:
        if self._heard_epoch > self._epoch:
            self._note_loss("another server has found an older state")
            self._epoch = self._heard_epoch

    def _note_loss(self, reason: str) -> None:
        """Forget what was read: an older state may be stored, in which other commits got the same revisions."""
        self.losses += 1
        _log.error("%s may have lost commits: %s", self._name, reason)
        self._batches.forget_all()
        self._settled.forget()

    @contextmanager
    def _outages_reported(self) -> Iterator[None]:
        try:
            yield
        except StorageUnavailable:
            self._disconnect()
            raise
        except Exception as error:
            self._disconnect()
            if is_outage(error) or may_work_again(error) or isinstance(error, OSError | psycopg.Error):
                raise StorageUnavailable(f"{self._name}: {shown(error)}") from error
            raise

    @contextmanager
    def _reading(self) -> Iterator[SqlReads]:
        with self._reading_cursor() as cursor:
            yield SqlReads(cursor, self._statements, self.now(), self._warn_of_row)

    @contextmanager
    def _reading_cursor(self) -> Iterator[PostgresCursor]:
        with (
            self._outages_named(),
            self._readers.connection() as connection,
            # So that the first statement and the beginning of the transaction make one round trip.
            connection.pipeline(),
        ):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.set_limits()
            yield PostgresCursor(connection, self._statements.row_types)
            connection.execute("COMMIT")

    @contextmanager
    def _outages_named(self) -> Iterator[None]:
        with outages_named(self._name):
            yield

    def _settled_number(self) -> int:
        with self._outages_named(), self._readers.connection() as connection:
            return self._settled.read(connection)

    def _warn_of_row(self, chat: str, error: Exception) -> None:
        """Log once for each chat that lists leave it out."""
        if len(self._left_out) < _MOST_LEFT_OUT and chat not in self._left_out:
            self._left_out.add(chat)
            reason = shown(error.__cause__ or error)
            _log.error("chat %s is left out of lists: %s is damaged (%s). Restore a backup", chat, self._name, reason)

    # The start

    def _prepare(self, brokers: Collection[str]) -> None:
        with self._outages_named():
            connection = self._connector.open(START_SECONDS)
            try:
                check_server(connection, self._name)
                self._look_at_clock(connection)
                upgrade(connection, self._name)
                check_imported(connection, self._name)
                for attempt in range(_START_TRIES):
                    with suppress(psycopg.errors.SerializationFailure), connection.transaction():
                        # Beside servers that write, READ COMMITTED would compare chats and counters of two moments.
                        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                        self._put_in_order(connection)
                        break
                    if attempt == _START_TRIES - 1:
                        raise StorageUnavailable(f"{self._name}: other servers write too much to start now")
                with connection.transaction():
                    cursor = PostgresCursor(connection, self._statements.row_types)
                    prepare_places(cursor, self._statements, brokers)
                    old = self.now() - LOG_SECONDS
                    connection.execute(self._statements.trim_old_commits.encode(), (old, int(old) - WRITER_SECONDS))
                # Here, because a connection for commits does not wait long enough for another server's start.
                self._look_at_history(connection)
            finally:
                close(connection)
            self._connected()

    def _put_in_order(self, connection: Connection) -> None:
        take_start(connection)
        cursor = PostgresCursor(connection, self._statements.row_types)
        try:
            self.identity = database_identity(cursor, self._statements)
            self.corrected_counters = prepare_start(cursor, self._statements, self._policy, int(self.now()))
        except (DamagedRow, ValueError, TypeError, LookupError) as error:
            raise StoreUrlError(
                f"{self._name} holds a value that actorchat did not write ({error}): it is damaged; restore a backup"
            ) from error


def _refused_as_damaged(operation: Operation) -> Decision:
    """The decision about an operation that needs damaged rows, which may hold the message of its `client_id`."""
    refusal = refusal_of(operation, _DAMAGED)
    return _DAMAGED if refusal is None or refusal.message.client_id is None else Undecided(_IS_DAMAGED)
