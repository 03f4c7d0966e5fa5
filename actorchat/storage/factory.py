"""Owns what a storage URL means. Knows no store from inside."""

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
from actorchat.storage.database_lock import DatabaseLock, claim
from actorchat.storage.memory import MemoryStore
from actorchat.storage.store import Store, StoreUrlError
from actorchat.storage.worker_threads import InPlace, Runner, open_workers
from actorchat.urls import without_secrets

if TYPE_CHECKING:
    from actorchat.storage.sqlite import SqliteStore

__all__ = ["Storage", "open_store"]

READERS: Final = 2
"""Threads that read: one long reading must not hold up every other."""


@attrs.frozen
class Storage:
    """An open store: `chat_reader` to read, and for `open_journal` the `store` with the `runner` its commits run
    in, and what is to be done about once a second to look after it. `log` is there if it was opened for brokers.
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
    """Open `memory://` or `sqlite:///path/to/file` (four slashes for an absolute path). Leaving the block
    closes it. With `brokers`, their names, every commit is logged for them.

    Raises `StoreUrlError` if the URL names nothing that can be opened, `StorageUnavailable` if it can't be
    now, as while another server has it open. `clock` gives epoch seconds.
    """
    scheme, _, rest = url.partition("://")
    if rest == "/:memory:":
        raise StoreUrlError(f"{url!r} would be a file of that name: use memory:// to keep nothing")
    if url == "memory://":
        in_place = InPlace()
        memory = MemoryStore(policy, clock, brokers)
        log = AsyncLog(memory, in_place, in_place) if brokers else None
        yield Storage(memory, in_place, AsyncReader(memory, in_place), log=log)
    elif scheme == "sqlite" and len(rest) > 1 and rest[0] == "/":
        async with _open_sqlite(Path(rest[1:]), policy, clock, brokers) as storage:
            yield storage
    else:
        raise StoreUrlError(f"{without_secrets(url)!r} is no storage URL: use sqlite:///path/to/file or memory://")


@asynccontextmanager
async def _open_sqlite(
    path: Path, policy: Policy, clock: Callable[[], float], brokers: Collection[str]
) -> AsyncIterator[Storage]:
    async with open_workers("storage-reader", READERS) as readers, open_workers("storage-writer") as writer:
        claimed = await writer.run(partial(claim, path))
        try:
            store = await writer.run(partial(_sqlite_store, claimed, policy, clock, brokers))
            try:
                log = AsyncLog(store, readers, writer) if brokers else None
                yield Storage(store, writer, AsyncReader(store, readers), store.tidy, log)
            finally:
                # A checkpoint of the log, which is bounded: a second at most.
                await writer.run(store.close)
        finally:
            claimed.release()


def _sqlite_store(
    claimed: DatabaseLock, policy: Policy, clock: Callable[[], float], brokers: Collection[str]
) -> SqliteStore:
    """The store in a claimed file. If it can't be opened, no file stays behind that was not there before."""
    # SQLAlchemy takes a fifth of a second to import, and memory:// never needs it.
    from actorchat.storage.sqlite import SqliteStore

    try:
        return SqliteStore(claimed.path, policy, clock=clock, claim=claimed, brokers=brokers)
    except BaseException:
        claimed.discard()
        raise
