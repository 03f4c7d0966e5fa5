"""Owns what is put in order when a SQL database is opened: counters, due times, old writers.

Knows no transaction.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

from actorchat.chat.model import ChatState, OperatorCounters, Policy, contribution
from actorchat.storage.row_mapping import Row, chat_of, counters_row, read_row
from actorchat.storage.sql_reads import Cursor
from actorchat.storage.sql_writer import BatchCursor
from actorchat.storage.statements import Statements

__all__ = ["prepare_start"]

_log = logging.getLogger("actorchat.storage")

_WRITER_KEPT: Final = 86_400
_TIMERS: Final = "timers"
# What `ChatState.due_at` means: with a higher number due times that were stored under another meaning are recomputed.
_DUE_TIMES: Final = 2
_PAGE: Final = 1_000


def prepare_start(cursor: BatchCursor, statements: Statements, policy: Policy, now: int) -> int:
    """Recount, recompute due times if the policy's timers changed, forget writers that are long gone.

    Returns how many counters were wrong.
    """
    timers = f"{_DUE_TIMES} {policy.idle_timeout} {policy.answer_timeout}"
    renewed = _all(cursor, statements.setting, (_TIMERS,)) != [(timers,)]
    due: list[Row] = []
    counted = _Counted()
    for number, chat in _active(cursor, statements):
        counted.add(chat)
        if renewed:
            due.append((chat.due_at(policy), number))
    if renewed:
        cursor.executemany(statements.update_due, due)
        cursor.execute(statements.put_setting, (_TIMERS, timers))
    cursor.execute(statements.forget_writers, (now - _WRITER_KEPT,))
    return _correct(cursor, statements, counted)


def _active(cursor: BatchCursor, statements: Statements) -> Iterator[tuple[int, ChatState]]:
    """Every active chat with its number. Rows are read by the page, since there may be very many."""
    cursor.execute(statements.active_chats)
    while rows := cursor.fetchmany(_PAGE):
        for row in rows:
            yield row[0], read_row(chat_of, row)


@attrs.define(eq=False)
class _Counted:
    """Counters as the sum of the chats' contributions; chats that are not active have none."""

    new: Counter[int] = attrs.Factory(Counter)
    open: Counter[int] = attrs.Factory(Counter)
    unread: Counter[str] = attrs.Factory(Counter)

    def add(self, chat: ChatState) -> None:
        share = contribution(chat)
        self.unread[chat.source] += share.unread
        if share.operator_id is not None:
            self.new[share.operator_id] += share.new
            self.open[share.operator_id] += share.open


def _correct(cursor: BatchCursor, statements: Statements, counted: _Counted) -> int:
    """Store those counters that are wrong, and say how many are."""
    new, open_, unread = counted.new, counted.open, counted.unread
    operators = {row[0]: row[1:] for row in _all(cursor, statements.all_operator_counters)}
    sources = {row[0]: row[1:] for row in _all(cursor, statements.all_source_counters)}
    wrong_operators = [
        OperatorCounters(id_, new[id_], open_[id_], rev + 1)
        for id_ in operators.keys() | new.keys()
        for stored_new, stored_open, rev in [operators.get(id_, (0, 0, 0))]
        if (stored_new, stored_open) != (new[id_], open_[id_])
    ]
    wrong_sources = [
        (source, unread[source], rev + 1)
        for source in sources.keys() | unread.keys()
        for stored, rev in [sources.get(source, (0, 0))]
        if stored != unread[source]
    ]
    for counters in wrong_operators:
        stored = operators.get(counters.operator_id)
        _log.error("operator %d: stored (new, open, rev) %s, recounted %s", counters.operator_id, stored, counters)
    for source, count, _ in wrong_sources:
        _log.error("source %r: stored (unread, rev) %s, recounted %d", source, sources.get(source), count)
    cursor.executemany(statements.put_operator_counters, list(map(counters_row, wrong_operators)))
    cursor.executemany(statements.put_source_counters, wrong_sources)
    return len(wrong_operators) + len(wrong_sources)


def _all(cursor: Cursor, statement: str, parameters: Row = ()) -> list[Row]:
    cursor.execute(statement, parameters)
    return cursor.fetchall()
