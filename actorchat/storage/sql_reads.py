"""Reads chats, messages and people with a SQL cursor. The caller's transaction makes each read consistent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from math import floor, inf
from typing import Final, Protocol
from uuid import UUID

from actorchat.chat.accounts import Account
from actorchat.chat.blocks import Block
from actorchat.chat.documents import DocumentKind
from actorchat.chat.model import (
    ChatState,
    Identity,
    OperatorCounters,
    PersonRecord,
    Retention,
    SourceCounters,
    Stage,
    StoredMessage,
    Upload,
)
from actorchat.chat.ports import (
    PAGE_BYTES,
    ChatFilter,
    ChatPage,
    FeedSnapshot,
    ListPlace,
    OperatorRecord,
    Page,
    SummaryRecord,
)
from actorchat.chat.privacy import AuditEntry
from actorchat.protocol import MAX_SAFE_INTEGER, Role
from actorchat.storage.row_cache import cut_page
from actorchat.storage.row_mapping import (
    DamagedRow,
    Row,
    account_of,
    audit_of,
    block_of,
    chat_of,
    keys,
    message_of,
    person_of,
    read_row,
    role_text,
    searchable_of,
    upload_of,
)
from actorchat.storage.statements import Statements
from actorchat.storage.store import (
    RemovedChat,
    SearchableMessage,
    SearchablePerson,
)

__all__ = ["Cursor", "SqlReads", "read_message"]

_BEYOND: Final = MAX_SAFE_INTEGER + 1


class Cursor(Protocol):
    """The part of a driver's cursor that is needed to read."""

    def execute(self, statement: str, parameters: Row = (), /) -> object: ...

    def fetchone(self) -> Row | None: ...

    def fetchall(self) -> list[Row]: ...


