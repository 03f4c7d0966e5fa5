"""A database that behaves like PostgreSQL: READ COMMITTED, row locks, commits that may be lost, and failover.

A table maps keys to rows, which are immutable mappings. There is no SQL: a transaction has a method for each kind of
statement, and each statement takes time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from math import inf
from types import MappingProxyType
from typing import Any

import attrs
import trio

from actorchat.testing.simulation.world import World

__all__ = [
    "CommitLost",
    "Database",
    "DatabaseConnection",
    "DatabaseUnavailable",
    "DeadlockDetected",
    "Row",
    "Transaction",
    "UniqueViolation",
]

Row = Mapping[str, Any]  # Any: columns have any type
"""A row of a table: its columns by name."""
Key = tuple[str, Any]  # Any: a key of any type, after the name of its table

_DEADLOCK_SECONDS = 1.0


class DatabaseUnavailable(Exception):  # noqa: N818 - a state of the database
    """The connection is lost, or can't be opened. Uncommitted changes are gone."""


class CommitLost(DatabaseUnavailable):
    """The connection was lost at COMMIT: the transaction may be stored, may be stored later, or may be lost."""


class DeadlockDetected(Exception):  # noqa: N818 - PostgreSQL's name
    """Transactions wait for each other; this one was rolled back."""


class UniqueViolation(Exception):  # noqa: N818 - PostgreSQL's name
    """The table already has a row with that key."""


@attrs.define(eq=False)
class _Lock:
    holder: Transaction | None = None
    waiting: list[Transaction] = attrs.field(factory=list)


class Database:
    """One database of `world`.

    `slow` is the most seconds that a statement takes. Until the time `away_until` no connection can be opened, and open
    ones break at their next statement. With `replicated`, every commit is on the standby before it is acknowledged.
    """

    def __init__(self, world: World, name: str = "database", *, replicated: bool = True) -> None:
        self.slow: float = 0.01
        self.away_until: float = -inf
        self.replicated = replicated
        self.timeline: int = 1
        self._world, self._name = world, name
        self._random = world.random(name)
        self._tables: dict[str, dict[Any, Row]] = {}
        # Each commit with the rows that it replaced, for a failover that loses the last commits.
        self._log: list[list[tuple[Key, Row | None]]] = []
        self._standby = 0
        self._locks: dict[Key, _Lock] = {}
        self._sequences: dict[str, count[int]] = {}
        self._connections: dict[DatabaseConnection, None] = {}
        self._doubts: list[tuple[bool, float]] = []
        self._changed = trio.lowlevel.ParkingLot()

    # Faults

    def lose_commit(self, *, stored: bool, late: float = 0.0) -> None:
        """Break the connection at the next COMMIT. If `stored`, the commit still happens, `late` seconds later."""
        self._doubts.append((stored, late))

    def cut(self) -> None:
        """Break every connection; open transactions are rolled back."""
        self._world.log(self._name, "cut", len(self._connections))
        for connection in list(self._connections):
            connection._break()

    def fail_over(self, downtime: float = 0.2) -> int:
        """Break all connections and promote the standby. Returns the number of lost commits, 0 if `replicated`."""
        self.cut()
        lost = 0 if self.replicated else len(self._log) - self._standby
        for _ in range(lost):
            for key, before in reversed(self._log.pop()):
                self._put(key, before)
        self.timeline += 1
        self.away_until = max(self.away_until, trio.current_time() + downtime)
        self._world.log(self._name, "failover", self.timeline, "lost", lost)
        return lost

    def catch_up(self) -> None:
        """Bring the standby up to date with all commits so far."""
        self._standby = len(self._log)

    # Use

    def rows(self, table: str) -> dict[Any, Row]:
        """The committed rows of `table` by key, for checks."""
        return dict(self._tables.get(table, {}))

    async def connect(self) -> DatabaseConnection:
        """Open a connection. Raises `DatabaseUnavailable`."""
        await self._take_time()
        self._check_up()
        connection = DatabaseConnection(self)
        self._connections[connection] = None
        return connection

    def next_value(self, sequence: str) -> int:
        """Return the next number of `sequence`. As with `nextval`, none is repeated, even after a rollback."""
        return next(self._sequences.setdefault(sequence, count(1)))

    async def _take_time(self) -> None:
        await trio.sleep(self._random.uniform(0.0, self.slow))

    def _check_up(self) -> None:
        if trio.current_time() < self.away_until:
            raise DatabaseUnavailable(f"{self._name} is unavailable")

    def _put(self, key: Key, row: Row | None) -> None:
        table, name = key
        if row is None:
            self._tables.setdefault(table, {}).pop(name, None)
        else:
            self._tables.setdefault(table, {})[name] = row

    def _apply(self, writes: Mapping[Key, Row | None]) -> None:
        undo = [(key, self._tables.get(key[0], {}).get(key[1])) for key in writes]
        for key, row in writes.items():
            self._put(key, row)
        self._log.append(undo)
        if self.replicated:
            self._standby = len(self._log)
        self._world.log(self._name, "commit", len(self._log), [f"{table}/{name}" for table, name in writes])

    def _release(self, transaction: Transaction) -> None:
        for lock in self._locks.values():
            if transaction in lock.waiting:
                lock.waiting.remove(transaction)
            if lock.holder is transaction:
                lock.holder = lock.waiting.pop(0) if lock.waiting else None
        self._changed.unpark_all()

    def _waits_for_itself(self, transaction: Transaction) -> bool:
        """Whether `transaction` waits, directly or through others, for itself."""
        seen: set[int] = set()
        at: Transaction | None = transaction
        while at is not None and id(at) not in seen:
            seen.add(id(at))
            waited = at.waits_for
            at = None if waited is None else self._locks[waited].holder
            if at is transaction:
                return True
        return False


