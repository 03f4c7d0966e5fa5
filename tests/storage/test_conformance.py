"""Every store passes `check_store`."""

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from itertools import count
from pathlib import Path

import pytest

from actorchat.chat.model import Policy
from actorchat.storage.memory import MemoryStore
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Store
from actorchat.testing import FaultyStore, OpenStore, check_store


def memory_place() -> OpenStore:
    def open_store(policy: Policy) -> AbstractContextManager[Store]:
        return closing(MemoryStore(policy))

    return open_store


def sqlite_places(folder: Path) -> Callable[[], OpenStore]:
    names = count()

    def place() -> OpenStore:
        path = folder / f"{next(names)}.db"
        return lambda policy: closing(SqliteStore(path, policy))

    return place


def test_the_memory_store_passes() -> None:
    check_store(memory_place, durable=False)


@pytest.mark.slow
def test_the_sqlite_store_passes(tmp_path: Path) -> None:
    check_store(sqlite_places(tmp_path))


@pytest.mark.slow
def test_the_postgresql_store_passes(new_postgres: Callable[[], str]) -> None:
    def place() -> OpenStore:
        url = new_postgres()
        return lambda policy: closing(PostgresStore(url, policy))

    check_store(place)


def test_the_faulty_store_passes_while_nothing_is_scripted() -> None:
    check_store(lambda: lambda policy: closing(FaultyStore(MemoryStore(policy))), durable=False)
