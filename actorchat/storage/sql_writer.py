"""Loads the rows that a batch needs and writes its changes, with a SQL cursor. The caller owns the transaction."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar
from uuid import UUID

from actorchat.chat.documents import DocumentKey
from actorchat.chat.model import ANONYMOUS_IDS, OperatorCounters, Policy, SourceCounters, Stage, StoredMessage
from actorchat.chat.operations import Operation, RefuseMessage, ReplaceTag
from actorchat.chat.privacy import AuditAction
from actorchat.chat.rules import MarkedMessage
from actorchat.protocol import MessageType, Role
from actorchat.storage.changes import Changes, apply_changes
from actorchat.storage.decider import decide_batch
from actorchat.storage.preload import Preload, missing_chats, missing_rest, owners
from actorchat.storage.row_cache import ChatRow, PersonKey, RecentKeys, RowCache, person_key, trim_table
from actorchat.storage.row_mapping import (
    ROLES,
    TYPES,
    DamagedRow,
    Row,
    account_of,
    account_row,
    audit_row,
    block_of,
    block_row,
    changed_message_row,
    chat_of,
    chat_row,
    counters_row,
    edit_row,
    files_of,
    keys,
    message_row,
    message_with_files_row,
    person_of,
    person_row,
    progress_row,
    read_row,
    role_text,
    session_of,
    session_row,
    transition_row,
    upload_of,
    upload_row,
)
from actorchat.storage.sql_reads import Cursor, read_message
from actorchat.storage.statements import Statements
from actorchat.storage.store import DecisionAndCounters

__all__ = ["BatchCursor", "Question", "SqlWriter"]

_log: Final = logging.getLogger("actorchat.storage")

T = TypeVar("T")

_MAX_MARKABLE: Final = 8_192

Question = tuple[str, Row, Callable[[list[Row]], object]]
"""A statement that reads, its parameters, and what takes the rows."""


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
        # By the id of a message: the number of its chat, its index, type and role.
        self._markable: dict[int, tuple[int, int, MessageType, Role]] = {}
        self._cursor: BatchCursor

    def forget(self, cursor: BatchCursor) -> None:
        """Clear the cache, because another connection may have written."""
        self.rows.clear()
        self._markable.clear()
        cursor.execute(self._statements.last_message_id)
        self.rows.next_message_id = (cursor.fetchall()[0][0] or 0) + 1
        self._load_accounts(cursor)

    def _load_accounts(self, cursor: BatchCursor) -> None:
        cursor.execute(self._statements.accounts)
        self.rows.accounts = {account.id: account for account in _sound(account_of, cursor.fetchall(), "an account")}
        cursor.execute(self._statements.blocks)
        self.rows.blocks = {block.id: block for block in _sound(block_of, cursor.fetchall(), "a block")}
        cursor.execute(self._statements.sessions)
        self.rows.sessions = {session.id: session for session in _sound(session_of, cursor.fetchall(), "a sign-in")}

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
            # The owner's record may have been deleted with the chat.
            self.rows.people.pop(person_key(draft.before.owner), None)
        for given in changes.given:
            # Keys that are known for its new owner may be of a time before.
            self.rows.forget_chat(given.draft.state.uuid)
        if changes.removed:
            # A new chat may get the number of a deleted one.
            gone = {draft.number for draft in changes.deleted}
            self._markable = {id_: known for id_, known in self._markable.items() if known[0] not in gone}
        markable = self._markable
        for draft, message in changes.messages:
            markable[message.id] = (draft.number, message.index, message.type, message.type_role)
        trim_table(markable, _MAX_MARKABLE)
        self.rows.trim()

    def at(self, row: ChatRow, index: int) -> StoredMessage:
        return read_message(self._cursor, self._statements, row.number, index)

    def find(self, row: ChatRow, message_id: int) -> MarkedMessage | None:
        known = self._markable.get(message_id)
        return MarkedMessage(*known[1:]) if known is not None and known[0] == row.number else None

    def files(self, row: ChatRow) -> tuple[UUID, ...]:
        rows = self._all(self._statements.files_of_chat, (row.number,))
        return tuple(file for found in rows for file in read_row(files_of, found))

    def _load(self, operations: Sequence[Operation]) -> None:
        rows = self.rows
        rows.owned.clear()
        if rows.uploads:
            rows.uploads.clear()
        if rows.documents:
            rows.documents.clear()
        self._load_chats(missing_chats(operations, rows), *owners(operations))
        needs = missing_rest(operations, rows)
        for statement, parameters, take in self._questions(needs):
            take(self._all(statement, parameters))

    def _load_chats(
        self, chats: Collection[UUID], pairs: Collection[tuple[int, str]], owners: Collection[tuple[int, int]]
    ) -> None:
        if chats:
            for row in self._all(self._statements.chats_by_uuid, (keys(chat.hex for chat in chats),)):
                self._know_chat(row)
        if pairs:
            self._know_owned(self._all(self._statements.unclosed_chats, (keys(pairs),)))
        if owners:
            self._know_owned(self._all(self._statements.chats_of_owners, (keys(owners),)))

    def _questions(self, needs: Preload) -> list[Question]:
        """The statements that read the rows of `needs`, in any order."""
        statements, rows = self._statements, self.rows
        asked: list[Question] = []
        if needs.people:
            for role in Role:
                ids = [id_ for is_operator, id_ in needs.people if is_operator is (role is Role.OPERATOR)]
                if ids:
                    asked.append((statements.people_by_id, (role_text(role), keys(ids)), self._know_people))
        if needs.operators:
            rows.operators.update((id_, OperatorCounters(id_)) for id_ in needs.operators)
            asked.append((statements.operator_counters, (keys(needs.operators),), self._know_operators))
        if needs.sources:
            rows.sources.update((source, SourceCounters(source)) for source in needs.sources)
            asked.append((statements.source_counters, (keys(needs.sources),), self._know_sources))
        if needs.keys:
            asked.append(self._question_of_keys(needs.keys))
        if needs.uploads:
            found = keys(sorted(uuid.hex for uuid in needs.uploads))
            asked.append((statements.uploads_to_change, (found,), self._know_uploads))
        asked += [(statements.document, key, partial(self._know_document, key)) for key in needs.documents]
        unknown = needs.marked - self._markable.keys()
        if unknown:
            asked.append((statements.marked_messages, (keys(unknown),), self._know_marked))
        return asked

    def _know_chat(self, row: Row) -> ChatRow:
        state = read_row(chat_of, row)
        known = self.rows.chats.get(state.uuid)
        if known is None:
            known = self.rows.chats[state.uuid] = ChatRow(row[0], state)
        return known

    def _know_owned(self, found: list[Row]) -> None:
        for row in found:
            state = self._know_chat(row).state
            self.rows.owned.setdefault((state.owner.id, state.source), []).append(state.uuid)

    def _know_people(self, found: list[Row]) -> None:
        for row in found:
            person = read_row(person_of, row)
            self.rows.people[person_key(person.user)] = person

    def _know_operators(self, found: list[Row]) -> None:
        self.rows.operators.update((row[0], OperatorCounters(*row)) for row in found)

    def _know_sources(self, found: list[Row]) -> None:
        self.rows.sources.update((row[0], SourceCounters(*row)) for row in found)

    def _know_uploads(self, found: list[Row]) -> None:
        for row in found:
            upload = read_row(upload_of, row)
            self.rows.uploads[upload.file.uuid] = upload

    def _know_document(self, key: DocumentKey, found: list[Row]) -> None:
        for (text,) in found:
            self.rows.documents[key] = text

    def _know_marked(self, found: list[Row]) -> None:
        for id_, number, index, type_, role in found:
            self._markable[id_] = (number, index, TYPES[type_], ROLES[role])

    def _question_of_keys(self, asked: set[tuple[UUID, PersonKey]]) -> Question:
        rows = {self.rows.chats[uuid].number: self.rows.chats[uuid] for uuid, _ in asked}
        loaded = {(self.rows.chats[uuid].number, person): RecentKeys() for uuid, person in asked}
        parameters = [
            (number, role_text(Role.OPERATOR if is_operator else Role.USER), id_)
            for number, (is_operator, id_) in loaded
        ]

        def take(found: list[Row]) -> None:
            for number, role, id_, client_id, index in found:
                recent = loaded[number, (ROLES[role] is Role.OPERATOR, id_)]
                # A key that is used again after the horizon has two messages; the later one counts.
                recent.entries.pop(client_id, None)
                recent.entries[client_id] = (recent.count, index)
                recent.count += 1
            for (number, person), recent in loaded.items():
                rows[number].keys[person] = recent
            self.rows.key_count += len(found)

        return self._statements.recent_keys, (keys(parameters),), take

    def _new_chat_numbers(self, count: int) -> Sequence[int]:
        last: int = self._all(self._statements.last_chat_number, ())[0][0] or 0
        return range(last + 1, last + 1 + count)

    def _save(self, changes: Changes) -> None:
        statements, policy = self._statements, self._policy
        overwrites = bool(changes.edits or changes.audits or changes.documents or changes.removed)
        if overwrites:
            self._set_overwriting(True)
        if changes.created:
            numbers = self._new_chat_numbers(len(changes.created))
            for number, draft in zip(numbers, changes.created, strict=True):
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
        if changes.removed:
            self._remove_content(changes)
        self._many(statements.insert_chat, created)
        self._many(statements.update_chat, moved)
        self._many(statements.update_chat_progress, progressed)
        plain = changes.messages
        if changes.taken:
            plain = [(draft, message) for draft, message in plain if not message.attachments]
        self._many(statements.insert_message, [message_row(draft.number, message) for draft, message in plain])
        if changes.uploads:
            self._save_files(changes)
        if changes.edits:
            # After the inserts, because a message may be changed in the batch that adds it. Its last change counts.
            edits = {(draft.number, message.index): (message, place) for draft, message, place in changes.edits}
            self._many(
                statements.update_message,
                [changed_message_row(number, message) for (number, _), (message, _) in edits.items()],
            )
            self._many(
                statements.put_edit,
                [edit_row(number, message, place) for (number, _), (message, place) in edits.items()],
            )
        if changes.givers:
            self._save_gifts(changes)
        if changes.documents:
            self._save_documents(changes)
        if changes.audits:
            records = [(entry.at,) for entry in changes.audits if entry.action is AuditAction.RETENTION]
            self._many(statements.delete_retention_record, records)
            self._many(statements.insert_audit, list(map(audit_row, changes.audits)))
        if changes.tags or changes.replaced_tags:
            self._save_tags(changes)
        self._many(statements.insert_move, [(place, draft.number) for draft, place in changes.moves])
        self._many(statements.put_person, list(map(person_row, changes.people.values())))
        if changes.accounts or changes.sessions or changes.blocks:
            self._save_accounts(changes)
        # After the inserts, because an owner may have got another chat.
        owners = [draft.before.owner.id for draft in changes.deleted]
        self._many(statements.delete_owner, [(id_,) for id_ in owners if id_ >= ANONYMOUS_IDS])
        visitors = [id_ for id_ in owners if id_ >= ANONYMOUS_IDS] + [removed.owner_id for removed in changes.removed]
        self._many(statements.delete_visits, [(str(id_), id_) for id_ in visitors])
        self._save_counters(changes)
        if overwrites:
            self._set_overwriting(False)

    def _set_overwriting(self, on: bool) -> None:
        """Set whether what is replaced or deleted is overwritten, so that neither the disk nor backups keep it."""
        self._cursor.execute(f"PRAGMA secure_delete={'ON' if on else 'OFF'}")

    def _save_counters(self, changes: Changes) -> None:
        self._many(self._statements.put_operator_counters, list(map(counters_row, changes.operators.values())))
        self._many(
            self._statements.put_source_counters,
            [(source.source, source.unread_chats, source.rev) for source in changes.sources.values()],
        )

    def _remove_content(self, changes: Changes) -> None:
        statements = self._statements
        gone: list[Row] = [(draft.number,) for draft in changes.deleted if draft.before.stage is Stage.CLOSED]
        for statement in (
            statements.delete_messages,
            statements.delete_edits,
            statements.delete_moves,
            statements.delete_tags,
        ):
            self._many(statement, gone)
        removed = [(entry.place, entry.chat.hex, entry.owner_id) for entry in changes.removed]
        self._many(statements.insert_removed_chat, removed)

    def _save_accounts(self, changes: Changes) -> None:
        self._many(self._statements.put_account, list(map(account_row, changes.accounts.values())))
        stored = [session for session in changes.sessions.values() if session is not None]
        self._many(self._statements.put_session, list(map(session_row, stored)))
        ended = [(id_,) for id_, session in changes.sessions.items() if session is None]
        self._many(self._statements.delete_session, ended)
        blocks = [block for block in changes.blocks.values() if block is not None]
        self._many(self._statements.put_block, list(map(block_row, blocks)))
        removed = [(id_,) for id_, block in changes.blocks.items() if block is None]
        self._many(self._statements.delete_block, removed)

    def _save_documents(self, changes: Changes) -> None:
        stored = [(*key, text) for key, text in changes.documents.items() if text is not None]
        self._many(self._statements.put_document, stored)
        gone = [tuple(key) for key, text in changes.documents.items() if text is None]
        self._many(self._statements.delete_document, gone)

    def _save_tags(self, changes: Changes) -> None:
        # A chat's later replacements see its earlier ones, so each statement has one of a chat.
        turns: list[list[tuple[int, ReplaceTag]]] = []
        turn: Counter[int] = Counter()
        for draft, operation in changes.replaced_tags:
            if turn[draft.number] == len(turns):
                turns.append([])
            turns[turn[draft.number]].append((draft.number, operation))
            turn[draft.number] += 1
        for replaced in turns:
            copied: list[Row] = [(op.into, number, op.tag, op.into) for number, op in replaced if op.into is not None]
            self._many(self._statements.copy_tag, copied)
            gone: list[Row] = [(number, op.tag) for number, op in replaced if op.into != op.tag]
            self._many(self._statements.delete_tag, gone)
        newest = {draft.number: tags for draft, tags in changes.tags}
        self._many(self._statements.delete_tags, [(number,) for number in newest])
        self._many(self._statements.insert_tag, [(number, tag) for number, tags in newest.items() for tag in tags])

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

    def _save_gifts(self, changes: Changes) -> None:
        statements, given = self._statements, changes.given
        self._many(statements.give_chat, [(each.taker.id, each.draft.number) for each in given])
        self._many(statements.give_messages, [(each.taker.id, each.draft.number, each.giver) for each in given])
        files = [(each.taker.id, file.hex, each.giver) for each in given for file in each.files]
        self._many(statements.give_upload, files)
        self._many(statements.give_uploads, [(taker.id, giver) for giver, taker in changes.givers.items()])

    def _many(self, statement: str, rows: list[Row]) -> None:
        if rows:
            self._cursor.executemany(statement, rows)

    def _all(self, statement: str, parameters: Row) -> list[Row]:
        self._cursor.execute(statement, parameters)
        return self._cursor.fetchall()


def _sound(convert: Callable[[Row], T], rows: Iterable[Row], name: str) -> Iterator[T]:
    """Convert the rows, and leave out damaged ones with a line in the log."""
    for row in rows:
        try:
            yield read_row(convert, row)
        except DamagedRow as error:
            _log.error("%s is left out, because its row is damaged: %s. Restore a backup", name, error)
