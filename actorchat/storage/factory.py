"""Opens the store that a storage URL names."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from actorchat.chat.model import Policy
from actorchat.storage.async_log import AsyncLog, AsyncNodeLog
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.database_lock import DatabaseLock, lock_database
from actorchat.storage.memory import MemoryStore
from actorchat.storage.move_record import check_not_moved
from actorchat.storage.search import StoreSearch
from actorchat.storage.search_index import SearchIndex
from actorchat.storage.store import Store, StoreUrlError
from actorchat.storage.worker_threads import InPlace, Runner, open_workers
from actorchat.urls import names_postgres, without_secrets

if TYPE_CHECKING:
    from actorchat.storage.sqlite import SqliteStore

__all__ = ["Storage", "open_store", "search_path"]

READERS: Final = 2
"""The number of reading threads; with several, one long read does not block all others."""


SEARCH_SECONDS: Final = 2.0
"""How often the search index looks for what other servers have committed."""


@attrs.frozen
class Storage:
    """An open store.

    `store`, `runner` and `tidy` are for `open_journal`: commits run in `runner`, and `tidy` is called there about once
    a second. `log` is the commit log, None without brokers. `identity` is the random name of the database, which its
    backups have too; "" if it ends with the process. `messages` were stored since the store was opened. `search` is
    None in storages of tests. `node_log` is the log that other servers on the same database read, None if there can't
    be any. `clock` returns the time for batches in epoch seconds, None for this machine's.
    """

    store: Store
    runner: Runner
    chat_reader: AsyncReader
    tidy: Callable[[], object] | None = None
    log: AsyncLog | None = None
    identity: str = ""
    messages: Callable[[], int] = lambda: 0
    search: StoreSearch | None = None
    node_log: AsyncNodeLog | None = None
    clock: Callable[[], float] | None = None


@asynccontextmanager
async def open_store(
    url: str,
    policy: Policy,
    *,
    clock: Callable[[], float] = time.time,
    brokers: Collection[str] = (),
    folder: Path | None = None,
    also_moved: bool = False,
) -> AsyncIterator[Storage]:
    """Open `memory://`, `sqlite:///path/to/file` (four slashes for an absolute path) or `postgresql://host/database`;
    leaving the block closes it.

    `brokers` are the names of message brokers; with any, every commit is logged for them. `clock` returns epoch
    seconds. `folder` is for the search index of a PostgreSQL database, None for memory. `also_moved` allows a SQLite
    database whose chats were moved to PostgreSQL. Raises `StoreUrlError` if the URL is not valid or its database cannot
    be used, and `StorageUnavailable` if it cannot be opened at the moment, for example while another server uses the
    file.
    """
    scheme, _, rest = url.partition("://")
    if rest == "/:memory:":
        raise StoreUrlError(f"{url!r} would be a file with that name: use memory:// to store nothing")
    if url == "memory://":
        in_place = InPlace()
        memory = MemoryStore(policy, clock, brokers)
        log = AsyncLog(memory, in_place, in_place) if brokers else None
        search = StoreSearch(memory, SearchIndex(None), in_place, in_background=False)
        reader = AsyncReader(memory, in_place)
        yield Storage(memory, in_place, reader, log=log, messages=lambda: memory.messages_stored, search=search)
    elif scheme == "sqlite" and len(rest) > 1 and rest[0] == "/":
        async with _open_sqlite(_sqlite_path(rest[1:]), policy, clock, brokers, also_moved) as storage:
            yield storage
    elif names_postgres(url) and rest:
        async with _open_postgres(url, policy, clock, brokers, folder) as storage:
            yield storage
    else:
        raise StoreUrlError(
            f"{without_secrets(url)!r} is not a storage URL: use sqlite:///path/to/file, postgresql://host/database or"
            " memory://"
        )


def _sqlite_path(given: str) -> Path:
    """The path in a URL. Raises `StoreUrlError` if it looks like an absolute one that lacks its slash."""
    path = Path(given)
    if not path.is_absolute() and not path.parent.is_dir() and Path("/", path).parent.is_dir():
        raise StoreUrlError(
            f"{path.parent.absolute()} does not exist: an absolute path has four slashes, as in sqlite:////{given}"
        )
    return path


@asynccontextmanager
async def _open_sqlite(
    path: Path, policy: Policy, clock: Callable[[], float], brokers: Collection[str], also_moved: bool
) -> AsyncIterator[Storage]:
    async with (
        open_workers("storage-reader", READERS) as readers,
        open_workers("search") as searcher,
        open_workers("storage-writer") as writer,
    ):
        lock = await writer.run(partial(lock_database, path))
        try:
            store = await writer.run(partial(_open_sqlite_store, lock, policy, clock, brokers, also_moved))
            try:
                log = AsyncLog(store, readers, writer) if brokers else None
                reader = AsyncReader(store, readers)
                index = SearchIndex(search_path(path))
                search = StoreSearch(store, index, searcher, in_background=True, database=lambda: store.identity)
                try:
                    yield Storage(
                        store, writer, reader, store.tidy, log, store.identity, lambda: store.messages_stored, search
                    )
                finally:
                    await searcher.run(index.close)
            finally:
                # Takes a second at most: it writes the log into the database, and the log's size is bounded.
                await writer.run(store.close)
        finally:
            lock.release()


@asynccontextmanager
async def _open_postgres(
    url: str, policy: Policy, clock: Callable[[], float], brokers: Collection[str], folder: Path | None
) -> AsyncIterator[Storage]:
    if find_spec("psycopg") is None:
        raise StoreUrlError('postgresql:// needs a library: type pip install "actorchat[postgres]"')
    from actorchat.storage.postgres.store import PostgresStore

    async with (
        open_workers("storage-reader", READERS) as readers,
        open_workers("search") as searcher,
        open_workers("storage-writer") as writer,
    ):
        store = await writer.run(partial(PostgresStore, url, policy, clock, brokers))
        try:
            log = AsyncLog(store, readers, writer) if brokers else None
            reader = AsyncReader(store, readers)
            index = SearchIndex(None if folder is None else folder / "actorchat-search.db")
            search = StoreSearch(
                store,
                index,
                searcher,
                in_background=True,
                # In another epoch, numbers that the index has read may be those of other messages.
                database=lambda: f"{store.identity} {store.epoch()}",
                # Other servers commit too, and this one is not told of all that they do.
                look_again=SEARCH_SECONDS,
            )
            try:
                yield Storage(
                    store=store,
                    runner=writer,
                    chat_reader=reader,
                    tidy=store.tidy,
                    log=log,
                    identity=store.identity,
                    messages=lambda: store.messages_stored,
                    search=search,
                    node_log=AsyncNodeLog(store, readers),
                    clock=store.now,
                )
            finally:
                await searcher.run(index.close)
        finally:
            await writer.run(store.close)


def search_path(path: Path) -> Path:
    """The file of the search index that belongs to a database."""
    return path.with_name(f"{path.stem}-search{path.suffix}")


def _open_sqlite_store(
    lock: DatabaseLock, policy: Policy, clock: Callable[[], float], brokers: Collection[str], also_moved: bool
) -> SqliteStore:
    """Open the store in a locked file. If that fails, the files that this start has created are deleted."""
    # Imported here: SQLAlchemy takes a fifth of a second to import, and memory:// does not need it.
    from actorchat.storage.sqlite import SqliteStore

    try:
        if not also_moved:
            check_not_moved(lock.path)
        return SqliteStore(lock.path, policy, clock=clock, claim=lock, brokers=brokers)
    except BaseException:
        lock.discard()
        raise
