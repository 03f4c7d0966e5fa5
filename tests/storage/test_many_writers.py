"""Several servers commit to one PostgreSQL database at the same time, while connections break."""

from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest

from actorchat.chat.model import Policy
from actorchat.storage.postgres.statements import PostgresStatements
from actorchat.storage.postgres.store import PostgresStore
from actorchat.testing import check_many_writers

ONE_COMMITTING = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle' ORDER BY random() LIMIT 1"
)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [Policy(), Policy(capacity=2, idle_timeout=30, answer_timeout=10)])
def test_writers_agree_on_everything(policy: Policy, new_postgres: Callable[[], str]) -> None:
    url = new_postgres()
    check_many_writers(lambda policy: closing(PostgresStore(url, policy)), policy=policy, batches=40, seed=3)


@pytest.mark.slow
def test_writers_agree_while_their_connections_are_cut(new_postgres: Callable[[], str]) -> None:
    url = new_postgres()
    cut = 0
    with psycopg.connect(url, autocommit=True) as connection:

        def disturb() -> None:
            nonlocal cut
            cut += len(connection.execute(ONE_COMMITTING).fetchall())

        check_many_writers(lambda policy: closing(PostgresStore(url, policy)), disturb, batches=60)
    assert cut > 10


@pytest.mark.slow
def test_without_locks_of_chats_the_check_fails(
    new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_postgres()

    class WithoutLocks(PostgresStatements):
        def __init__(self) -> None:
            super().__init__()
            self.lock_chats = self.lock_chats.replace("FOR NO KEY UPDATE", "")

    monkeypatch.setattr("actorchat.storage.postgres.store.PostgresStatements", WithoutLocks)
    with pytest.raises(AssertionError):
        check_many_writers(lambda policy: closing(PostgresStore(url, policy)), batches=100)
