"""Owns what is put in order when a SQL database is opened: counters, due times, old writers.

Knows no transaction.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from actorchat.chat.model import ChatState, OperatorCounters, Policy, contribution
from actorchat.storage.sql_batch import BatchCursor
from actorchat.storage.sql_reads import Cursor
from actorchat.storage.sql_rows import Row, chat_of, counters_row
from actorchat.storage.statements import Statements

__all__ = ["prepare_start"]

_log = logging.getLogger("actorchat.storage")

_WRITER_KEPT: Final = 86_400
_TIMERS: Final = "timers"


def prepare_start(cursor: BatchCursor, statements: Statements, policy: Policy, now: int) -> int:
    """Recount, recompute due times if the policy's timers changed, forget writers that are long gone.

    Returns how many counters were wrong.
    """
    chats = [(row[0], chat_of(row)) for row in _all(cursor, statements.active_chats)]
    corrected = _recount(cursor, statements, [chat for _, chat in chats])
    timers = f"{policy.idle_timeout} {policy.answer_timeout}"
    if _all(cursor, statements.setting, (_TIMERS,)) != [(timers,)]:
        cursor.executemany(statements.update_due, [(chat.due_at(policy), number) for number, chat in chats])
        cursor.execute(statements.put_setting, (_TIMERS, timers))
    cursor.execute(statements.forget_writers, (now - _WRITER_KEPT,))
    return corrected


def _recount(cursor: BatchCursor, statements: Statements, chats: list[ChatState]) -> int:
    """Counters are the sum of the chats' contributions; chats that are not active have none."""
    new: Counter[int] = Counter()
    open_: Counter[int] = Counter()
    unread: Counter[str] = Counter()
    for chat in chats:
        share = contribution(chat)
        unread[chat.source] += share.unread
        if share.operator_id is not None:
            new[share.operator_id] += share.new
            open_[share.operator_id] += share.open
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
