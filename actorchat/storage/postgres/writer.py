"""Decides and writes batches on PostgreSQL, where other servers write at the same time.

A batch locks its rows first, so that nobody else changes them until it ends. The cache of committed rows is compared
with what was locked. Counters are added to at the end, so that their rows are locked as briefly as possible.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, TypeVar

import attrs

from actorchat.chat.model import ANONYMOUS_IDS, OperatorCounters, Policy, SourceCounters, Stage
from actorchat.chat.operations import AddMessage, Operation, RefuseMessage
from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import Role, User
from actorchat.storage.changes import Changes
from actorchat.storage.decider import decide_batch
from actorchat.storage.postgres.advisory import TAKE, TRY_TO_TAKE, Locks, in_order
from actorchat.storage.postgres.connecting import Connection
from actorchat.storage.postgres.cursor import PostgresCursor
from actorchat.storage.postgres.locks import Wanted, wanted_locks
from actorchat.storage.postgres.statements import BLOCK, PostgresStatements
from actorchat.storage.preload import Preload, acting_user, missing_chats, missing_rest, owners
from actorchat.storage.row_cache import ChatRow, PersonKey, person_key
from actorchat.storage.row_mapping import Row, chat_of, keys, person_of, read_row, role_text
from actorchat.storage.sql_writer import Question, SqlWriter
from actorchat.storage.store import Batch, Counters, DecisionAndCounters

__all__ = ["FencedOff", "LockFirst", "PostgresWriter", "StorageWentBack"]

T = TypeVar("T")

_NOBODY: Final = OperatorCounters(0)
_NOWHERE: Final = SourceCounters("")
_MAX_PEOPLE: Final = 32_768
_REV, _LAST_ACTIVITY = 6, 13
"""Places of columns in the rows of chats."""


class FencedOff(Exception):  # noqa: N818 - named as the state it is
    """The database knows another state of the writer: it was recovered elsewhere, or its row is gone."""


class StorageWentBack(StorageUnavailable):
    """A stored chat is older than this writer has committed it."""


class LockFirst(Exception):  # noqa: N818 - named as what to do
    """The batch needs a lock that another one holds. `begin` waits for it in the next attempt, before all others."""


@attrs.frozen
class _Shift:
    """The amounts to add to counters that were decided on another value than the stored one."""

    first: int
    second: int
    rev: int


class PostgresWriter(SqlWriter):
    """Decides the operations of batches and writes their changes, between `begin` and the caller's COMMIT."""

    def __init__(self, statements: PostgresStatements, policy: Policy) -> None:
        super().__init__(statements, policy)
        self._sql = statements
        self._wanted = Wanted(set(), set(), {}, set(), set())
        # Locks that only turned out to be needed after those of chats were taken.
        self._first: Locks = {}
        self._waits = False
        self._block_end = 0
        self._chat_numbers: list[int] = []
        # The rows of people as they were read last, by which an unchanged one is recognized.
        self._people_rows: dict[PersonKey, Row] = {}
        self.drawn: int = 0
        """The number of the batch in the sequence `commit_order`."""

    def forget_all(self) -> None:
        """Forget all rows, because another history may be stored."""
        self.rows.clear()
        self._markable.clear()
        self._people_rows.clear()

    def can_lock(self, operation: Operation) -> bool:
        """Whether it can be told what `operation` locks. If not, it can't be decided either."""
        try:
            wanted_locks([operation])
            self._profiles([operation], ())
        except Exception:
            return False
        return True

    def begin(
        self,
        connection: Connection,
        operations: Sequence[Operation],
        batch: Batch,
        fences: int,
        *,
        waits: bool = False,
    ) -> None:
        """Begin a transaction, lock what `operations` need in one order, and drop cached rows that are outdated.

        With `waits`, `write` waits for locks of which it learns late, instead of raising `LockFirst`. Raises
        `FencedOff`, `StorageWentBack` and `psycopg.Error`.
        """
        sql, rows = self._sql, self.rows
        wanted = self._wanted = wanted_locks(operations)
        self._waits = waits
        if wanted.expiring:
            self._want_owners(connection, wanted)
        cached = {row.number: row for uuid in wanted.chats if (row := rows.chats.get(uuid)) is not None}
        unknown = [uuid.hex for uuid in wanted.chats if uuid not in rows.chats]
        pairs, all_of = owners(operations)
        wanted.lock_people(_holders(cached.values()), shared=True)
        for number, exclusive in self._first.items():
            wanted.locks[number] = wanted.locks.get(number, False) or exclusive
        self._first = {}
        people = self._profiles(operations, cached.values()) | wanted.people
        cursor = PostgresCursor(connection, sql.row_types)
        questions: list[tuple[str, Row]] = [
            ("BEGIN", ()),
            *((statement, ()) for statement in connection.limits),
        ]

        def ask(statement: str, *parameters: object) -> int:
            questions.append((statement, parameters))
            return len(questions) - 1

        # Its own row first: who recovers this writer waits here for the end of this transaction.
        fence = ask(sql.take_batch, batch.number, int(batch.now), batch.writer, fences)
        if wanted.locks:
            ask(TAKE, in_order(wanted.locks))
        chats = None
        if wanted.chats or pairs or all_of:
            chats = ask(sql.lock_chats, keys(cached), keys(unknown), keys(pairs), keys(all_of))
        drawn = ask(sql.draw)
        numbers = ask(sql.draw_chat_numbers, wanted.new_chats) if wanted.new_chats else None
        known = ask(sql.people_as_they_are, _people(people)) if people else None
        answers = cursor.ask(questions)
        if not answers[fence]:
            raise FencedOff(batch.writer)
        [(first, self.drawn)] = answers[drawn]
        rows.next_message_id, self._block_end = first, first + BLOCK
        self._chat_numbers = [] if numbers is None else [number for (number,) in answers[numbers]]
        self._compare(cached, [] if chats is None else answers[chats])
        rows.operators.clear()
        rows.sources.clear()
        if known is not None:
            self._know_people_again(people, answers[known])
        if wanted.accounts:
            self._load_accounts(cursor)

    def write(
        self, cursor: PostgresCursor, operations: Sequence[Operation], now: float
    ) -> tuple[list[DecisionAndCounters], Changes]:
        """Load rows, decide `operations` and write the changes, which `committed` has to get after COMMIT."""
        self._cursor = cursor
        try:
            self._load_shared(cursor, operations)
            decided, changes = decide_batch(operations, self.rows, self, self._policy, now)
            if changes.next_message_id > self._block_end:
                raise ValueError(f"a batch of {len(operations)} operations needs more than {BLOCK} numbers")
            if changes.nothing:
                return decided, changes
            with cursor.connection.pipeline():
                self._save(changes)
                operators, sources = self._add_to_counters(cursor, changes)
        finally:
            del self._cursor
        return _corrected(decided, operators, sources), changes

    def committed(self, changes: Changes) -> None:
        for key in changes.people:
            self._people_rows.pop(key, None)
        if len(self._people_rows) > _MAX_PEOPLE:
            self._people_rows.clear()
        super().committed(changes)

    # Locks and the cache

    def _want_owners(self, connection: Connection, wanted: Wanted) -> None:
        """Lock the owners of chats that may be deleted, because their records may be deleted too."""
        found = connection.execute(self._sql.owners.encode(), (keys(uuid.hex for uuid in wanted.expiring),)).fetchall()
        owners = {(False, id_) for (id_,) in found if id_ >= ANONYMOUS_IDS}
        wanted.people |= owners
        wanted.lock_people(owners)

    def _profiles(self, operations: Sequence[Operation], chats: Iterable[ChatRow]) -> set[PersonKey]:
        """The people of a batch, as far as they are known before it is loaded."""
        people = {person_key(user) for user in map(_user_of, operations) if user is not None}
        for row in chats:
            state = row.state
            people.add((False, state.owner.id))
            if state.operator is not None:
                people.add((True, state.operator.id))
        return people

    def _compare(self, cached: dict[int, ChatRow], locked: list[Row]) -> None:
        """Drop cached chats that others have changed or deleted. Raises `StorageWentBack`."""
        for number, rev, last_activity in locked:
            row = cached.pop(number, None)
            if row is None:
                continue
            state = row.state
            if rev < state.rev:
                raise StorageWentBack(f"chat {state.uuid} is stored with revision {rev}, not {state.rev}")
            if rev != state.rev or last_activity != state.last_activity:
                self.rows.forget_chat(state.uuid)
        for row in cached.values():
            self.rows.forget_chat(row.state.uuid)

    def _know_chat(self, row: Row) -> ChatRow:
        state = read_row(chat_of, row)
        known = self.rows.chats.get(state.uuid)
        if known is not None:
            if (
                known.number == row[0]
                and known.state.rev == row[_REV]
                and known.state.last_activity == row[_LAST_ACTIVITY]
            ):
                return known
            self.rows.forget_chat(state.uuid)
        known = self.rows.chats[state.uuid] = ChatRow(row[0], state)
        return known

    def _know_people_again(self, asked: Collection[PersonKey], found: list[Row]) -> None:
        missing = set(asked)
        for row in found:
            key = (row[0] == Role.OPERATOR.value, row[1])
            missing.discard(key)
            if self._people_rows.get(key) != row or key not in self.rows.people:
                self._people_rows[key] = row
                self.rows.people[key] = read_row(person_of, row)
        for key in missing:
            self.rows.people.pop(key, None)

    # Loading

    def _load_shared(self, cursor: PostgresCursor, operations: Sequence[Operation]) -> None:
        rows = self.rows
        rows.owned.clear()
        rows.uploads.clear()
        rows.documents.clear()
        self._load_chats(missing_chats(operations, rows), *owners(operations))
        needs = missing_rest(operations, rows)
        needs.people -= self._wanted.people
        decides = self._narrow(needs)
        self._ask(cursor, self._questions(needs))
        if decides:
            self._lock_counters(cursor, decides)
        self._lock_late(cursor, needs.people)

    def _narrow(self, needs: Preload) -> set[int]:
        """Leave out counters on which nothing is decided. Returns the operators whose counters have to be locked."""
        needs.sources.clear()
        if self._policy.capacity:
            decides, needs.operators = needs.operators | self._wanted.counted, set()
            return decides
        needs.operators &= self._wanted.counted
        return set()

    def _lock_counters(self, cursor: PostgresCursor, operators: set[int]) -> None:
        asked = keys(sorted(operators))
        _, found = cursor.ask(
            [(self._sql.add_operator_counters_of, (asked,)), (self._sql.lock_operator_counters, (asked,))]
        )
        self._know_operators(found)

    def _lock_late(self, cursor: PostgresCursor, people: Collection[PersonKey]) -> None:
        """Lock people of whom only the locked chats tell. Raises `LockFirst`.

        Whoever has no record may get one. And the operator of a closed chat may get it back, if not just going offline.
        """
        chats = [row for uuid in self._wanted.chats if (row := self.rows.chats.get(uuid)) is not None]
        unknown = {key for key in people if key not in self.rows.people}
        late = Wanted(set(), set(), {}, set(), set())
        late.lock_people(unknown)
        late.lock_people(_holders(chats), shared=True)
        held = self._wanted.locks
        locks = {
            number: exclusive
            for number, exclusive in late.locks.items()
            if exclusive > held.get(number, False) or number not in held
        }
        if not locks:
            return
        read = unknown | _holders(chats)
        taken, found = cursor.ask(
            [
                (TAKE if self._waits else TRY_TO_TAKE, (in_order(locks),)),
                (self._sql.people_as_they_are, (_people(read),)),
            ]
        )
        if not self._waits and not all(one for (one,) in taken):
            # To wait now could be a deadlock: those who hold it may wait for the chats.
            self._first = locks
            raise LockFirst(f"{len(locks)} locks of people")
        held.update(locks)
        self._know_people_again(read, found)

    def _ask(self, cursor: PostgresCursor, questions: list[Question]) -> None:
        if questions:
            answers = cursor.ask([(statement, parameters) for statement, parameters, _ in questions])
            for (_, _, take), found in zip(questions, answers, strict=True):
                take(found)

    # Writing

    def _new_chat_numbers(self, count: int) -> Sequence[int]:
        taken, self._chat_numbers = self._chat_numbers[:count], self._chat_numbers[count:]
        return taken

    def _set_overwriting(self, on: bool) -> None:
        """PostgreSQL can't: what was deleted goes with the next VACUUM."""

    def _save_counters(self, changes: Changes) -> None:
        """Done by `_add_to_counters`."""

    def _add_to_counters(self, cursor: PostgresCursor, changes: Changes) -> tuple[dict[int, _Shift], dict[str, _Shift]]:
        """Add to the counters, and set those in `changes` to what they are then. Returns by how much they were off."""
        rows = self.rows
        shown = {id_ for is_operator, id_ in changes.people if is_operator}
        added: list[Row] = []
        for id_ in sorted(changes.operators.keys() | shown):
            before = rows.operators.get(id_, _NOBODY)
            after = changes.operators.get(id_, before)
            added.append(
                (id_, after.new_chats - before.new_chats, after.open_chats - before.open_chats, after.rev - before.rev)
            )
        more: list[Row] = []
        for name, source in sorted(changes.sources.items()):
            was = rows.sources.get(name, _NOWHERE)
            more.append((name, source.unread_chats - was.unread_chats, source.rev - was.rev))
        operators: dict[int, _Shift] = {}
        sources: dict[str, _Shift] = {}
        if added:
            cursor.execute(self._sql.add_to_operators, (keys(added),))
            for id_, new, open_, rev in cursor.fetchall():
                known = changes.operators.get(id_) or rows.operators.get(id_, _NOBODY)
                if id_ in changes.operators:
                    operators[id_] = _Shift(new - known.new_chats, open_ - known.open_chats, rev - known.rev)
                    changes.operators[id_] = OperatorCounters(id_, new, open_, rev)
                else:
                    rows.operators[id_] = OperatorCounters(id_, new, open_, rev)
        if more:
            cursor.execute(self._sql.add_to_sources, (keys(more),))
            for name, unread, rev in cursor.fetchall():
                changed = changes.sources[name]
                sources[name] = _Shift(unread - changed.unread_chats, 0, rev - changed.rev)
                changes.sources[name] = SourceCounters(name, unread, rev)
        return operators, sources


