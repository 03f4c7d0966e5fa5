"""Makes a consistent copy of a SQLite database that a server may be using, and checks such a copy."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import attrs

from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.connections import connect
from actorchat.storage.error_messages import describe_sqlite_error
from actorchat.storage.schema import HEAD
from actorchat.storage.schema_upgrade import check_owner
from actorchat.storage.store import StoreUrlError

__all__ = ["DatabaseSummary", "FileRow", "check_copy", "copy_database", "file_exists_in", "list_files"]

_STEPS: Final = 20_000
"""Steps of SQLite's virtual machine between two reports of progress, which take a few milliseconds."""

Report = Callable[[int, int], None]
"""Is called with the bytes done and the bytes in all, which may be an estimate."""


@attrs.frozen
class DatabaseSummary:
    """The content of a copy: the version of its schema, and how many chats and messages."""

    schema: str
    chats: int
    messages: int


@attrs.frozen
class FileRow:
    """An uploaded file that the database knows: its hexadecimal UUID, and sizes in bytes (0 without a preview)."""

    uuid: str
    size: int
    preview_size: int


def copy_database(path: Path, target: Path, report: Report) -> None:
    """Copy the database at `path`, as of one moment, into the new file `target`. A running server is not disturbed.

    The copy contains no deleted data, which the pages of the database may still hold. Raises `StorageUnavailable` or
    `StoreUrlError` if the database can't be read, and KeyboardInterrupt after Ctrl-C.
    """
    # SQLite accepts an empty file, and would create one that others may read.
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(connect(path, read_only=True)) as connection:
            check_owner(connection, path)
            total = _used_bytes(connection)

            def step() -> int:
                report(min(os.stat(target).st_size, total), total)
                return 0

            connection.set_progress_handler(step, _STEPS)
            connection.execute("VACUUM INTO ?", (str(target.absolute()),))
            report(total, total)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            # Ctrl-C was raised in `step`, where SQLite takes any exception as a request to stop.
            raise KeyboardInterrupt from None
        raise _described(path, target, error) from error


def _used_bytes(connection: sqlite3.Connection) -> int:
    [(pages,)] = connection.execute("PRAGMA page_count").fetchall()
    [(free,)] = connection.execute("PRAGMA freelist_count").fetchall()
    [(size,)] = connection.execute("PRAGMA page_size").fetchall()
    return int((pages - free) * size)


def _described(path: Path, target: Path, error: sqlite3.Error) -> StoreUrlError | StorageUnavailable:
    if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE")):
        return StorageUnavailable(f"{target} cannot be written because the disk is full: free some space")
    return describe_sqlite_error(path, error)


def check_copy(path: Path) -> DatabaseSummary:
    """Check every page and index of a copy that nothing else uses.

    Raises `StoreUrlError` if it is damaged, is not a database of actorchat, or was written by a newer version.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            version = check_owner(connection, path)
            if version is None:
                raise StoreUrlError(f"{path} is an empty database")
            if version > HEAD:
                raise StoreUrlError(
                    f"{path} has schema {version}, but this version of actorchat knows schemas up to {HEAD}: use the"
                    " newer version that wrote it"
                )
            [(result, *_), *_] = connection.execute("PRAGMA integrity_check(1)").fetchall()
            if result != "ok":
                raise StoreUrlError(f"{path} is damaged: {result}")
            [(chats,)] = connection.execute("SELECT count(*) FROM chats").fetchall()
            [(messages,)] = connection.execute("SELECT count(*) FROM messages").fetchall()
    except sqlite3.Error as error:
        raise describe_sqlite_error(path, error) from error
    return DatabaseSummary(version, chats, messages)


def list_files(path: Path) -> list[FileRow]:
    """Return the uploaded files that the database at `path` knows. Raises as `copy_database` does."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'uploads'").fetchall():
                # The database is older than attachments.
                return []
            return [FileRow(*row) for row in connection.execute("SELECT uuid, size, preview_size FROM uploads")]
    except sqlite3.Error as error:
        raise describe_sqlite_error(path, error) from error


def file_exists_in(path: Path, uuid: str) -> bool:
    """Return whether the live database at `path` knows the file. Raises as `copy_database` does."""
    try:
        with closing(connect(path, read_only=True)) as connection:
            return bool(connection.execute("SELECT 1 FROM uploads WHERE uuid = ?", (uuid,)).fetchall())
    except sqlite3.Error as error:
        raise describe_sqlite_error(path, error) from error
