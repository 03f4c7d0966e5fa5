"""Sorts the errors of PostgreSQL by what has to be done about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import errors

from actorchat.chat.ports import StorageDamaged, StorageUnavailable
from actorchat.storage.row_mapping import DamagedRow

__all__ = ["is_damage", "is_outage", "may_work_again", "outages_named", "shown"]

_AGAIN: Final = (errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation)
_DAMAGE: Final = (errors.DataCorrupted, errors.IndexCorrupted, DamagedRow)
_BAD_VALUES: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.ProgrammingError,
    psycopg.NotSupportedError,
    *_DAMAGE,
)


def may_work_again(error: Exception) -> bool:
    """Whether another writer was in the way, so that the whole transaction is to be tried again."""
    return isinstance(error, _AGAIN)


def is_damage(error: Exception) -> bool:
    """Whether stored rows are damaged. Statements that don't read them still work."""
    return isinstance(error, _DAMAGE)


def is_outage(error: Exception) -> bool:
    """Whether the database failed, not a value: no connection, a full disk, a lock held for too long, a standby."""
    return isinstance(error, psycopg.Error) and not isinstance(error, _BAD_VALUES)


def shown(error: BaseException) -> str:
    """The text of an error in one line."""
    return "; ".join(filter(None, map(str.strip, str(error).splitlines()))) or type(error).__name__


@contextmanager
def outages_named(name: str) -> Iterator[None]:
    """Turn outages and damage into `StorageUnavailable` and `StorageDamaged`."""
    try:
        yield
    except Exception as error:
        if is_damage(error):
            raise StorageDamaged(f"{name} is damaged ({shown(error)}): restore a backup") from error
        if isinstance(error, errors.UndefinedTable):
            # Only of a command, or if its tables were deleted since the start.
            raise StorageUnavailable(
                f"{name} has no tables of actorchat: no server has used this database yet"
            ) from error
        if is_outage(error) or isinstance(error, psycopg.ProgrammingError):
            raise StorageUnavailable(f"{name}: {shown(error)}") from error
        raise
