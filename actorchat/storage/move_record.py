"""Records beside a SQLite database that its chats were moved to PostgreSQL, so that no server starts with it again.

The record is a file, because the database stays as it was, and its backups do not have it.
"""

from __future__ import annotations

import os
from pathlib import Path

from actorchat.storage.error_messages import describe_os_error
from actorchat.storage.store import StoreUrlError

__all__ = ["check_not_moved", "moved_to", "record_move", "record_path"]


def record_path(database: Path) -> Path:
    """The file that has the record of a database."""
    path = database.resolve()
    return path.with_name(f"{path.name}.moved")


def record_move(database: Path, target: str) -> None:
    """Record that the chats were moved to `target`, a URL without its password. Raises OSError."""
    with record_path(database).open("w", encoding="utf-8") as file:
        file.write(f"{target}\n")
        file.flush()
        os.fsync(file.fileno())


def moved_to(database: Path) -> str | None:
    """Return the URL that the chats were moved to, None if they were not. Raises `StoreUrlError`."""
    record = record_path(database)
    try:
        return record.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUrlError(describe_os_error(record, error)) from error


def check_not_moved(database: Path) -> None:
    """Raise `StoreUrlError` if the chats were moved."""
    target = moved_to(database)
    if target is not None:
        raise StoreUrlError(
            f"the chats of {database} were moved to {target}: start the server with that URL as --storage; to use this"
            f" database again, which lacks what was written since then, delete {record_path(database)}"
        )
