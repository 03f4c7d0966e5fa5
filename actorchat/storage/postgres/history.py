"""Finds out whether the database has another history than before: a restored backup, or a standby that took over."""

from __future__ import annotations

import logging
from typing import Final

import psycopg

from actorchat.storage.postgres.advisory import take_start
from actorchat.storage.postgres.connecting import Connection
from actorchat.storage.postgres.cursor import PostgresCursor
from actorchat.storage.postgres.errors import shown
from actorchat.storage.postgres.statements import PostgresStatements

__all__ = ["EPOCH", "HISTORY", "read_history", "stored_epoch"]

_log = logging.getLogger("actorchat.storage")

HISTORY: Final = "history"
EPOCH: Final = "log_epoch"


def read_history(connection: Connection, statements: PostgresStatements) -> str:
    """A text that is another one after a restore or a failover, "" if the server does not tell."""
    try:
        [(history,)] = connection.execute(statements.history.encode()).fetchall()
    except (psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.errors.ObjectNotInPrerequisiteState) as error:
        _log.info("the server does not tell its timeline, so that a failover is noticed late: %s", shown(error))
        return ""
    return str(history)


def stored_epoch(
    connection: Connection, statements: PostgresStatements, history: str, now: int, *, went_back: bool = False
) -> int:
    """The epoch of what is logged from now on, the same for all servers.

    It grows when `history` is not the stored one, and when storage `went_back` within it. `now` is in epoch seconds.
    """
    epoch, same = _known(connection, statements, history)
    if epoch and same and not went_back:
        return epoch
    with connection.transaction():
        take_start(connection)
        epoch, same = _known(connection, statements, history)
        if epoch and same and not went_back:
            return epoch
        if epoch:
            if not same:
                _log.warning("the database was restored from a backup, or another server of it took over")
            # The sequence may be older than what was drawn from it, and clients have seen these numbers.
            [(number,)] = connection.execute(statements.leave_numbers_out.encode()).fetchall()
            _log.warning("new messages get ids above %d, so that none of a lost message is given again", number)
        # Higher than any that a lost later state of the database has had.
        epoch = max(now, epoch + 1)
        cursor = PostgresCursor(connection, statements.row_types)
        cursor.execute(statements.put_setting, (HISTORY, history))
        cursor.execute(statements.put_setting, (EPOCH, str(epoch)))
        return epoch


def _known(connection: Connection, statements: PostgresStatements, history: str) -> tuple[int, bool]:
    """The stored epoch, 0 if there is none, and whether `history` is the stored one."""
    cursor = PostgresCursor(connection, statements.row_types)
    known: dict[str, str] = {}
    # In this order, so that an epoch is at least as new as the history that another server stores with it.
    for name in (HISTORY, EPOCH):
        cursor.execute(statements.setting, (name,))
        for (value,) in cursor.fetchall():
            known[name] = value
    return int(known.get(EPOCH, 0)), known.get(HISTORY) == history
