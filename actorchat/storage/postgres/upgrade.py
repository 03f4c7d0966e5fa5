"""Checks a PostgreSQL server and its database at the start, and upgrades the schema.

Servers that start at the same time do this one after the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psycopg
from psycopg.errors import InsufficientPrivilege

from actorchat.storage.postgres.advisory import take_start
from actorchat.storage.postgres.connecting import Connection, check_version
from actorchat.storage.postgres.tables import metadata
from actorchat.storage.schema import HEAD
from actorchat.storage.store import StoreUrlError

__all__ = ["check_server", "schema_version", "upgrade"]

_MAX_NAMED: Final = 3
_TABLES: Final = """
    SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum
"""


def check_server(connection: Connection, name: str) -> None:
    """Raise `StoreUrlError` if the server or the database can't be used. `name` is for the message."""
    check_version(connection, name)
    [(encoding, schema)] = connection.execute(
        "SELECT current_setting('server_encoding'), current_schema()::text"
    ).fetchall()
    if encoding != "UTF8":
        raise StoreUrlError(f"{name} has the encoding {encoding}: create a database with the encoding UTF8")
    if schema is None:
        raise StoreUrlError(f"{name} has no schema for its tables: create one, or name it in search_path")


def schema_version(connection: Connection, name: str) -> str | None:
    """The version of the schema, None if the database is empty. Raises `StoreUrlError` for another program's."""
    tables = _tables(connection)
    if not tables:
        return None
    if "version_num" not in tables.get("alembic_version", ()):
        named = ", ".join(list(tables)[:_MAX_NAMED]) + (", …" if len(tables) > _MAX_NAMED else "")
        raise StoreUrlError(f"{name} belongs to another program (its tables are {named}): name another database")
    versions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version").fetchall()]
    if len(versions) != 1:
        raise StoreUrlError(
            f"{name} does not have exactly one schema version (alembic_version has {versions}): it is damaged or"
            " belongs to another program; restore a backup, or name another database"
        )
    return str(versions[0])


def upgrade(connection: Connection, name: str) -> None:
    """Upgrade the schema to `HEAD`, in one transaction. Raises `StoreUrlError` and `psycopg.Error`."""
    version = schema_version(connection, name)
    if version != HEAD:
        _migrate(connection, name)
    tables = _tables(connection)
    for table in metadata.sorted_tables:
        missing = sorted({column.name for column in table.columns} - set(tables.get(table.name, ())))
        if missing:
            what = f"the column {missing[0]} of the table {table.name}" if table.name in tables else table.name
            raise StoreUrlError(
                f"{name} lacks {what}: it is damaged or belongs to another program; restore a backup, or name another"
                " database"
            )


def _migrate(connection: Connection, name: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import StaticPool

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    config.set_main_option("path_separator", "os")
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    connection.autocommit = False
    version: str | None = None
    try:
        with engine.connect() as alchemy, alchemy.begin():
            connection.set_limits()
            take_start(connection)
            # Another server may have upgraded it meanwhile, perhaps from an empty database.
            version = schema_version(connection, name)
            config.attributes["connection"] = alchemy
            command.upgrade(config, "head")
    except CommandError as error:
        raise StoreUrlError(
            f"{name} has schema {version}, but this version of actorchat knows schemas up to {HEAD}: use the newer"
            " version that wrote it, or name another database"
        ) from error
    except DBAPIError as error:
        # Raise the driver's exception, because callers handle psycopg's, not SQLAlchemy's.
        if isinstance(error.orig, InsufficientPrivilege):
            raise _not_allowed(connection, name, version, error.orig) from None
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise
    finally:
        if not connection.closed:
            connection.rollback()
            connection.autocommit = True


def _not_allowed(connection: Connection, name: str, version: str | None, error: psycopg.Error) -> StoreUrlError:
    """Return the error for a user who may not create the tables, or not upgrade those with schema `version`."""
    connection.rollback()
    [(user, schema, database)] = connection.execute(
        "SELECT quote_ident(current_user), quote_ident(current_schema()), quote_ident(current_database())"
    ).fetchall()
    if version is None:
        remedy = (
            f"let the owner of the database run GRANT CREATE ON SCHEMA {schema} TO {user}, or make {user} the owner"
            f" with ALTER DATABASE {database} OWNER TO {user}"
        )
    else:
        remedy = f"{user} needs the right to create in the schema {schema} and must own the tables that are there"
    return StoreUrlError(f"{name}: {error.diag.message_primary}: {remedy}")


def _tables(connection: Connection) -> dict[str, list[str]]:
    """The columns of each table in the schema of the connection."""
    tables: dict[str, list[str]] = {}
    for table, column in connection.execute(_TABLES).fetchall():
        tables.setdefault(table, []).append(column)
    return tables
