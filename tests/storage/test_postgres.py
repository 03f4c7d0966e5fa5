"""The store in PostgreSQL says what is wrong with its server, and stays right while the server comes and goes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from actorchat.chat.model import Policy
from actorchat.chat.operations import AcceptChat, AddMessage, Changed, CloseChat, Operation, RecordPerson
from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import Role, User
from actorchat.storage import StoreUrlError, open_store
from actorchat.storage.postgres.advisory import START, take
from actorchat.storage.postgres.connecting import COMMIT_SECONDS, Connector
from actorchat.storage.postgres.locks import person_lock
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.postgres.tables import metadata
from actorchat.storage.postgres.upgrade import check_server
from actorchat.storage.store import Batch
from tests.brokers.servers import free_port
from tests.postgres_server import PostgresServer, wait_for
from tests.storage.old_postgres import old_postgres
from tests.storage.sample_chat import ANN, CHAT, EVE, NOW, RESERVE


@pytest.fixture
def url(new_postgres: Callable[[], str]) -> str:
    return new_postgres()


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore(url, Policy())) as store:
        yield store


def test_the_migrations_make_exactly_the_tables_of_postgresql(url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []


async def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorchat.storage.factory.find_spec", lambda name: None)
    with pytest.raises(StoreUrlError, match=r'type pip install "actorchat\[postgres\]"'):
        async with open_store("postgresql://127.0.0.1/chat", Policy()):
            raise AssertionError("was opened")


def test_an_older_server_is_refused_with_the_reason(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", 160_004)
    with closing(Connector(url).open(3)) as connection, pytest.raises(StoreUrlError, match="on PostgreSQL 16, but 17"):
        check_server(connection, "it")


def test_a_server_that_is_too_old_to_be_connected_to_is_refused_with_the_reason() -> None:
    with old_postgres() as url, pytest.raises(StoreUrlError, match="on a PostgreSQL older than 17, but 17") as raised:
        PostgresStore(url, Policy())
    assert "hidden" not in str(raised.value)


def test_a_wrong_option_of_the_url_is_not_taken_for_an_old_server(url: str) -> None:
    with pytest.raises(StorageUnavailable, match="invalid value for parameter"):
        PostgresStore(f"{url}?options=-c%20transaction_timeout%3Dsoon", Policy())


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ("postgresql://127.0.0.1/x?nonsense=1", StoreUrlError, "is not a PostgreSQL URL: invalid URI query parameter"),
        ("postgresql://me:hidden@127.0.0.1:{free}/x", StorageUnavailable, "Connection refused"),
        ("postgresql://actorchat@127.0.0.1:{port}/nowhere", StorageUnavailable, 'database "nowhere" does not exist'),
        ("postgresql://nobody@127.0.0.1:{port}/postgres", StorageUnavailable, 'role "nobody" does not exist'),
    ],
)
def test_a_server_that_can_not_be_used_is_named_with_the_reason(
    given: str, kind: type[Exception], said: str, postgres_server: PostgresServer
) -> None:
    with pytest.raises(kind, match=said) as raised:
        PostgresStore(given.format(free=free_port(), port=postgres_server.port), Policy())
    assert "hidden" not in str(raised.value)


def test_the_database_of_another_program_is_refused_untouched(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE cats (name text)")
        with pytest.raises(StoreUrlError, match=r"another program \(its tables are cats\)"):
            PostgresStore(url, Policy())
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == [("cats",)]


def test_a_user_without_the_right_to_create_tables_is_told_what_to_do(postgres_server: PostgresServer) -> None:
    postgres_server.execute("CREATE ROLE guest LOGIN")
    guest = postgres_server.new_database().replace("actorchat@", "guest@")
    with pytest.raises(StoreUrlError) as raised:
        PostgresStore(guest, Policy())
    message = str(raised.value)
    assert "permission denied for schema public: let the owner of the database run" in message
    grant = "GRANT CREATE ON SCHEMA public TO guest"
    assert grant in message
    postgres_server.execute(grant, guest.rpartition("/")[2])
    PostgresStore(guest, Policy()).close()


def test_a_user_who_does_not_own_the_older_tables_is_told_so(postgres_server: PostgresServer, url: str) -> None:
    postgres_server.execute("CREATE ROLE reader LOGIN IN ROLE pg_read_all_data, pg_write_all_data")
    postgres_server.execute("UPDATE alembic_version SET version_num = '0001'", url.rpartition("/")[2])
    with pytest.raises(StoreUrlError, match="reader needs the right to create in the schema public and must own"):
        PostgresStore(url.replace("actorchat@", "reader@"), Policy())


def test_another_error_of_an_upgrade_is_an_outage(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        # Its tables are there already.
        connection.execute("UPDATE alembic_version SET version_num = '0017'")
        with pytest.raises(StorageUnavailable, match="already exists"):
            PostgresStore(url, Policy())


@pytest.mark.parametrize("new", [False, True])
def test_a_start_waits_for_that_of_another_server_for_longer_than_for_other_locks(
    postgres_server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    monkeypatch.setattr("actorchat.storage.postgres.connecting._LOCK_SECONDS", 1)
    url = postgres_server.new_database() if new else url
    with psycopg.connect(url) as holder, ThreadPoolExecutor(1) as thread:
        take(holder, [START])
        starting = thread.submit(PostgresStore, url, Policy())
        try:
            with pytest.raises(TimeoutError):
                # Longer than other locks are waited for, and than a commit may take.
                starting.result(COMMIT_SECONDS + 2)
        finally:
            holder.rollback()
        starting.result(60).close()


@pytest.mark.parametrize("command", [("nodes",), ("actors", "tree", "--node", "one")])
def test_a_command_before_the_first_start_says_so(command: tuple[str, ...], postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    arguments = [sys.executable, "-m", "actorchat", *command, "--storage", url]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.endswith("has no tables of actorchat: no server has used this database yet")


@pytest.mark.parametrize("command", [("serve",), ("nodes",), ("actors", "tree", "--node", "one")])
def test_commands_refuse_the_database_of_another_program(
    command: tuple[str, ...], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id bigint)")
    arguments = [sys.executable, "-m", "actorchat", *command, "--storage", url]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("belongs to another program (its tables are orders): name another database\n")


def test_the_schema_of_a_newer_version_is_refused(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreUrlError, match=r"9999.*newer version"):
        PostgresStore(url, Policy())


def test_a_database_that_is_not_in_utf8_is_refused(postgres_server: PostgresServer) -> None:
    postgres_server.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreUrlError, match="has the encoding LATIN1"):
        PostgresStore(postgres_server.url("latin"), Policy())


def test_a_connection_that_the_server_has_closed_is_replaced_without_an_error(url: str, store: PostgresStore) -> None:
    numbers = count(1)
    store.commit([RESERVE], Batch("w", next(numbers), NOW))
    for text in ("a", "b"):
        assert store.chat(CHAT) is not None
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        [(decision, _)] = store.commit([AddMessage(CHAT, ANN, text)], Batch("w", next(numbers), NOW))
        assert isinstance(decision, Changed)


def test_the_package_is_importable_without_psycopg() -> None:
    modules = "actorchat.server.serving, actorchat.cli, actorchat.storage.sqlite, actorchat.testing"
    script = f"import sys; sys.modules['psycopg'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_message_changes_no_index_of_its_chat(url: str) -> None:
    with closing(PostgresStore(url, Policy())) as store:
        store.commit([RESERVE], Batch("w", 1, NOW))
        store.commit([AddMessage(CHAT, ANN, "the first one makes the chat a new one")], Batch("w", 2, NOW))
        for number in range(20):
            store.commit([AddMessage(CHAT, ANN, str(number))], Batch("w", 3 + number, NOW + number))
    with psycopg.connect(url, autocommit=True) as connection:
        updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'chats'"
        found = connection.execute(updates).fetchall()
        for _ in range(600):
            # The store's connection reports its numbers when it ends.
            if found[0][0] == 21:
                break
            connection.execute("SELECT pg_sleep(0.05)")
            found = connection.execute(updates).fetchall()
    assert found == [(21, 20)]


def test_a_lock_that_turns_out_to_be_needed_late_is_waited_for_before_the_chats_are_locked(url: str) -> None:
    with closing(PostgresStore(url, Policy())) as store:
        person = RecordPerson(EVE, frozenset({"firstname"}), frozenset({"shop"}))
        before: list[Operation] = [RESERVE, AddMessage(CHAT, ANN, "hello"), AcceptChat(CHAT, EVE), CloseChat(CHAT, EVE)]
        for number, operation in enumerate([person, *before], start=1):
            store.commit([operation], Batch("w", number, NOW))
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND wait_event = 'advisory'"
    )
    with (
        # A new one does not know that the chat is closed, and so not that its operator counts.
        closing(PostgresStore(url, Policy())) as store,
        psycopg.connect(url) as holder,
        psycopg.connect(url, autocommit=True) as watcher,
        ThreadPoolExecutor(1) as thread,
    ):
        take(holder, [person_lock((True, EVE.id))])
        answer = thread.submit(store.commit, [AddMessage(CHAT, ANN, "again")], Batch("v", 1, NOW))
        wait_for(lambda: watcher.execute(waiting.encode()).fetchall() == [(1,)])
        # Whoever holds the lock may need the chat next.
        assert len(watcher.execute("SELECT number FROM chats FOR NO KEY UPDATE NOWAIT").fetchall()) == 1
        assert not answer.done()
        holder.rollback()
        [(decision, _)] = answer.result(timeout=60)
    assert isinstance(decision, Changed)
    assert decision.chat.operator is None


def test_a_profile_that_another_server_has_stored_is_in_the_next_decision(url: str) -> None:
    with closing(PostgresStore(url, Policy())) as store, closing(PostgresStore(url, Policy())) as other:
        store.commit([RESERVE], Batch("w", 1, NOW))
        shown: list[str] = []
        for number, name in enumerate(("Ann", "Ann", "Anna", "Anna", "Ann"), start=2):
            if number > 2:
                renamed = RecordPerson(User(ANN.id, Role.USER, firstname=name), frozenset({"firstname"}), frozenset())
                other.commit([renamed], Batch("v", number, NOW))
            [(decision, _)] = store.commit([AddMessage(CHAT, ANN, str(number))], Batch("w", number, NOW))
            assert isinstance(decision, Changed)
            shown.append(decision.chat.owner.firstname)
            assert decision.messages[0].author == decision.chat.owner
    assert shown == ["Ann", "Ann", "Anna", "Anna", "Ann"]
