"""Opens the store that a storage URL names."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from actorchat.chat.model import Policy
from actorchat.storage.async_log import AsyncLog
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.database_lock import DatabaseLock, lock_database
from actorchat.storage.memory import MemoryStore
from actorchat.storage.store import Store, StoreUrlError
from actorchat.storage.worker_threads import InPlace, Runner, open_workers
from actorchat.urls import without_secrets

if TYPE_CHECKING:
    from actorchat.storage.sqlite import SqliteStore

__all__ = ["Storage", "open_store"]

READERS: Final = 2
"""The number of reading threads; with several, one long read does not block all others."""


@attrs.frozen
class Storage:
    """An open store.

    `store`, `runner` and `tidy` are for `open_journal`: commits run in `runner`, and `tidy` is called there about once
    a second. `log` is the commit log, None without brokers.
    """

    store: Store
    runner: Runner
    chat_reader: AsyncReader
    tidy: Callable[[], object] | None = None
    log: AsyncLog | None = None


@asynccontextmanager
async def open_store(
    url: str, policy: Policy, *, clock: Callable[[], float] = time.time, brokers: Collection[str] = ()
) -> AsyncIterator[Storage]:
    """Open `memory://` or `sqlite:///path/to/file` (four slashes for an absolute path); leaving the block closes it.

    `brokers` are the names of message brokers; with any, every commit is logged for them. `clock` returns epoch
    seconds. Raises `StoreUrlError` if the URL is not valid or its database cannot be used, and `StorageUnavailable` if
    it cannot be opened at the moment, for example while another server uses it.
    """
    scheme, _, rest = url.partition("://")
    if rest == "/:memory:":
        raise StoreUrlError(f"{url!r} would be a file with that name: use memory:// to store nothing")
    if url == "memory://":
        in_place = InPlace()
        memory = MemoryStore(policy, clock, brokers)
        log = AsyncLog(memory, in_place, in_place) if brokers else None
        yield Storage(memory, in_place, AsyncReader(memory, in_place), log=log)
    elif scheme == "sqlite" and len(rest) > 1 and rest[0] == "/":
        async with _open_sqlite(Path(rest[1:]), policy, clock, brokers) as storage:
            yield storage
    else:
        raise StoreUrlError(f"{without_secrets(url)!r} is not a storage URL: use sqlite:///path/to/file or memory://")


@asynccontextmanager
async def _open_sqlite(
    path: Path, policy: Policy, clock: Callable[[], float], brokers: Collection[str]
) -> AsyncIterator[Storage]:
    async with open_workers("storage-reader", READERS) as readers, open_workers("storage-writer") as writer:
        lock = await writer.run(partial(lock_database, path))
        try:
            store = await writer.run(partial(_open_sqlite_store, lock, policy, clock, brokers))
            try:
                log = AsyncLog(store, readers, writer) if brokers else None
                yield Storage(store, writer, AsyncReader(store, readers), store.tidy, log)
            finally:
                # Takes a second at most: it writes the log into the database, and the log's size is bounded.
                await writer.run(store.close)
        finally:
            lock.release()


def _open_sqlite_store(
    lock: DatabaseLock, policy: Policy, clock: Callable[[], float], brokers: Collection[str]
) -> SqliteStore:
    """Open the store in a locked file. If that fails, the files that this start has created are deleted."""
    # Imported here: SQLAlchemy takes a fifth of a second to import, and memory:// does not need it.
    from actorchat.storage.sqlite import SqliteStore

    try:
        return SqliteStore(lock.path, policy, clock=clock, claim=lock, brokers=brokers)
    except BaseException:
        lock.discard()
        raise
