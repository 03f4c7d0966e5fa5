"""Servers delete old commits from the log of PostgreSQL by the database's clock, and nothing that others need."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import attrs
import pytest

from actorchat.chat.commit_log import TooOld
from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.startup_repair import WRITER_SECONDS
from actorchat.storage.store import Batch
from tests.storage.sample_chat import ANN, CHAT, RESERVE

NEVER = TooOld(0, 0, 0.0)


@pytest.fixture
def url(new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A database whose log is trimmed at once."""
    monkeypatch.setattr("actorchat.storage.postgres.store.LOG_SECONDS", 1e-9)
    monkeypatch.setattr("actorchat.storage.postgres.store._TEND_PERIOD", 0.0)
    return new_postgres()


@attrs.define
class Writing:
    store: PostgresStore
    number: int = 0

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            self.number += 1
            operation = RESERVE if self.number == 1 else AddMessage(CHAT, ANN, str(self.number))
            self.store.commit([operation], Batch("w", self.number, self.store.now()))

    def logged(self) -> list[int]:
        return [row.number for row in self.store.batches("w", after=0, upto=99, limit=99)]


@pytest.fixture
def write(url: str) -> Iterator[Writing]:
    with closing(PostgresStore(url, Policy())) as store:
        yield Writing(store)


def test_the_newest_commit_of_each_server_stays_so_that_the_others_miss_none(url: str, write: Writing) -> None:
    write(5)
    write.store.tidy()
    assert write.logged() == [5]
    with closing(PostgresStore(url, Policy())) as other:
        assert other.newest_batches() == {"w": 5}
        # It knows what it has logged last also after an outage.
        assert not write.store.recover(Batch("w", 6, write.store.now()))
        write(1)
        [row] = other.batches("w", after=5, upto=6, limit=9)
        assert (row.number, row.previous) == (6, 5)


def test_the_newest_commit_of_a_server_that_ended_long_ago_is_deleted(url: str, write: Writing) -> None:
    write.number = 1
    write.store.commit([RESERVE], Batch("w", 1, write.store.now() - WRITER_SECONDS - 60))
    with closing(PostgresStore(url, Policy())) as other:
        assert other.newest_batches() == {}


def test_what_a_broker_lacks_stays_in_the_log(url: str) -> None:
    with closing(PostgresStore(url, Policy(), brokers=("broker",))) as store:
        write = Writing(store)
        write(6)
        third = store.entries(0, 10**9)[2]
        store.tidy()
        assert write.logged() == [1, 2, 3, 4, 5, 6]
        store.record_relayed({"broker": third.seq}, NEVER)
        store.tidy()
        assert write.logged() == [4, 5, 6]


def test_much_that_is_old_is_deleted_in_steps(new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorchat.storage.postgres.statements._MOST_TRIMMED", 2)
    with closing(PostgresStore(new_postgres(), Policy())) as store:
        write = Writing(store)
        write(6)
        monkeypatch.setattr("actorchat.storage.postgres.store.LOG_SECONDS", 1e-9)
        monkeypatch.setattr("actorchat.storage.postgres.store._TEND_PERIOD", 0.0)
        left = []
        for _ in range(3):
            store.tidy()
            left.append(write.logged())
        # That the first one is old was known before.
        assert left == [[2, 3, 4, 5, 6], [4, 5, 6], [6]]


def test_a_server_whose_own_clock_is_ahead_deletes_no_new_commits_at_its_start(
    new_postgres: Callable[[], str],
) -> None:
    url = new_postgres()
    with closing(PostgresStore(url, Policy())) as store:
        write = Writing(store)
        write(3)
        PostgresStore(url, Policy(), clock=lambda: time.time() + 2 * WRITER_SECONDS).close()
        assert write.logged() == [1, 2, 3]
        write(1)
