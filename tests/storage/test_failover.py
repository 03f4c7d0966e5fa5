"""After a failover to a standby, or a restore, nothing is decided on what storage has lost."""

import time
from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest
import trio

from actorchat.chat.commit_log import decode_commit
from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage, Changed, EditMessage
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.search import SearchFilter
from actorchat.protocol import Role
from actorchat.storage.postgres.connecting import COMMIT_SECONDS
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.search import StoreSearch
from actorchat.storage.search_index import SearchIndex
from actorchat.storage.store import Batch, CommitInDoubt
from actorchat.storage.worker_threads import InPlace
from tests.postgres_server import STARTS_WITHIN, cut_replication, has_everything, primary_and_standby, wait_for
from tests.storage.sample_chat import ANN, CHAT, NOW, RESERVE, all_messages


class Talk:
    """Adds messages to the sample chat, and recovers as the journal does."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.number = 1
        store.commit([RESERVE], Batch("w", 1, NOW))

    def say(self, text: str) -> Changed | None:
        """The change that was acknowledged, None if the message was refused."""
        self.number += 1
        batch = Batch("w", self.number, NOW)
        try:
            [(decision, _)] = self.store.commit([AddMessage(CHAT, ANN, text)], batch)
        except CommitInDoubt as doubt:
            [(decision, _)] = doubt.decided
            if not self._recovered(batch):
                return None
        except StorageUnavailable:
            self._recovered(batch)
            return None
        assert isinstance(decision, Changed)
        return decision

    def _recovered(self, batch: Batch) -> bool:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                return self.store.recover(batch)
            except StorageUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def epochs(store: PostgresStore) -> list[int]:
    return [decode_commit(row.payload).epoch for row in store.batches("w", after=1, upto=99, limit=99)]


@pytest.mark.slow
def test_a_standby_that_lagged_is_noticed_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with primary_and_standby() as (primary, standby):
        url = f"postgresql://actorchat@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        with closing(PostgresStore(url, Policy())) as store:
            talk = Talk(store)
            assert talk.say("kept")
            wait_for(lambda: has_everything(primary, standby))
            [before, *_] = epochs(store)
            cut_replication(standby)
            lost = talk.say("lost")
            assert lost is not None
            primary.kill()
            standby.execute("SELECT pg_promote()")
            assert store.losses == 0
            while (again := talk.say("again")) is None:
                pass
            # The lost message's revision and index were given again, and nobody may take them for the lost one.
            assert (again.chat.rev, again.messages[0].index) == (lost.chat.rev, lost.messages[0].index)
            assert [message.text for message in all_messages(store)] == ["kept", "again"]
            assert store.losses == 1
            assert epochs(store)[-1] > before
    assert "may have lost commits: the history of the database was" in caplog.text


@pytest.mark.slow
def test_with_a_synchronous_standby_no_acknowledged_message_is_lost() -> None:
    with primary_and_standby("synchronous_standby_names='standby'") as (primary, standby):
        url = f"postgresql://actorchat@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        wait_for(lambda: primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        with closing(PostgresStore(url, Policy())) as store:
            talk = Talk(store)
            told = [text for text in map(str, range(20)) if talk.say(text)]
            assert len(told) == 20
            primary.kill()
            standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            standby.execute("SELECT pg_promote()")
            while not talk.say("after"):
                pass
            assert [message.text for message in all_messages(store)] == [*told, "after"]


def test_rows_that_are_older_than_what_was_committed_are_noticed(
    new_postgres: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = new_postgres()
    with closing(PostgresStore(url, Policy())) as store, psycopg.connect(url, autocommit=True) as connection:
        talk = Talk(store)
        before = store.epoch()
        # Computed columns can't be inserted.
        connection.execute("CREATE TABLE earlier AS SELECT * FROM chats")
        connection.execute("ALTER TABLE chats ALTER COLUMN inactive_since DROP EXPRESSION")
        assert talk.say("lost")
        # As somebody restores older tables, without a new timeline.
        connection.execute("DELETE FROM messages")
        connection.execute("DELETE FROM chats")
        connection.execute("INSERT INTO chats SELECT * FROM earlier")
        again = talk.say("again")
        assert again is not None
        assert (again.chat.rev, again.messages[0].index) == (1, 0)
        assert [message.text for message in all_messages(store)] == ["again"]
        assert store.losses == 1
        # So that all nodes hear of it, with the next commit.
        assert store.epoch() == epochs(store)[-1] > before
    assert "is stored with revision 0, not 1" in caplog.text


@pytest.mark.slow
def test_no_id_of_a_lost_message_is_given_again_however_far_the_standby_lagged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with primary_and_standby() as (primary, standby):
        url = f"postgresql://actorchat@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        with closing(PostgresStore(url, Policy())) as store:
            talk = Talk(store)
            assert talk.say("kept")
            wait_for(lambda: has_everything(primary, standby))
            cut_replication(standby)
            # PostgreSQL itself leaves out 32 values of a sequence.
            lost = [talk.say(str(number)) for number in range(100)]
            newest = max(message.id for each in lost if each is not None for message in each.messages)
            primary.kill()
            standby.execute("SELECT pg_promote()")
            while (again := talk.say("again")) is None:
                pass
            assert again.messages[0].id > newest
    assert "new messages get ids above" in caplog.text


def test_the_search_finds_what_is_stored_after_a_loss(new_postgres: Callable[[], str]) -> None:
    url = new_postgres()
    with (
        closing(PostgresStore(url, Policy())) as store,
        closing(SearchIndex(None)) as index,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        search = StoreSearch(
            store, index, InPlace(), in_background=False, database=lambda: f"{store.identity} {store.epoch()}"
        )

        def found(word: str) -> list[str]:
            which = SearchFilter(words=(word,), role=Role.OPERATOR)
            return [message.text for _, message in trio.run(search.messages, which).messages]

        talk = Talk(store)
        said = talk.say("before")
        assert said is not None
        connection.execute("CREATE TABLE earlier_messages AS SELECT * FROM messages")
        connection.execute("CREATE TABLE earlier_chats AS SELECT * FROM chats")
        connection.execute("ALTER TABLE chats ALTER COLUMN inactive_since DROP EXPRESSION")
        edit = EditMessage(CHAT, ANN, said.messages[0].id, "afterwards")
        store.commit([edit], Batch("w", 3, NOW))
        talk.number = 3
        wait_for(lambda: found("afterwards") == ["afterwards"])
        # As somebody restores older tables.
        for table in ("messages", "chats"):
            connection.execute(f"DELETE FROM {table}".encode())  # noqa: S608 - constants
            connection.execute(f"INSERT INTO {table} SELECT * FROM earlier_{table}".encode())  # noqa: S608 - constants
        connection.execute("DELETE FROM edits")
        assert talk.say("again")
        assert store.losses == 1
        wait_for(lambda: found("again") == ["again"])
        assert (found("before"), found("afterwards")) == (["before"], [])


def pooled(url: str, seconds: int) -> str:
    """A URL as of a pooled user with this limit: the last option counts, as if a pooler had dropped those before it."""
    return f"{url}?options=-c%20transaction_timeout%3D{seconds}s"


@pytest.mark.parametrize("seconds", [COMMIT_SECONDS, 9])
def test_a_failover_behind_a_pooler_is_noticed_without_a_new_connection(
    new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    monkeypatch.setattr("actorchat.storage.postgres.store._TEND_PERIOD", 0.0)
    with closing(PostgresStore(pooled(new_postgres(), seconds), Policy())) as store:
        assert Talk(store).say("kept")
        before = store.epoch()
        monkeypatch.setattr("actorchat.storage.postgres.store.read_history", lambda *_: "of the standby")
        store.tidy()
        assert store.losses == 1
        assert store.epoch() > before


def test_a_failover_is_counted_once_although_its_epoch_can_not_be_stored_at_first(
    new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.storage.postgres.store._TEND_PERIOD", 0.0)
    with closing(PostgresStore(pooled(new_postgres(), 9), Policy())) as store:
        assert Talk(store).say("kept")
        before = store.epoch()
        with monkeypatch.context() as failing:
            failing.setattr("actorchat.storage.postgres.store.stored_epoch", fail)
            monkeypatch.setattr("actorchat.storage.postgres.store.read_history", lambda *_: "of the standby")
            for _ in range(3):
                store.tidy()
        for _ in range(3):
            store.tidy()
        assert store.losses == 1
        assert store.epoch() > before


def fail(*arguments: object, **options: object) -> int:
    raise psycopg.errors.ReadOnlySqlTransaction("the standby has not taken over yet")


def test_a_server_that_does_not_tell_its_history_for_a_while_has_lost_nothing(
    new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.storage.postgres.store._TEND_PERIOD", 0.0)
    with closing(PostgresStore(pooled(new_postgres(), 9), Policy())) as store:
        assert Talk(store).say("kept")
        before = store.epoch()
        with monkeypatch.context() as recovering:
            recovering.setattr("actorchat.storage.postgres.store.read_history", lambda *_: "")
            store.tidy()
        store.tidy()
        assert (store.losses, store.epoch()) == (0, before)


def test_a_server_that_commits_nothing_hears_of_a_later_epoch_too(new_postgres: Callable[[], str]) -> None:
    with closing(PostgresStore(new_postgres(), Policy())) as store:
        heard = store.epoch() + 5
        store.follow_epoch(heard)
        store.tidy()
        assert (store.losses, store.epoch()) == (1, heard)


def test_a_server_that_hears_of_a_later_epoch_forgets_what_it_has_read(new_postgres: Callable[[], str]) -> None:
    with closing(PostgresStore(new_postgres(), Policy())) as store:
        talk = Talk(store)
        assert talk.say("first")
        heard = store.epoch() + 5
        store.follow_epoch(heard)
        store.follow_epoch(heard - 1)
        assert talk.say("second")
        assert (store.losses, store.epoch(), epochs(store)[-1]) == (1, heard, heard)
        assert talk.say("third")
        assert store.losses == 1
