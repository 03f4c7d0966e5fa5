"""Loads the rows that a batch needs and writes its changes, with a SQL cursor. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol
from uuid import UUID

from actorchat.chat.model import ANONYMOUS_IDS, OperatorCounters, Policy, SourceCounters, StoredMessage
from actorchat.chat.operations import Operation, RefuseMessage
from actorchat.chat.rules import MarkedMessage
from actorchat.protocol import Role
from actorchat.storage.decider import Changes, apply_changes, decide_batch
from actorchat.storage.preload import missing_chats, missing_rest, reservations
from actorchat.storage.row_cache import ChatRow, PersonKey, RecentKeys, RowCache, person_key
from actorchat.storage.row_mapping import (
    ROLES,
    TYPES,
    Row,
    chat_of,
    chat_row,
    counters_row,
    keys,
    message_row,
    message_with_files_row,
    person_of,
    person_row,
    progress_row,
    read_row,
    role_text,
    transition_row,
    upload_of,
    upload_row,
)
from actorchat.storage.sql_reads import Cursor, read_message
from actorchat.storage.statements import Statements
from actorchat.storage.store import DecisionAndCounters

__all__ = ["BatchCursor", "SqlWriter"]

_MAX_MARKABLE: Final = 8_192


class BatchCursor(Cursor, Protocol):
    """The part of a driver's cursor that is needed to write."""

    def fetchmany(self, size: int, /) -> list[Row]: ...

    def executemany(self, statement: str, rows: Iterable[Row], /) -> object: ...


