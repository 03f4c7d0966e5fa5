"""Storage with faults that outlives the simulated server: a real store, called without threads."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, TypeVar, cast

import attrs
import trio

from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage, Operation, Refused, RefuseMessage
from actorchat.chat.ports import StorageUnavailable
from actorchat.storage import Batch, CommitInDoubt, DecisionAndCounters, Storage, Store
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.connections import connect
from actorchat.storage.memory import MemoryStore
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Reads

__all__ = ["FaultyStorage"]

T = TypeVar("T")

Committed = Callable[[Sequence[Operation], Sequence[DecisionAndCounters], Batch], object]

_READS: Final = frozenset(name for name in vars(Reads) if not name.startswith("_"))
_WRITES: Final = frozenset({"commit", "recover"})


class FaultyStorage:
    """The storage of one simulated server: a SQLite file in `folder`, or a memory store if that is None.

    `committed` is called with each commit as it becomes durable, in commit order. `found_new` is called with each
    message that may be refused because nothing is stored under its `client_id`.

    Each entry of `faults` makes one commit fail: `away` before it has done anything, `stored` and `forgotten` at
    COMMIT. The next `failing_recovers` calls of `recover` fail too. Every read fails until the time `unreadable_until`,
    and every call is slow until `slow_until`. `calm` ends all faults.
    """

    def __init__(
        self,
        random: Random,
        log: Callable[..., object],
        committed: Committed,
        found_new: Callable[[AddMessage], object],
        folder: Path | None = None,
    ) -> None:
        self.random = random
        self.log = log
        self.committed = committed
        self.found_new = found_new
        self.folder = folder
        self.faults: list[str] = []
        self.failing_recovers: int = 0
        self.unreadable_until: float = 0.0
        self.slow_until: float = 0.0
        self.corrected_counters: int = 0
        self._memory: MemoryStore | None = None
        self._calm = False
        self._store: _FaultyStore | None = None
        self._runners: tuple[_Runner, ...] = ()
        self.armed: str | None = None
        """The fault that the SQLite connection must raise now."""

    @property
    def store(self) -> Store:
        """The store with everything that is durable. Raises RuntimeError before a server has opened it."""
        if self._store is None:
            raise RuntimeError("no server has opened this storage yet")
        return self._store.inner

    @asynccontextmanager
    async def open_store(
        self,
        url: str,
        policy: Policy,
        *,
        clock: Callable[[], float],
        brokers: Collection[str] = (),
        folder: Path | None = None,
    ) -> AsyncIterator[Storage]:
        """Replaces `actorchat.storage.open_store` and ignores the URL. Raises ValueError if there are `brokers`."""
        if brokers:
            raise ValueError("a simulated server has no brokers")
        await trio.lowlevel.checkpoint()
        inner: MemoryStore | SqliteStore
        if self.folder is None:
            inner = self._memory = self._memory or MemoryStore(policy)
        else:
            inner = SqliteStore(self.folder / "chat.db", policy, self._connect, clock)
        self.corrected_counters += inner.corrected_counters
        store = self._store = _FaultyStore(self, inner)
        writer, reader = self._runners = _Runner(self), _Runner(self)
        try:
            # `_FaultyStore.__getattr__` answers every read.
            yield Storage(cast("Store", store), writer, AsyncReader(cast("Store", store), reader))
        finally:
            store.dead = True
            if inner is not self._memory:
                inner.close()

    def calm(self) -> None:
        """End all faults."""
        self._calm = True
        self.faults.clear()
        self.failing_recovers = 0
        self.unreadable_until = self.slow_until = 0.0

    def crash(self) -> None:
        """End the process: uncommitted changes are lost, and calls in progress do not return."""
        if self._store is not None:
            self._store.dead = True
        for runner in self._runners:
            runner.crash()

    def seconds(self, *, write: bool) -> float:
        """The seconds that the next call takes."""
        if self._calm:
            return 0.001
        if trio.current_time() < self.slow_until:
            return self.random.uniform(0.2, 2.5)
        return self.random.choice((0.0, 0.0005, 0.004, 0.03 if write else 0.1))

    def _connect(self, path: Path, read_only: bool) -> sqlite3.Connection:
        connection = connect(path, read_only, _Connection)
        if not read_only:
            # A simulated crash loses only uncommitted changes, so nothing has to be synced.
            connection.execute("PRAGMA synchronous=OFF")
        cast("_Connection", connection).storage = self
        return connection


class _Connection(sqlite3.Connection):
    storage: FaultyStorage | None = None

    def cursor(self, factory: object = None) -> _Cursor:  # type: ignore[override] # the store passes no factory
        return super().cursor(_Cursor)


class _Cursor(sqlite3.Cursor):
    """Fails where a disk can: at BEGIN, at any statement, and at COMMIT before or after it takes effect."""

    def execute(self, sql: str, parameters: Iterable[object] = (), /) -> _Cursor:  # type: ignore[override] # fewer parameter types than the base class
        storage = cast("_Connection", self.connection).storage
        fault = None if storage is None else storage.armed
        if storage is not None and fault is not None:
            begins = sql.startswith("BEGIN")
            if fault == "away" and storage.random.random() < (0.5 if begins else 0.3):
                raise sqlite3.OperationalError("disk I/O error")
            if sql == "COMMIT":
                if fault == "stored":
                    super().execute(sql)
                raise sqlite3.OperationalError("disk I/O error")
        super().execute(sql, parameters)  # type: ignore[arg-type] # parameters of any type, passed on
        return self


class _Runner:
    """Runs calls without a thread, with half of the delay before the call and half after. A crash ends them."""

    def __init__(self, storage: FaultyStorage) -> None:
        self._storage = storage
        self._scopes: dict[trio.CancelScope, None] = {}

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        name = getattr(call.func, "__name__", "") if isinstance(call, partial) else ""
        half = self._storage.seconds(write=meanwhile is not None or name in _WRITES) / 2
        if meanwhile is not None:
            meanwhile()
            await trio.lowlevel.cancel_shielded_checkpoint()
        await self._wait(half)
        result = call()
        await self._wait(half)
        return result

    async def _wait(self, seconds: float) -> None:
        if not seconds:
            return
        with trio.CancelScope(shield=True) as scope:
            self._scopes[scope] = None
            await trio.sleep(seconds)
        del self._scopes[scope]
        if scope.cancelled_caught:
            await trio.sleep_forever()

    def crash(self) -> None:
        for scope in list(self._scopes):
            scope.cancel()


@attrs.define(eq=False)
class _FaultyStore:
    storage: FaultyStorage
    inner: MemoryStore | SqliteStore
    dead: bool = False

    @property
    def corrected_counters(self) -> int:
        return self.inner.corrected_counters

    def commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
        storage = self.storage
        self._check_alive()
        fault = storage.faults.pop(0) if storage.faults else None
        if fault is not None:
            storage.log("disk", fault, len(operations))
        if isinstance(self.inner, SqliteStore):
            decided = self._commit_to_file(operations, batch, fault)
        elif fault == "away":
            raise StorageUnavailable("as planned")
        elif fault == "forgotten":
            raise CommitInDoubt([])
        else:
            decided = self.inner.commit(operations, batch)
        storage.committed(operations, decided, batch)
        if fault == "stored":
            raise CommitInDoubt(decided)
        return decided

    def _commit_to_file(
        self, operations: Sequence[Operation], batch: Batch, fault: str | None
    ) -> list[DecisionAndCounters]:
        storage = self.storage
        storage.armed = fault
        try:
            return self.inner.commit(operations, batch)
        except CommitInDoubt as doubt:
            if fault == "stored":
                storage.committed(operations, doubt.decided, batch)
            raise
        finally:
            storage.armed = None

    def recover(self, batch: Batch) -> bool:
        self._check_alive()
        if self.storage.failing_recovers > 0:
            self.storage.failing_recovers -= 1
            raise StorageUnavailable("as planned")
        return self.inner.recover(batch)

    def is_new(self, operation: RefuseMessage) -> bool:
        new = self.inner.is_new(operation)
        if new:
            self.storage.found_new(operation.message)
        return new

    def look_up(self, operations: Sequence[RefuseMessage]) -> list[DecisionAndCounters]:
        self._check_readable()
        decided = self.inner.look_up(operations)
        for operation, (decision, _) in zip(operations, decided, strict=True):
            if isinstance(decision, Refused):
                self.storage.found_new(operation.message)
        return decided

    def close(self) -> None:
        """Do nothing: `FaultyStorage` closes the store that it opened."""

    def __getattr__(self, name: str) -> object:
        if name not in _READS:
            raise AttributeError(name)
        self._check_readable()
        return getattr(self.inner, name)

    def _check_readable(self) -> None:
        self._check_alive()
        if trio.current_time() < self.storage.unreadable_until:
            raise StorageUnavailable("as planned")

    def _check_alive(self) -> None:
        if self.dead:
            raise StorageUnavailable("the process is gone")
