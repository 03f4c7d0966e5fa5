"""Corrects counters and due times when a SQL database is opened, and deletes the records of old writers."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from actorchat.chat.model import ChatState, OperatorCounters, Policy, contribution
from actorchat.storage.row_mapping import Row, chat_of, counters_row, read_row
from actorchat.storage.sql_reads import Cursor
from actorchat.storage.sql_writer import BatchCursor
from actorchat.storage.statements import Statements

__all__ = ["IDENTITY", "WRITER_SECONDS", "database_identity", "prepare_start"]

_log = logging.getLogger("actorchat.storage")

IDENTITY: Final = "identity"
"""The setting with the random name of the database."""

WRITER_SECONDS: Final = 86_400
"""A writer that has not shown for so long that it is there is forgotten."""

_TIMERS: Final = "timers"
# The version of the rules in `ChatState.due_at`. A higher number makes the next start recompute all stored due times.
_DUE_TIMES_VERSION: Final = 2
_PAGE: Final = 1_000


def prepare_start(
    cursor: BatchCursor,
    statements: Statements,
    policy: Policy,
    now: int,
    active: Iterable[tuple[int, ChatState]] | None = None,
) -> int:
    """Recount all counters, recompute due times if the policy's timers changed, and delete writers of long ago.

    Runs in the caller's transaction. `now` is epoch seconds. `active` are the active chats with their numbers, if they
    were read already. Returns how many counters were wrong.
    """
    timers = f"{_DUE_TIMES_VERSION} {policy.idle_timeout} {policy.answer_timeout}"
    timers_changed = _all(cursor, statements.setting, (_TIMERS,)) != [(timers,)]
    due: list[Row] = []
    counted = _Counted()
    for number, chat in _active(cursor, statements) if active is None else active:
        counted.add(chat)
        if timers_changed:
            due.append((chat.due_at(policy), number))
    if timers_changed:
        cursor.executemany(statements.update_due, due)
        cursor.execute(statements.put_setting, (_TIMERS, timers))
    cursor.execute(statements.forget_writers, (now - WRITER_SECONDS,))
    return _correct(cursor, statements, counted)


def database_identity(cursor: BatchCursor, statements: Statements) -> str:
    """Return the random name of this database, which its backups have too. It is stored at the first start."""
    for (identity,) in _all(cursor, statements.setting, (IDENTITY,)):
        return str(identity)
    identity = secrets.token_hex(16)
    cursor.execute(statements.put_setting, (IDENTITY, identity))
    return identity


def _active(cursor: BatchCursor, statements: Statements) -> Iterator[tuple[int, ChatState]]:
    """Every active chat with its number. Rows are fetched in pages, because there may be very many."""
    cursor.execute(statements.active_chats)
    while rows := cursor.fetchmany(_PAGE):
        for row in rows:
            yield row[0], read_row(chat_of, row)


@attrs.define(eq=False)
class _Counted:
    """The counters as the sum of the contributions of all active chats; other chats contribute nothing."""

    new: Counter[int] = attrs.Factory(Counter)
    open: Counter[int] = attrs.Factory(Counter)
    unread: Counter[str] = attrs.Factory(Counter)

    def add(self, chat: ChatState) -> None:
        added = contribution(chat)
        self.unread[chat.source] += added.unread
        if added.operator_id is not None:
            self.new[added.operator_id] += added.new
            self.open[added.operator_id] += added.open


def _correct(cursor: BatchCursor, statements: Statements, counted: _Counted) -> int:
    """Correct the stored counters that are wrong, log each of them, and return how many there were."""
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
        _log.error(
            "the counters of operator %d were wrong and are corrected: stored (new, open, rev) %s, recounted %s",
            counters.operator_id,
            stored,
            counters,
        )
    for source, count, _ in wrong_sources:
        _log.error(
            "the unread counter of source %r was wrong and is corrected: stored (unread, rev) %s, recounted %d",
            source,
            sources.get(source),
            count,
        )
    cursor.executemany(statements.put_operator_counters, list(map(counters_row, wrong_operators)))
    cursor.executemany(statements.put_source_counters, wrong_sources)
    return len(wrong_operators) + len(wrong_sources)


def _all(cursor: Cursor, statement: str, parameters: Row = ()) -> list[Row]:
    cursor.execute(statement, parameters)
    return cursor.fetchall()