class DatabaseConnection:
    """A connection, made by `Database.connect`. It has one transaction at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.broken: bool = False
        self._transaction: Transaction | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Begin a transaction. Commit at the end of the block, or roll back if it raises or is cancelled.

        Raises `DatabaseUnavailable` anywhere, and `CommitLost` at the end of the block.
        """
        self._check()
        transaction = self._transaction = Transaction(self)
        try:
            yield transaction
            await transaction._commit()
        finally:
            self._transaction = None
            transaction._end()

    def close(self) -> None:
        """Close the connection and roll back its transaction. Does nothing if it is closed."""
        self._break()

    def _check(self) -> None:
        if not self.broken and trio.current_time() < self.database.away_until:
            self._break()
        if self.broken:
            raise DatabaseUnavailable("the connection is lost")

    def _break(self) -> None:
        self.broken = True
        self.database._connections.pop(self, None)
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction._end()


class Transaction:
    """A transaction. Each statement sees what was committed when it began, and this transaction's own writes.

    Every method raises `DatabaseUnavailable` once the connection is lost.
    """

    def __init__(self, connection: DatabaseConnection) -> None:
        self.waits_for: Key | None = None
        self._connection = connection
        self._database = connection.database
        self._writes: dict[Key, Row | None] = {}
        self._is_over = False

    async def read(self, table: str, key: Any) -> Row | None:  # Any: a key of any type
        """Return one row without locking it, or None, as SELECT does."""
        await self._statement()
        return self._seen((table, key))

    async def select(self, table: str, where: Callable[[Row], object] = lambda row: True) -> dict[Any, Row]:
        """Return all rows of `table` for which `where` is true, as of one moment."""
        await self._statement()
        keys = dict.fromkeys([*self._database._tables.get(table, {}), *(k for t, k in self._writes if t == table)])
        found = {key: self._seen((table, key)) for key in keys}
        return {key: row for key, row in found.items() if row is not None and where(row)}

    async def lock(self, table: str, keys: Iterable[Any]) -> dict[Any, Row]:
        """Lock the rows with these keys, in key order, and return those that exist, as SELECT … FOR UPDATE does.

        Rows are returned as the previous holders of the locks committed them. Raises `DeadlockDetected` if transactions
        would wait for each other; this one is then rolled back.
        """
        await self._statement()
        locked: dict[Any, Row] = {}
        for key in sorted(keys):
            if self._seen((table, key)) is None:
                continue
            await self._lock((table, key))
            row = self._seen((table, key))
            if row is not None:
                locked[key] = row
        return locked

    async def update(self, table: str, key: Any, **values: Any) -> bool:
        """Lock a row and set the columns in `values`. Returns False if there is no such row."""
        if not await self.lock(table, [key]):
            return False
        before = self._seen((table, key))
        self._writes[table, key] = MappingProxyType({**(before or {}), **values})
        return True

    async def insert(self, table: str, key: Any, **values: Any) -> None:
        """Insert a row, after waiting for any transaction that inserts the same key. Raises `UniqueViolation`."""
        await self._statement()
        await self._lock((table, key))
        if self._seen((table, key)) is not None:
            self._end()
            raise UniqueViolation(f"{table} already has a row {key!r}")
        self._writes[table, key] = MappingProxyType(values)

    async def delete(self, table: str, key: Any) -> bool:
        """Lock a row and delete it. Returns False if there is no such row."""
        if not await self.lock(table, [key]):
            return False
        self._writes[table, key] = None
        return True

    def _seen(self, key: Key) -> Row | None:
        if key in self._writes:
            return self._writes[key]
        return self._database._tables.get(key[0], {}).get(key[1])

    async def _statement(self) -> None:
        await self._database._take_time()
        self._check()

    def _check(self) -> None:
        if self._is_over and not self._connection.broken:
            raise DatabaseUnavailable("this transaction was rolled back")
        self._connection._check()

    async def _lock(self, key: Key) -> None:
        lock = self._database._locks.setdefault(key, _Lock())
        if lock.holder is None:
            lock.holder = self
        if lock.holder is self:
            return
        lock.waiting.append(self)
        self.waits_for = key
        try:
            while lock.holder is not self:
                if self._database._waits_for_itself(self):
                    await trio.sleep(_DEADLOCK_SECONDS)
                    if self._database._waits_for_itself(self):
                        self._end()
                        raise DeadlockDetected(f"deadlock over {key}")
                    continue
                await self._database._changed.park()
                self._check()
        finally:
            self.waits_for = None
            if self in lock.waiting:
                lock.waiting.remove(self)

    async def _commit(self) -> None:
        database = self._database
        await self._statement()
        doubt = database._doubts.pop(0) if database._doubts else None
        if doubt is None:
            database._apply(self._writes)
            return
        stored, late = doubt
        database._world.log(database._name, "COMMIT is lost", stored, late)
        if stored and late:
            # The server finishes the transaction later, and keeps its locks until then.
            self._connection._transaction = None
            writes, self._is_over = dict(self._writes), True
            database._world.network.at(trio.current_time() + late, lambda: self._finish_late(writes))
        elif stored:
            database._apply(self._writes)
        self._connection._break()
        raise CommitLost("the connection was lost at COMMIT")

    def _finish_late(self, writes: Mapping[Key, Row | None]) -> None:
        self._database._apply(writes)
        self._database._release(self)

    def _end(self) -> None:
        """Roll back, unless the transaction has ended."""
        if not self._is_over:
            self._is_over = True
            self._database._release(self)
