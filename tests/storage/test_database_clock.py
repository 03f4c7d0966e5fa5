"""All servers go by the clock of the database, also when a clock is set while they run."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import attrs
import pytest

from actorchat.chat.model import Policy
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.store import Batch
from tests.storage.sample_chat import NOW, RESERVE

HOUR = 3_600.0


@attrs.define
class Clock:
    """The clock of a server's machine, which is off by so many seconds, and by `step` more after each look."""

    off: float = 0.0
    step: float = 0.0

    def __call__(self) -> float:
        now = time.time() + self.off
        self.off += self.step
        return now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(new_postgres: Callable[[], str], clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresStore]:
    monkeypatch.setattr("actorchat.storage.postgres.store._TEND_PERIOD", 0.0)
    with closing(PostgresStore(new_postgres(), Policy(), clock)) as store:
        yield store


def is_right(store: PostgresStore) -> bool:
    return abs(store.now() - time.time()) < HOUR / 2


def test_a_clock_that_is_set_is_noticed_while_the_server_commits(
    store: PostgresStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.off = HOUR
    assert not is_right(store)
    store.commit([RESERVE], Batch("w", 1, NOW))
    assert is_right(store)
    assert "a clock was set: that of" in caplog.text
    assert "is -3600.0 s ahead of this machine's, and was 0.0 s" in caplog.text.replace("-0.0", "0.0")


def test_a_clock_that_is_set_is_noticed_while_the_server_is_idle(store: PostgresStore, clock: Clock) -> None:
    clock.off = -HOUR
    assert not is_right(store)
    store.tidy()
    assert is_right(store)


def test_a_slow_answer_changes_nothing(store: PostgresStore, clock: Clock) -> None:
    # The answer takes 20 seconds, so that the database may be ahead or behind by as much.
    clock.step = 20.0
    store.tidy()
    clock.off = clock.step = 0.0
    assert abs(store.now() - time.time()) < 1.0
