"""Owns bringing a database to the newest schema when it is opened. Knows no table but Alembic's own.

Alembic takes a third of a second to import, so a database that is up to date never meets it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from actorchat.storage.schema import HEAD
from actorchat.storage.store import StoreUrlError

__all__ = ["upgrade"]


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring the schema to `HEAD`, all of it or nothing. Raises `StoreUrlError` for the schema of a newer
    version.
    """
    if _version(connection) == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    with engine.connect() as alchemy, alchemy.begin():
        # Of two processes that open a new database at once, the second finds it finished.
        alchemy.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = alchemy
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreUrlError(
                f"the database has schema {_version(connection)}, which this actorchat, with {HEAD}, doesn't know:"
                " use the newer version that wrote it, or another file"
            ) from error


def _version(connection: sqlite3.Connection) -> str | None:
    tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
    if not tables:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])
