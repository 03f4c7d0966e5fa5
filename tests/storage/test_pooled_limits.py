"""Behind a pooler that drops the options of connections, each transaction still has the time that it needs."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage
from actorchat.chat.ports import StorageUnavailable
from actorchat.server.backup import BackupProgress
from actorchat.server.settings import Settings
from actorchat.server.storage_migration import Moved, migrate_storage
from actorchat.storage.postgres.advisory import START, TAKE, in_order
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from tests.postgres_server import PostgresServer
from tests.storage.sample_chat import ANN, CHAT, NOW, RESERVE

LONGER = 2.0
"""Seconds: longer than the limit of the pooled user."""


def pooled(url: str, seconds: int = 1) -> str:
    """A URL whose transactions end after so many seconds, as those of a pooled user: the last option counts."""
    return f"{url}?options=-c%20transaction_timeout%3D{seconds}s%20-c%20lock_timeout%3D0"


@contextmanager
def held(url: str, statement: str, *parameters: object) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url) as holder:
        holder.execute(statement.encode(), parameters)
        yield holder
        holder.rollback()


def finish_later(work: Future[object], holder: psycopg.Connection) -> object:
    """The result of `work`, which waits for what is held until it has taken longer than the user's limit."""
    with pytest.raises(TimeoutError):
        work.result(LONGER)
    holder.rollback()
    return work.result(60)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


@pytest.mark.parametrize("new", [False, True])
def test_a_start_and_an_upgrade_may_take_longer_than_the_users_limit(
    postgres_server: PostgresServer, new_postgres: Callable[[], str], thread: ThreadPoolExecutor, new: bool
) -> None:
    url = postgres_server.new_database() if new else new_postgres()
    with held(url, TAKE, in_order({START: True})) as holder:
        store = finish_later(thread.submit(PostgresStore, pooled(url), Policy()), holder)
    assert isinstance(store, PostgresStore)
    store.close()


def test_a_read_may_take_longer_than_the_users_limit(
    new_postgres: Callable[[], str], thread: ThreadPoolExecutor
) -> None:
    url = new_postgres()
    with closing(PostgresStore(pooled(url), Policy())) as store:
        store.commit([RESERVE], Batch("w", 1, NOW))
        with held(url, "LOCK TABLE chats") as holder:
            assert finish_later(thread.submit(store.chat, CHAT), holder) is not None


def test_a_move_may_take_longer_than_the_users_limit(
    new_postgres: Callable[[], str], thread: ThreadPoolExecutor, tmp_path: Path
) -> None:
    url, settings = new_postgres(), Settings(data=tmp_path)
    with closing(SqliteStore(Path(settings.storage_url.removeprefix("sqlite:///")), Policy())) as source:
        source.commit([RESERVE], Batch("w", 1, NOW))

    def move() -> Moved:
        return migrate_storage(settings, pooled(url), skip_unpublished=False, progress=BackupProgress())

    with held(url, "LOCK TABLE chats") as holder:
        assert finish_later(thread.submit(move), holder) == Moved(rows=2, files=0)


def test_a_batch_is_ended_after_its_own_time_if_the_user_has_no_limit(
    new_postgres: Callable[[], str], thread: ThreadPoolExecutor
) -> None:
    url = new_postgres()
    with closing(PostgresStore(pooled(url, 0), Policy())) as store:
        store.commit([RESERVE], Batch("w", 1, NOW))
        with held(url, "SELECT FROM chats FOR UPDATE"):
            waiting = thread.submit(store.commit, [AddMessage(CHAT, ANN, "waits")], Batch("w", 2, NOW))
            with pytest.raises(StorageUnavailable):
                waiting.result(20)
        assert not store.recover(Batch("w", 2, NOW))