class SqlWriter:
    """Decides the operations of batches and writes their changes; `rows` is a bounded cache of committed rows."""

    def __init__(self, statements: Statements, policy: Policy) -> None:
        self.rows: RowCache = RowCache()
        self._statements = statements
        self._policy = policy
        self._has_timers = bool(policy.idle_timeout or policy.answer_timeout)
        self._markable: dict[int, tuple[int, MarkedMessage]] = {}
        self._cursor: BatchCursor

    def forget(self, cursor: BatchCursor) -> None:
        """Clear the cache, because another connection may have written."""
        self.rows.clear()
        self._markable.clear()
        cursor.execute(self._statements.last_message_id)
        self.rows.next_message_id = (cursor.fetchall()[0][0] or 0) + 1

    def store(
        self, cursor: BatchCursor, operations: Sequence[Operation], now: float
    ) -> tuple[list[DecisionAndCounters], Changes]:
        """Load rows, decide `operations` and write the changes, which `committed` has to get after COMMIT."""
        self._cursor = cursor
        try:
            self._load(operations)
            decided, changes = decide_batch(operations, self.rows, self, self._policy, now)
            self._save(changes)
        finally:
            # SQLite keeps a closed connection open as long as one of its cursors exists.
            del self._cursor
        return decided, changes

    def look_up(self, cursor: BatchCursor, operations: Sequence[RefuseMessage]) -> list[DecisionAndCounters]:
        """Decide operations that write nothing."""
        self._cursor = cursor
        self._load(operations)
        decided, _ = decide_batch(operations, self.rows, self, self._policy, 0)
        return decided

    def committed(self, changes: Changes) -> None:
        apply_changes(self.rows, changes)
        for draft in changes.deleted:
            # The owner's record may be deleted with the chat.
            self.rows.people.pop(person_key(draft.before.owner), None)
        for draft, message in changes.messages:
            marked = MarkedMessage(message.index, message.type, message.type_role)
            self._markable[message.id] = (draft.number, marked)
        while len(self._markable) > _MAX_MARKABLE:
            del self._markable[next(iter(self._markable))]
        self.rows.trim()

    def at(self, row: ChatRow, index: int) -> StoredMessage:
        return read_message(self._cursor, self._statements, row.number, index)

    def find(self, row: ChatRow, message_id: int) -> MarkedMessage | None:
        number, marked = self._markable.get(message_id, (None, None))
        return marked if number == row.number else None

    def _load(self, operations: Sequence[Operation]) -> None:
        rows, statements = self.rows, self._statements
        rows.owned.clear()
        if rows.uploads:
            rows.uploads.clear()
        chats = missing_chats(operations, rows)
        if chats:
            for row in self._all(statements.chats_by_uuid, (keys(chat.hex for chat in chats),)):
                self._know_chat(row)
        pairs = reservations(operations)
        if pairs:
            for row in self._all(statements.unclosed_chats, (keys(pairs),)):
                state = self._know_chat(row).state
                rows.owned.setdefault((state.owner.id, state.source), []).append(state.uuid)
        needs = missing_rest(operations, rows)
        if needs.people:
            self._load_people(needs.people)
        if needs.operators:
            self._load_operator_counters(needs.operators)
        if needs.sources:
            found = {row[0]: row for row in self._all(statements.source_counters, (keys(needs.sources),))}
            for source in needs.sources:
                rows.sources[source] = SourceCounters(*found.get(source, (source,)))
        if needs.keys:
            self._load_keys(needs.keys)
        if needs.uploads:
            for row in self._all(statements.uploads, (keys(uuid.hex for uuid in needs.uploads),)):
                upload = read_row(upload_of, row)
                rows.uploads[upload.file.uuid] = upload
        unknown = needs.marked - self._markable.keys()
        if unknown:
            for id_, number, index, type_, role in self._all(statements.marked_messages, (keys(unknown),)):
                self._markable[id_] = (number, MarkedMessage(index, TYPES[type_], ROLES[role]))

    def _know_chat(self, row: Row) -> ChatRow:
        state = read_row(chat_of, row)
        known = self.rows.chats.get(state.uuid)
        if known is None:
            known = self.rows.chats[state.uuid] = ChatRow(row[0], state)
        return known

    def _load_people(self, people: set[PersonKey]) -> None:
        for role in Role:
            ids = [id_ for is_operator, id_ in people if is_operator is (role is Role.OPERATOR)]
            if ids:
                for row in self._all(self._statements.people_by_id, (role_text(role), keys(ids))):
                    person = read_row(person_of, row)
                    self.rows.people[person_key(person.user)] = person

    def _load_operator_counters(self, operators: set[int]) -> None:
        rows = self._all(self._statements.operator_counters, (keys(operators),))
        found = {row[0]: row for row in rows}
        for id_ in operators:
            self.rows.operators[id_] = OperatorCounters(*found.get(id_, (id_,)))

    def _load_keys(self, asked: set[tuple[UUID, PersonKey]]) -> None:
        rows = {self.rows.chats[uuid].number: self.rows.chats[uuid] for uuid, _ in asked}
        loaded: dict[tuple[int, PersonKey], dict[str, tuple[int, int]]] = {
            (self.rows.chats[uuid].number, person): {} for uuid, person in asked
        }
        parameters = [
            (number, role_text(Role.OPERATOR if is_operator else Role.USER), id_)
            for number, (is_operator, id_) in loaded
        ]
        found = self._all(self._statements.recent_keys, (keys(parameters),))
        for number, role, id_, client_id, index in found:
            added = loaded[number, (ROLES[role] is Role.OPERATOR, id_)]
            added[client_id] = (len(added), index)
        for (number, person), added in loaded.items():
            recent = rows[number].keys[person] = RecentKeys()
            if added:
                recent.add(added, len(added))
        self.rows.key_count += len(found)

    def _save(self, changes: Changes) -> None:
        statements, policy = self._statements, self._policy
        if changes.created:
            last_number = self._all(statements.last_chat_number, ())[0][0] or 0
            for number, draft in enumerate(changes.created, last_number + 1):
                draft.number = number
        moved: list[Row] = []
        progressed: list[Row] = []
        for draft in changes.drafts.values():
            before, state = draft.before, draft.state
            if draft.row is None or not draft.changed:
                continue
            if (
                self._has_timers
                or state.stage is not before.stage
                or state.operator is not before.operator
                or state.assigned_at != before.assigned_at
            ):
                moved.append(transition_row(draft.number, state, policy))
            else:
                progressed.append(progress_row(draft.number, state))
        created = [chat_row(draft.number, draft.state, policy) for draft in changes.created]
        # First, because a chat with the same UUID may have been created anew.
        self._many(statements.delete_chat, [(draft.number,) for draft in changes.deleted if draft.row is not None])
        self._many(statements.insert_chat, created)
        self._many(statements.update_chat, moved)
        self._many(statements.update_chat_progress, progressed)
        plain = changes.messages
        if changes.taken:
            plain = [(draft, message) for draft, message in plain if not message.attachments]
        self._many(statements.insert_message, [message_row(draft.number, message) for draft, message in plain])
        if changes.uploads:
            self._save_files(changes)
        self._many(statements.insert_move, [(place, draft.number) for draft, place in changes.moves])
        self._many(statements.put_person, list(map(person_row, changes.people.values())))
        # After the inserts, because an owner may have got another chat.
        owners = [draft.before.owner.id for draft in changes.deleted]
        self._many(statements.delete_owner, [(id_,) for id_ in owners if id_ >= ANONYMOUS_IDS])
        self._many(statements.put_operator_counters, list(map(counters_row, changes.operators.values())))
        self._many(
            statements.put_source_counters,
            [(source.source, source.unread_chats, source.rev) for source in changes.sources.values()],
        )

    def _save_files(self, changes: Changes) -> None:
        statements, known = self._statements, self.rows.uploads
        with_files = [(draft.number, message) for draft, message in changes.messages if message.attachments]
        rows = [message_with_files_row(number, message) for number, message in with_files]
        self._many(statements.insert_message_with_files, rows)
        new = [upload for uuid, upload in changes.uploads.items() if upload is not None and uuid not in known]
        self._many(statements.insert_upload, list(map(upload_row, new)))
        taken = [(draft.number, index, uuid.hex) for uuid, (draft, index) in changes.taken.items()]
        self._many(statements.take_upload, taken)
        gone = [(uuid.hex,) for uuid, upload in changes.uploads.items() if upload is None]
        self._many(statements.delete_upload, gone)

    def _many(self, statement: str, rows: list[Row]) -> None:
        if rows:
            self._cursor.executemany(statement, rows)

    def _all(self, statement: str, parameters: Row) -> list[Row]:
        self._cursor.execute(statement, parameters)
        return self._cursor.fetchall()
