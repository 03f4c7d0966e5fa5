"""The migrations create the schema that the code uses; Alembic is imported only to migrate."""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from actorchat.chat.model import Identity, PersonRecord, Policy
from actorchat.chat.operations import AddMessage, Changed, SetOnline
from actorchat.chat.ports import ChatFilter
from actorchat.protocol import Role
from actorchat.storage import migrations
from actorchat.storage.connections import connect
from actorchat.storage.schema import HEAD, metadata
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch, StoreUrlError
from tests.storage.sample_chat import ANN, EVE, say

OPEN_AND_TELL = """
import sys
from pathlib import Path
from actorchat.chat.model import Policy
from actorchat.storage.sqlite import SqliteStore
SqliteStore(Path(sys.argv[1]), Policy()).close()
print("alembic" in sys.modules)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "chat.db"
    SqliteStore(path, Policy()).close()
    return path


def test_the_migrations_make_exactly_the_schema(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        indexes = {
            index["name"]: index["column_names"]
            for table in metadata.tables
            for index in inspect(connection).get_indexes(table)
        }
    engine.dispose()
    declared = {
        index.name: [column.name for column in index.columns]
        for table in metadata.tables.values()
        for index in table.indexes
    }
    assert indexes == declared


def test_head_is_the_newest_migration() -> None:
    [folder] = migrations.__path__
    assert ScriptDirectory(folder).get_heads() == [HEAD]


def old_database(path: Path, revision: str, statements: Sequence[str]) -> None:
    """Create a database of an older schema revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(next(iter(migrations.__path__)))))
    config.set_main_option("path_separator", "os")
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


FIRST = (
    "INSERT INTO people VALUES ('user', 1, '', '', 'Ann', '', '[]', 0)",
    "INSERT INTO people VALUES ('operator', 1, '', '', 'Eve', '', '[\"shop\"]', 1)",
    # Columns: number, uuid, source, owner, stage, operator, rev, next_index, four watermarks, last_visitor_index,
    # last_activity, awaiting_since, due_at. Chat 1 was accepted long after the question, 2 waits for an operator,
    # 3 was accepted without a message, 4 is reserved.
    "INSERT INTO chats VALUES"
    " (1, '00000000000000000000000000000001', 'shop', 1, 'open', 1, 2, 1, -1, -1, -1, -1, 0, 1000, 900, 910.0),"
    " (2, '00000000000000000000000000000002', 'shop', 1, 'new', NULL, 1, 1, -1, -1, -1, -1, 0, 950, 950, 1050.0),"
    " (3, '00000000000000000000000000000003', 'shop', 1, 'open', 1, 1, 0, -1, -1, -1, -1, -1, 940, NULL, NULL),"
    " (4, '00000000000000000000000000000004', 'mall', 1, 'reserved', NULL, 0, 0, -1, -1, -1, -1, -1, 940, NULL, NULL)",
    "INSERT INTO messages VALUES (1, 1, 0, 1, 'standard', 'user', 'user', 1, 'hi', 900, NULL),"
    " (2, 2, 0, 1, 'standard', 'user', 'user', 1, 'ho', 950, NULL)",
    "INSERT INTO operator_counters VALUES (1, 0, 2, 2)",
    "INSERT INTO source_counters VALUES ('shop', 2, 2)",
    "INSERT INTO writers VALUES ('old', 3, 2, 1000, 0)",
    "INSERT INTO settings VALUES ('timers', '100 10')",
)  # fmt: skip
"""Rows of the first schema."""


def test_a_database_of_the_first_schema_keeps_everything_and_gets_its_timers_right(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    old_database(path, "0001", FIRST)
    with closing(SqliteStore(path, Policy(answer_timeout=10, idle_timeout=100))) as store:
        assert store.corrected_counters == 0
        accepted, waiting = store.chat(UUID(int=1)), store.chat(UUID(int=2))
        assert accepted is not None
        assert waiting is not None
        assert (accepted.operator, accepted.awaiting_since, accepted.assigned_at) == (EVE, 900, 1000)
        # Chat 1 has the whole answer time, chat 2 in the queue is never closed, and chat 3 is idle.
        assert store.due(1009, 9) == ()
        assert store.due(10**9, 9) == (accepted.uuid, UUID(int=3))
        eve = store.person(Identity(Role.OPERATOR, 1))
        assert eve is not None
        assert eve == PersonRecord(EVE, eve.memberships, online=True)
        decided = store.commit([say("more"), SetOnline(1, False)], Batch("new", 1, 2000))
        assert isinstance(decided[0][0], Changed)
        assert decided[0][0].messages[0].id == 3


def test_operators_of_an_older_schema_belong_to_their_sources_for_another_month(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    ann = "INSERT INTO people VALUES ('user', 1, '', '', 'Ann', '', '[\"shop\"]', 0, 0)"
    eve = "INSERT INTO people VALUES ('operator', 1, '', '', 'Eve', '', '[\"shop\"]', 1, 0)"
    old_database(path, "0002", (ann, eve))
    before = int(time.time())
    with closing(SqliteStore(path, Policy())) as store:
        [operator] = store.operators(["shop"])
        assert store.person(Identity(Role.USER, 1)) == PersonRecord(ANN)
    [(source, until)] = operator.person.memberships.items()
    assert source == "shop"
    assert 0 <= until - before - 30 * 86_400 <= 60
    assert operator.person == PersonRecord(EVE, {"shop": until}, online=True)


def test_a_database_of_the_first_schema_has_its_lists_in_order(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    old_database(path, "0001", FIRST)
    with closing(SqliteStore(path, Policy())) as store:
        page = store.chats(ChatFilter(limit=2))
        assert [chat.uuid.int for chat in page.chats] == [2, 1]
        assert page.next is not None
        # Chat 3, accepted without a message, moves to the top before the walk reaches it.
        store.commit([AddMessage(UUID(int=3), EVE, "hello")], Batch("new", 1, 2000))
        page = store.chats(ChatFilter(before=page.next))
        assert [chat.uuid.int for chat in page.chats] == [3]
        assert [chat.uuid.int for chat in store.chats(ChatFilter()).chats] == [3, 2, 1]


@pytest.mark.slow
def test_a_database_that_is_up_to_date_is_opened_without_alembic(path: Path) -> None:
    def opened(at: Path) -> str:
        command = [sys.executable, "-c", OPEN_AND_TELL, str(at)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert opened(path) == "False"
    assert opened(path.with_name("new.db")) == "True"


def test_the_schema_of_a_newer_version_is_refused_untouched(path: Path) -> None:
    with closing(connect(path, read_only=False)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreUrlError, match=r"9999.*newer version"):
        SqliteStore(path, Policy())
    with closing(connect(path, read_only=True)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.db"

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("half way")

    monkeypatch.setattr("alembic.op.create_index", fail)
    with pytest.raises(RuntimeError, match="half way"):
        SqliteStore(path, Policy())
    with closing(connect(path, read_only=True)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
