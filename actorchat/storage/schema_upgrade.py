"""Brings a database to the newest schema when it is opened, and refuses one that is not ours.

Alembic takes a third of a second to import, so it is imported only for a database that is new or older.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from actorchat.storage.schema import HEAD, metadata
from actorchat.storage.store import StoreUrlError

__all__ = ["check_owner", "upgrade"]

_VERSIONS = "alembic_version"
_MOST_NAMED = 3


def upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to `HEAD`, all of it or nothing.

    Raises `StoreUrlError` for the schema of a newer version and for tables that are damaged or not ours,
    `sqlite3.Error` if the database can't be used.
    """
    version = check_owner(connection, path)
    if version == HEAD:
        _check_tables(connection, path)
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import StaticPool

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    try:
        with engine.connect() as alchemy, alchemy.begin():
            # Of two processes that open a new database at once, the second finds it finished.
            alchemy.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = alchemy
            command.upgrade(config, "head")
            _check_tables(connection, path)
    except CommandError as error:
        raise StoreUrlError(
            f"{path} has schema {version}, which this actorchat, with {HEAD}, doesn't know: use the newer version that"
            " wrote it, or another file"
        ) from error
    except DBAPIError as error:
        # What the driver raised: callers know SQLite, not SQLAlchemy.
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from None
        raise


def check_owner(connection: sqlite3.Connection, path: Path) -> str | None:
    """The version of the schema, None for an empty database. Raises `StoreUrlError` for another program's database."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
    own = [name for name in names if not name.startswith("sqlite_")]
    if not own:
        return None
    if "version_num" not in _columns(connection, _VERSIONS):
        named = ", ".join(own[:_MOST_NAMED]) + (", …" if len(own) > _MOST_NAMED else "")
        raise StoreUrlError(f"{path} belongs to another program, its tables are {named}: name another file")
    versions = [row[0] for row in connection.execute(f"SELECT version_num FROM {_VERSIONS}")]  # noqa: S608 - a constant
    if len(versions) != 1 or not isinstance(versions[0], str):
        raise StoreUrlError(
            f"{path} has no single schema version (alembic_version holds {versions}): it is damaged or belongs to"
            " another program; restore a backup, or name another file"
        )
    return versions[0]


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    for table in metadata.sorted_tables:
        found = _columns(connection, table.name)
        missing = sorted({column.name for column in table.columns} - found)
        if missing:
            what = f"the column {missing[0]} of the table {table.name}" if found else f"the table {table.name}"
            raise StoreUrlError(
                f"{path} lacks {what}: it is damaged or belongs to another program; restore a backup, or name another"
                " file"
            )


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
