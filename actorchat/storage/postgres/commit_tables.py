"""Reads and orders the log of commits, which servers read by writer and brokers in one order."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from actorchat.chat.commit_log import LogEntry
from actorchat.storage.log_tables import follow_brokers
from actorchat.storage.postgres.advisory import PLACES, take
from actorchat.storage.postgres.connecting import Connection
from actorchat.storage.postgres.cursor import PostgresCursor
from actorchat.storage.postgres.statements import PostgresStatements

__all__ = ["LOG_SECONDS", "place_commits", "placed_entries", "prepare_places"]

LOG_SECONDS: Final = 600.0
"""Commits stay in the log for at least this time, so that a server that was away for a while can read them."""

_PAGE: Final = 500


def prepare_places(cursor: PostgresCursor, statements: PostgresStatements, brokers: Collection[str]) -> None:
    """Follow exactly the configured brokers, in the caller's transaction."""
    take(cursor.connection, [PLACES])
    cursor.execute(statements.place_commits)
    follow_brokers(cursor, statements, brokers)
    if not brokers:
        cursor.execute(statements.forget_queue)
        cursor.execute(statements.forget_places)


def place_commits(connection: Connection, statements: PostgresStatements) -> None:
    """Give each waiting commit its place in the order in which all brokers get them.

    A commit of a chat is visible before the next one of that chat is decided, and it has drawn a lower number. So each
    chat's commits get their places in commit order. Of several servers one does it.
    """
    with connection.transaction():
        [(ours,)] = connection.execute(statements.try_to_place.encode(), (PLACES,)).fetchall()
        if ours:
            connection.execute(statements.place_commits.encode())


def placed_entries(connection: Connection, statements: PostgresStatements, after: int, size: int) -> list[LogEntry]:
    """The oldest entries behind `after`, at least one if there are any, about `size` bytes."""
    found: list[LogEntry] = []
    while size > 0:
        rows = connection.execute(statements.placed.encode(), (after, _PAGE)).fetchall()
        for row in rows:
            entry = LogEntry(*row)
            found.append(entry)
            after = entry.seq
            size -= len(entry.payload)
            if size <= 0:
                break
        if len(rows) < _PAGE:
            break
    return found
