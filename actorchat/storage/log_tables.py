"""Prepares and trims the tables of the commit log with a SQL cursor. The caller owns the transaction."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from itertools import takewhile
from typing import Final

from actorchat.chat.commit_log import MOST_TRIMMED, TooOld, Trimmed
from actorchat.storage.sql_writer import BatchCursor
from actorchat.storage.statements import Statements

__all__ = ["follow_brokers", "prepare_log", "trim_log"]

_log = logging.getLogger("actorchat.storage")

_EPOCH: Final = "log_epoch"


def follow_brokers(cursor: BatchCursor, statements: Statements, brokers: Collection[str]) -> None:
    """Follow exactly the configured brokers: a new one gets what is committed from now on."""
    cursor.execute(statements.newest_entry)
    [(newest,)] = cursor.fetchall()
    cursor.execute(statements.relayed)
    known: dict[str, int] = dict(cursor.fetchall())
    for broker, position in sorted(known.items()):
        if broker not in brokers:
            cursor.execute(statements.delete_relayed, (broker,))
            cursor.execute(statements.count_entries, (position,))
            _tell_of_removed(broker, cursor.fetchall()[0][0])
        elif position > newest:
            # What is logged next would count as published.
            cursor.execute(statements.put_relayed, (newest, broker))
            _log.warning("the commit log ends before the position of %s: it was set back to the end", broker)
    for broker in sorted(set(brokers) - known.keys()):
        cursor.execute(statements.add_relayed, (broker, newest))
        _log.info("%s is a new message broker: it gets what is committed from now on", broker)


def prepare_log(cursor: BatchCursor, statements: Statements, brokers: Collection[str], now: int) -> int:
    """Follow exactly the configured brokers. Returns the epoch of what is logged from now on.

    The newest entry stays, so that no number is given twice. `now` is in epoch seconds.
    """
    follow_brokers(cursor, statements, brokers)
    if not brokers:
        cursor.execute(statements.delete_old_entries)
        cursor.execute(statements.empty_entries)
        return 0
    # Higher than in every earlier run of a server, also of one that this database, restored from a backup, knows
    # nothing of.
    cursor.execute(statements.setting, (_EPOCH,))
    epoch = max([now, *(int(value) + 1 for (value,) in cursor.fetchall())])
    cursor.execute(statements.put_setting, (_EPOCH, str(epoch)))
    return epoch


def _tell_of_removed(broker: str, missed: int) -> None:
    if missed:
        _log.warning(
            "%s is no longer a message broker in the settings: %d commits that it has not confirmed are not published"
            " to it any more",
            broker,
            missed,
        )
    else:
        _log.info("%s is no longer a message broker in the settings: it had confirmed everything", broker)


def trim_log(cursor: BatchCursor, statements: Statements, positions: Mapping[str, int], expired: TooOld) -> Trimmed:
    """Record the positions of brokers, and delete some entries that all of them have confirmed or that are too old."""
    cursor.executemany(statements.put_relayed, [(seq, broker) for broker, seq in sorted(positions.items())])
    cursor.execute(statements.newest_entry)
    [(newest,)] = cursor.fetchall()
    cursor.execute(statements.relayed)
    done = min((seq for _, seq in cursor.fetchall()), default=0)
    cursor.execute(statements.oldest_entries, (MOST_TRIMMED,))
    oldest = cursor.fetchall()
    deletable = [seq for seq, _ in takewhile(lambda row: row[0] <= done or expired.covers(*row), oldest)]
    if deletable:
        cursor.execute(statements.delete_entries, (deletable[-1],))
    return Trimmed(len(deletable), sum(seq > done for seq in deletable), newest)
