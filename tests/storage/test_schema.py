"""The migrations make the schema that the code uses, once, and Alembic is imported only for that."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from actorchat.chat.model import Policy
from actorchat.storage import migrations
from actorchat.storage.schema import HEAD, metadata
from actorchat.storage.sqlite import SqliteStore, connect
from actorchat.storage.store import StoreUrlError

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
