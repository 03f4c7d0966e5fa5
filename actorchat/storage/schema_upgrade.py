"""Upgrades a database to the newest schema when it is opened, and refuses databases of other programs.

Alembic takes a third of a second to import, so it is imported only for a new or older database.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from actorchat.storage.schema import HEAD, metadata
from actorchat.storage.store import StoreUrlError

__all__ = ["check_owner", "upgrade"]

_VERSIONS = "alembic_version"
_MAX_NAMED = 3


def upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Upgrade the schema to `HEAD`, in one transaction.

    Raises `StoreUrlError` if the schema is newer, damaged or another program's, and `sqlite3.Error` if the database
    cannot be used.
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
            # If two processes open a new database at the same time, the second one waits and finds it complete.
            alchemy.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = alchemy
            command.upgrade(config, "head")
            _check_tables(connection, path)
    except CommandError as error:
        raise StoreUrlError(
            f"{path} has schema {version}, but this version of actorchat knows schemas up to {HEAD}: use the newer"
            " version that wrote it, or name another file"
        ) from error
    except DBAPIError as error:
        # Raise the driver's exception, because callers handle sqlite3's, not SQLAlchemy's.
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from None
        raise


def check_owner(connection: sqlite3.Connection, path: Path) -> str | None:
    """Return the version of the schema, None if empty. Raises `StoreUrlError` for another program's database."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
    own = [name for name in names if not name.startswith("sqlite_")]
    if not own:
        return None
    if "version_num" not in _columns(connection, _VERSIONS):
        named = ", ".join(own[:_MAX_NAMED]) + (", …" if len(own) > _MAX_NAMED else "")
        raise StoreUrlError(f"{path} belongs to another program (its tables are {named}): name another file")
    versions = [row[0] for row in connection.execute(f"SELECT version_num FROM {_VERSIONS}")]  # noqa: S608 - a constant
    if len(versions) != 1 or not isinstance(versions[0], str):
        raise StoreUrlError(
            f"{path} does not have exactly one schema version (alembic_version has {versions}): it is damaged or"
            " belongs to another program; restore a backup, or name another file"
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
