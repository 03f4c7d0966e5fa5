"""Reads, orders and trims the log of commits, which servers read by writer and brokers in one order."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Final

from actorchat.chat.commit_log import MOST_TRIMMED, LogEntry, TooOld, Trimmed
from actorchat.storage.log_tables import tell_of_new, tell_of_position, tell_of_removed
from actorchat.storage.postgres.advisory import PLACES, take
from actorchat.storage.postgres.connecting import Connection
from actorchat.storage.postgres.cursor import PostgresCursor
from actorchat.storage.postgres.statements import PostgresStatements

__all__ = ["LOG_SECONDS", "follow_brokers", "place_commits", "placed_entries", "trim_places"]

_log = logging.getLogger("actorchat.storage")

LOG_SECONDS: Final = 600.0
"""Commits stay in the log for at least this time, so that a server that was away for a while can read them."""

_PAGE: Final = 500


def follow_brokers(cursor: PostgresCursor, statements: PostgresStatements, brokers: Collection[str]) -> None:
    """Follow exactly the configured brokers, in the caller's transaction."""
    take(cursor.connection, [PLACES])
    cursor.execute(statements.place_commits)
    cursor.execute(statements.last_place)
    [(newest,)] = cursor.fetchall()
    cursor.execute(statements.relayed)
    known: dict[str, int] = dict(cursor.fetchall())
    for broker, position in sorted(known.items()):
        if broker not in brokers:
            cursor.execute(statements.delete_relayed, (broker,))
            cursor.execute(statements.count_entries, (position,))
            tell_of_removed(broker, cursor.fetchall()[0][0])
        elif position > newest:
            # What is logged next would count as published.
            cursor.execute(statements.put_relayed, (newest, broker))
            tell_of_position(broker)
    for broker in sorted(set(brokers) - known.keys()):
        cursor.execute(statements.add_relayed, (broker, newest))
        tell_of_new(broker)
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


def trim_places(
    cursor: PostgresCursor, statements: PostgresStatements, positions: Mapping[str, int], expired: TooOld
) -> Trimmed:
    """Record the positions of brokers, and forget the places of commits that all have confirmed or that are too old."""
    for broker, seq in sorted(positions.items()):
        cursor.execute(statements.put_relayed, (seq, broker))
    cursor.execute(statements.last_place)
    [(newest,)] = cursor.fetchall()
    cursor.execute(statements.relayed)
    done = min((seq for _, seq in cursor.fetchall()), default=0)
    cursor.execute(statements.oldest_entries, (MOST_TRIMMED,))
    oldest: Sequence[tuple[int, float]] = [(row[0], row[1]) for row in cursor.fetchall()]
    deletable = [seq for seq, _ in takewhile(lambda row: row[0] <= done or expired.covers(*row), oldest)]
    if deletable:
        cursor.execute(statements.delete_entries, (deletable[-1],))
    return Trimmed(len(deletable), sum(seq > done for seq in deletable), newest)