class SqlReads:
    """`actorchat.storage.store.Reads` on `cursor`, as of `now` in epoch seconds.

    `left_out` is called with the hexadecimal UUID of each chat that a list leaves out because its row is damaged.
    """

    def __init__(
        self, cursor: Cursor, statements: Statements, now: float, left_out: Callable[[str, Exception], object]
    ) -> None:
        self._left_out = left_out
        self._now = now
        self._cursor = cursor
        self._statements = statements

    def chat(self, chat: UUID) -> ChatState | None:
        row = self._chat(chat)
        return None if row is None else read_row(chat_of, row)

    def newest(self, chat: UUID, role: Role, *, before: int | None, limit: int, size: int = PAGE_BYTES) -> Page | None:
        end = _BEYOND if before is None else before
        return self._page(chat, self._statements.newest, (end, role_text(role)), limit, size, backwards=True)

    def after(self, chat: UUID, role: Role, *, after: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        return self._page(chat, self._statements.after, (after, role_text(role)), limit, size)

    def since(self, chat: UUID, *, rev: int, limit: int) -> Page | None:
        found = self._chat(chat)
        if found is None:
            return None
        known = self._all(self._statements.index_at_rev, (found[0], rev))
        return self._page(chat, self._statements.all_after, (known[0][0] if known else -1,), limit, inf)

    def authored(
        self, chat: UUID, author_role: Role, *, after: int, upto: int, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        return self._page(chat, self._statements.authored, (after, upto, role_text(author_role)), limit, size)

    def edited(self, chat: UUID, *, rev: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        return self._page(chat, self._statements.edited, (rev,), limit, size)

    def located(self, message_id: int) -> tuple[UUID, int] | None:
        rows = self._all(self._statements.located, (message_id,))
        return (UUID(hex=rows[0][0]), rows[0][1]) if rows else None

    def chats(self, which: ChatFilter) -> ChatPage:
        newest: int = self._all(self._statements.last_message_id, ())[0][0] or 0
        begin = which.before
        if isinstance(begin, UUID):
            last = self.chat(begin)
            if last is None:
                return ChatPage(())
            begin = ListPlace(newest, last.place)
        start = newest if begin is None else min(begin.start, newest)
        parameters: list[object] = [] if begin is None else [start, start, start]
        if which.sources is not None:
            parameters.append(keys(which.sources))
        if which.stages is not None:
            parameters.append(keys(stage.value for stage in which.stages))
        parameters.extend(id_ for id_ in (which.operator_id, which.owner_id) if id_ is not None)
        if which.owners is not None:
            parameters.append(keys(sorted(which.owners)))
        if which.tag is not None:
            parameters.append(which.tag)
        if begin is not None:
            parameters.append(begin.place)
        rows = self._all(self._statements.filtered_chats(which), (*parameters, which.limit + 1))
        taken = rows[: which.limit]
        more = ListPlace(start, taken[-1][-1]) if len(rows) > len(taken) else None
        return ChatPage(tuple(self._sound(taken)), more)

    def summaries(self, chats: Collection[UUID]) -> tuple[SummaryRecord, ...]:
        statements = self._statements
        rows = self._all(statements.summary_chats, (keys(sorted(uuid.hex for uuid in chats)),))
        states = {row[0]: chat for row in rows for chat in self._sound([row]) if chat.listed}
        numbers = keys(states)
        last = {row[0]: read_row(message_of, row[1:]) for row in self._all(statements.last_shown, (numbers,))}
        closed = [number for number, chat in states.items() if chat.stage is Stage.CLOSED]
        told_rows = self._all(statements.last_told, (keys(closed),)) if closed else []
        told = {row[0]: read_row(message_of, row[1:]) for row in told_rows}
        created: dict[int, int] = dict(self._all(statements.first_times, (numbers,)))
        tags: dict[int, list[str]] = {}
        for number, tag in self._all(statements.tags, (numbers,)):
            tags.setdefault(number, []).append(tag)
        waiting = [
            (number, chat.operators_read)
            for number, chat in states.items()
            if chat.last_visitor_index > chat.operators_read
        ]
        unread: dict[int, int] = dict(self._all(statements.unread, (keys(waiting),)))
        return tuple(
            SummaryRecord(
                chat,
                last.get(number),
                unread.get(number, 0),
                created.get(number, chat.last_activity),
                tuple(tags.get(number, ())),
                told.get(number),
            )
            for number, chat in states.items()
        )

    def person(self, identity: Identity) -> PersonRecord | None:
        rows = self._all(self._statements.person, (role_text(identity.role), identity.id))
        return read_row(person_of, rows[0]) if rows else None

    def people(self, identities: Collection[Identity]) -> tuple[PersonRecord, ...]:
        found: list[PersonRecord] = []
        for role in Role:
            ids = sorted({identity.id for identity in identities if identity.role is role})
            if ids:
                rows = self._all(self._statements.people_by_id, (role_text(role), keys(ids)))
                found += [read_row(person_of, row) for row in rows]
        return tuple(found)

    def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        wanted = None if sources is None else frozenset(sources)
        records = (
            OperatorRecord(read_row(person_of, row), OperatorCounters(row[1], *(count or 0 for count in row[-3:])))
            for row in self._all(self._statements.operators, ())
        )
        return tuple(record for record in records if wanted is None or wanted & record.person.sources(self._now))

    def accounts(self) -> tuple[Account, ...]:
        return tuple(read_row(account_of, row) for row in self._all(self._statements.accounts, ()))

    def blocks(self) -> tuple[Block, ...]:
        return tuple(read_row(block_of, row) for row in self._all(self._statements.blocks, ()))

    def sources(self, limit: int) -> tuple[str, ...]:
        return tuple(row[0] for row in self._all(self._statements.known_sources, (limit,)))

    def tag_counts(self, sources: Collection[str], limit: int) -> tuple[tuple[str, int], ...]:
        rows = self._all(self._statements.tag_counts, (keys(sorted(frozenset(sources))), limit))
        return tuple((tag, number) for tag, number in rows)

    def active_numbers(self, sources: Collection[str]) -> list[int]:
        """The numbers of the sources' active chats, read from an index alone."""
        return [row[0] for row in self._all(self._statements.active_numbers, (keys(sorted(frozenset(sources))),))]

    def all_active_numbers(self) -> list[int]:
        """The numbers of all active chats, read from an index alone."""
        return [row[0] for row in self._all(self._statements.all_active_numbers, ())]

    def due_numbers(self, now: float, limit: int) -> list[int]:
        """The numbers of the chats that `due` returns, read from an index alone."""
        return [row[0] for row in self._all(self._statements.due_numbers, (now, limit))]

    def unused_numbers(self, before: float, limit: int) -> list[int]:
        """The numbers of the chats that `unused` returns, read from an index alone."""
        return [row[0] for row in self._all(self._statements.unused_numbers, (floor(before), limit))]

    def numbered(self, number: int) -> list[ChatState]:
        """The chat with that number; none if its row is damaged."""
        return list(self._sound(self._all(self._statements.numbered, (number,))))

    def feed_snapshot(
        self, sources: Collection[str], limit: int, known: Collection[ChatState] | None = None
    ) -> FeedSnapshot:
        """Read a snapshot. `known` has the active chats of the sources if they were read already."""
        wanted = sorted(frozenset(sources))
        if known is None:
            rows = self._all(self._statements.feed_chats, (keys(wanted), limit))
            chats = list(self._sound(reversed(rows)))
        else:
            chats = sorted(known, key=lambda chat: chat.place)[-limit:]
        counters = {
            row[0]: SourceCounters(*row) for row in self._all(self._statements.source_counters, (keys(wanted),))
        }
        return FeedSnapshot(
            self.operators(wanted),
            tuple(counters.get(source) or SourceCounters(source) for source in wanted),
            tuple(chats),
        )

    def past_retention(self, retention: Retention, now: float, limit: int) -> tuple[tuple[UUID, float], ...]:
        found: list[tuple[UUID, float]] = []
        source = ""
        while len(found) < limit:
            # One look into the index for each source, because only the index of each one is in order of activity.
            [(source,)] = self._all(self._statements.next_closed_source, (source,))
            if source is None:
                break
            seconds = retention.of(source)
            if seconds:
                before = now - seconds
                rows = self._all(self._statements.past_retention, (source, floor(before), limit - len(found)))
                found += [(UUID(hex=row[0]), before) for row in rows]
        return tuple(found)

    def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        return tuple(UUID(hex=row[0]) for row in self._all(self._statements.unused, (floor(before), limit)))

    def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        return tuple(UUID(hex=row[0]) for row in self._all(self._statements.due, (now, limit)))

    def documents(self, kind: DocumentKind, scope: str) -> tuple[tuple[str, str], ...]:
        return tuple((name, text) for name, text in self._all(self._statements.documents, (kind.value, scope)))

    def uploads(self, files: Collection[UUID]) -> tuple[Upload, ...]:
        rows = self._all(self._statements.uploads, (keys(sorted(uuid.hex for uuid in files)),))
        return tuple(read_row(upload_of, row) for row in rows)

    def unbound_uploads(self, before: float, limit: int) -> tuple[UUID, ...]:
        return tuple(UUID(hex=row[0]) for row in self._all(self._statements.unbound_uploads, (floor(before), limit)))

    def searchable(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        rows = self._all(self._statements.searchable, (after, limit))
        return tuple(read_row(searchable_of, row) for row in rows)

    def searchable_edits(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        rows = self._all(self._statements.searchable_edits, (after, limit))
        return tuple(read_row(searchable_of, row) for row in rows)

    def removed_chats(self, after: int, limit: int) -> tuple[RemovedChat, ...]:
        rows = self._all(self._statements.removed_chats, (after, limit))
        return tuple(RemovedChat(place, UUID(hex=uuid), owner_id) for place, uuid, owner_id in rows)

    def people_after(self, after: Identity, limit: int) -> tuple[SearchablePerson, ...]:
        rows = self._all(self._statements.people_after, (role_text(after.role), after.id, limit))
        return tuple(self._searchable_person(read_row(person_of, row)) for row in rows)

    def searchable_people(self, people: Collection[Identity]) -> tuple[SearchablePerson, ...]:
        return tuple(map(self._searchable_person, self.people(people)))

    def _searchable_person(self, person: PersonRecord) -> SearchablePerson:
        if person.user.role is Role.OPERATOR:
            return SearchablePerson(person.user, person.sources(self._now))
        rows = self._all(self._statements.sources_of_owner, (person.user.id,))
        return SearchablePerson(person.user, frozenset(row[0] for row in rows))

    def audits(self, before: int, limit: int) -> tuple[AuditEntry, ...]:
        return tuple(read_row(audit_of, row) for row in self._all(self._statements.audits, (before, limit)))

    def written_by(self, author: Identity, after: int, limit: int) -> tuple[tuple[UUID, int], ...]:
        rows = self._all(self._statements.written_by, (role_text(author.role), author.id, after, limit))
        return tuple((UUID(hex=uuid), id_) for uuid, id_ in rows)

    def uploads_of(self, uploader: Identity) -> tuple[UUID, ...]:
        rows = self._all(self._statements.uploads_of, (role_text(uploader.role), uploader.id))
        return tuple(UUID(hex=row[0]) for row in rows)

    def newest_number(self) -> int:
        number: int = self._all(self._statements.last_message_id, ())[0][0] or 0
        return number

    def found(self, messages: Sequence[int]) -> tuple[tuple[ChatState, StoredMessage], ...]:
        rows = {row[0]: row for row in self._all(self._statements.messages_by_id, (keys(messages),))}
        numbers = sorted({row[-1] for row in rows.values()})
        chats = {
            row[0]: read_row(chat_of, row) for row in self._all(self._statements.chats_by_number, (keys(numbers),))
        }
        return tuple((chats[rows[id_][-1]], read_row(message_of, rows[id_][:-1])) for id_ in messages if id_ in rows)

    def _sound(self, rows: Iterable[Row]) -> Iterator[ChatState]:
        """The chats of the rows that are not damaged."""
        for row in rows:
            try:
                yield read_row(chat_of, row)
            except DamagedRow as error:
                self._left_out(str(row[1]), error)

    def _chat(self, chat: UUID) -> Row | None:
        rows = self._all(self._statements.chat, (chat.hex,))
        return rows[0] if rows else None

    def _page(
        self, chat: UUID, statement: str, parameters: Row, limit: int, size: float, *, backwards: bool = False
    ) -> Page | None:
        found = self._chat(chat)
        if found is None:
            return None
        # Row by row, so that no more is read than the page holds.
        self._cursor.execute(statement, (found[0], *parameters, limit + 1))
        messages, has_more = cut_page(map(_message, iter(self._cursor.fetchone, None)), limit, size)
        if backwards:
            messages.reverse()
        return Page(read_row(chat_of, found), tuple(messages), has_more)

    def _all(self, statement: str, parameters: Row) -> list[Row]:
        self._cursor.execute(statement, parameters)
        return self._cursor.fetchall()


def read_message(cursor: Cursor, statements: Statements, chat_number: int, index: int) -> StoredMessage:
    """The chat's message with that index, which exists."""
    cursor.execute(statements.one, (chat_number, index))
    [row] = cursor.fetchall()
    return read_row(message_of, row)


def _message(row: Row) -> StoredMessage:
    return read_row(message_of, row)