def _user_of(operation: Operation) -> User | None:
    """The user whose record the operation may store."""
    if isinstance(operation, AddMessage):
        return operation.author
    return None if isinstance(operation, RefuseMessage) else acting_user(operation)


def _holders(chats: Iterable[ChatRow]) -> set[PersonKey]:
    """The operators of closed chats."""
    states = [row.state for row in chats]
    return {(True, chat.operator.id) for chat in states if chat.stage is Stage.CLOSED and chat.operator is not None}


def _people(people: Iterable[PersonKey]) -> str:
    return keys((role_text(Role.OPERATOR if is_operator else Role.USER), id_) for is_operator, id_ in sorted(people))


def _corrected(
    decided: list[DecisionAndCounters], operators: dict[int, _Shift], sources: dict[str, _Shift]
) -> list[DecisionAndCounters]:
    """The decisions, with counters as they are stored."""
    if not operators and not sources:
        return decided

    def corrected(counters: Counters) -> Counters:
        return tuple(
            OperatorCounters(
                one.operator_id,
                one.new_chats + operators[one.operator_id].first,
                one.open_chats + operators[one.operator_id].second,
                one.rev + operators[one.operator_id].rev,
            )
            if isinstance(one, OperatorCounters)
            else SourceCounters(
                one.source, one.unread_chats + sources[one.source].first, one.rev + sources[one.source].rev
            )
            for one in counters
        )

    return [(decision, corrected(counters)) if counters else (decision, counters) for decision, counters in decided]
