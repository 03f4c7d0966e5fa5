"""Looks at a PostgreSQL database without changing it, for `actorchat doctor`."""

from __future__ import annotations

from contextlib import closing

import attrs
import psycopg

from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.postgres.connecting import READ_SECONDS, Connector
from actorchat.storage.postgres.errors import shown
from actorchat.storage.postgres.upgrade import check_server, schema_version

__all__ = ["DatabaseState", "inspect_database"]


@attrs.frozen
class DatabaseState:
    """The database `name`, a URL without its password, on the PostgreSQL `version`.

    `schema` is None before the first start. `behind` is by how many seconds the clock of this machine is behind that of
    the database. `standbys` says whether a commit waits for a standby.
    """

    name: str
    version: str
    schema: str | None
    behind: float
    standbys: bool


def inspect_database(url: str, now: float) -> DatabaseState:
    """Look at the database, with `now` in epoch seconds. Raises `StoreUrlError` and `StorageUnavailable`."""
    connector = Connector(url)
    try:
        with closing(connector.open(READ_SECONDS)) as connection:
            check_server(connection, connector.name)
            schema = schema_version(connection, connector.name)
            [(version, clock, standbys)] = connection.execute(
                "SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp())::float8,"
                " current_setting('synchronous_standby_names') <> ''"
            ).fetchall()
    except psycopg.Error as error:
        raise StorageUnavailable(f"{connector.name}: {shown(error)}") from error
    return DatabaseState(connector.name, version.split()[0], schema, clock - now, standbys)
