"""Moves the chats of a stopped server from SQLite to PostgreSQL.

The SQLite database is locked meanwhile, and not changed unless its schema is older, which is then upgraded. A record
beside it keeps servers from opening it again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

import attrs

from actorchat.chat.model import Policy
from actorchat.chat.ports import StorageUnavailable
from actorchat.server.backup import BackupProgress
from actorchat.server.restore_plan import sync_folder
from actorchat.server.settings import Settings
from actorchat.storage.connections import connect
from actorchat.storage.database_lock import DatabaseLock, lock_database
from actorchat.storage.error_messages import describe_os_error, describe_sqlite_error
from actorchat.storage.move_record import record_move
from actorchat.storage.schema import HEAD
from actorchat.storage.schema_upgrade import check_owner
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.startup_repair import IDENTITY
from actorchat.storage.store import StoreUrlError
from actorchat.urls import names_postgres, without_secrets

__all__ = ["MigrationFailed", "Moved", "migrate_storage"]


class MigrationFailed(Exception):  # noqa: N818 - a result, not a bug
    """The chats were not moved. The text says why, and what to do."""


@attrs.frozen
class Moved:
    """How many rows were moved. `files` is how many files of chats they name, whose bytes stay where they are."""

    rows: int
    files: int


def migrate_storage(settings: Settings, target: str, *, skip_unpublished: bool, progress: BackupProgress) -> Moved:
    """Copy the database of `settings` to the database `target`, a postgresql:// URL.

    An interrupted copy goes on where it was. `skip_unpublished` allows it although message brokers have not confirmed
    all that was committed, which they then never get. Raises `MigrationFailed`.
    """
    path = settings.database_file
    if path is None:
        raise MigrationFailed(
            f"only a SQLite database can be moved, but `storage` is {without_secrets(settings.storage_url)}: name the"
            " old one with --storage sqlite:///path/to/file"
        )
    if not names_postgres(target):
        raise MigrationFailed("the chats can be moved to PostgreSQL only: postgresql://user@host/database")
    if not path.is_file():
        raise MigrationFailed(f"{path} does not exist: is --data the folder of the server?")
    if find_spec("psycopg") is None:
        raise MigrationFailed('postgresql:// needs a library: type pip install "actorchat[postgres]"')
    import psycopg

    from actorchat.storage.postgres.connecting import Connector
    from actorchat.storage.postgres.sqlite_import import ImportMismatch, SqliteImport
    from actorchat.storage.postgres.upgrade import check_server, upgrade

    try:
        connector = Connector(target)
    except StoreUrlError as error:
        raise MigrationFailed(str(error)) from None
    has_begun = False
    try:
        with _locked(path) as lock, closing(connector.open(0)) as connection:
            check_server(connection, connector.name)
            with closing(connect(lock.path, read_only=True)) as source:
                brokers = _brokers(source, lock.path, skip_unpublished=skip_unpublished)
                upgrade(connection, connector.name)
                identity = _identity(source, lock, settings.policy, brokers)
                moved = SqliteImport(source, connection, identity, connector.name)
                moved.begin()
                has_begun = True
                moved.copy(progress.begin("copying"))
                rows = moved.compare(progress.begin("comparing"))
                # Before servers may open the new database, so that they never may open both.
                record_move(lock.path, connector.name)
                sync_folder(lock.path.parent)
                [(files,)] = source.execute("SELECT count(*) FROM uploads").fetchall()
                moved.finish()
                return Moved(rows, files)
    except ImportMismatch as error:
        raise MigrationFailed(
            f"{error}: something else has changed one of the databases; empty the new one and begin again"
        ) from None
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise MigrationFailed(
            f"{connector.name}: {reason}{'; the next run goes on from here' if has_begun else ''}"
        ) from None
    except OSError as error:
        raise MigrationFailed(describe_os_error(Path(error.filename or path), error)) from None
    except sqlite3.Error as error:
        raise MigrationFailed(str(describe_sqlite_error(path, error))) from None
    except (StoreUrlError, StorageUnavailable) as error:
        raise MigrationFailed(str(error)) from None


@contextmanager
def _locked(path: Path) -> Iterator[DatabaseLock]:
    lock = lock_database(path)
    try:
        yield lock
    finally:
        lock.release()


def _brokers(source: sqlite3.Connection, path: Path, *, skip_unpublished: bool) -> tuple[str, ...]:
    """The brokers that the stopped server published to, whatever the settings of this command name."""
    check_owner(source, path)
    if not source.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'relayed'").fetchall():
        return ()  # a schema from before there were brokers
    brokers = tuple(name for (name,) in source.execute("SELECT broker FROM relayed ORDER BY broker").fetchall())
    lacking = source.execute("SELECT broker FROM relayed WHERE seq < (SELECT max(seq) FROM log) ORDER BY broker")
    for (broker,) in [] if skip_unpublished else lacking.fetchall():
        raise MigrationFailed(
            f"{broker} has not confirmed everything that was committed: start the server with it until it has, or give"
            " that up with --skip-unpublished"
        )
    return brokers


def _identity(source: sqlite3.Connection, lock: DatabaseLock, policy: Policy, brokers: Collection[str]) -> str:
    """The random name of the database, which is first upgraded if its schema is older, as a start does."""
    if check_owner(source, lock.path) == HEAD:
        for (identity,) in source.execute("SELECT value FROM settings WHERE name = ?", (IDENTITY,)).fetchall():
            return str(identity)
    # With its own brokers, so that their positions and the log stay.
    with closing(SqliteStore(lock.path, policy, claim=lock, brokers=brokers)) as store:
        return store.identity
