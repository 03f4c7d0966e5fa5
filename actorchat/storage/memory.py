"""Stores chats in memory. The same code decides here and in the SQL stores, and all pass `check_store`."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice, takewhile
from math import inf
from operator import attrgetter, itemgetter
from uuid import UUID

import attrs
from msgspec.structs import replace

from actorchat.chat.accounts import Account
from actorchat.chat.blocks import Block
from actorchat.chat.commit_log import LogEntry, TooOld, Trimmed
from actorchat.chat.documents import DocumentKey, DocumentKind
from actorchat.chat.model import (
    ANONYMOUS_IDS,
    ChatState,
    Identity,
    OperatorCounters,
    PersonRecord,
    Policy,
    Retention,
    SourceCounters,
    Stage,
    StoredMessage,
    Upload,
    identity_of,
    visible_to,
)
from actorchat.chat.operations import Operation, RefuseMessage
from actorchat.chat.ports import (
    MOST_UNREAD,
    PAGE_BYTES,
    ChatFilter,
    ChatPage,
    FeedSnapshot,
    ListPlace,
    OperatorRecord,
    Page,
    SummaryRecord,
)
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.chat.rules import MarkedMessage
from actorchat.protocol import MessageType, Role, User
from actorchat.storage.changes import Changes, Draft, GivenChat, apply_changes
from actorchat.storage.commit_recorder import CommitRecorder
from actorchat.storage.decider import decide_batch, decide_each, with_tag_replaced
from actorchat.storage.row_cache import ChatRow, RowCache, cut_page, person_key, with_known_people
from actorchat.storage.store import (
    LOG_PAGE_BYTES,
    Batch,
    DecisionAndCounters,
    LoggedBatch,
    RemovedChat,
    SearchableMessage,
    SearchablePerson,
)

__all__ = ["MemoryStore"]


class MemoryStore:
    """A `Store` whose content ends with the process. One thread makes all calls. `clock` returns epoch seconds.

    With `brokers`, their names, it is a `StoredLog` too. With `nodes`, it is a `NodeLog` too, and several journals of
    one thread may commit to it.
    """

    def __init__(
        self,
        policy: Policy,
        clock: Callable[[], float] = time.time,
        brokers: Collection[str] = (),
        *,
        nodes: bool = False,
    ) -> None:
        self.corrected_counters = 0
        self.messages_stored: int = 0
        self._policy = policy
        self._clock = clock
        self._rows = RowCache()
        self._logs: dict[int, list[StoredMessage]] = {}
        self._moves: dict[int, list[int]] = {}
        # By chat: the revision of each message's last change.
        self._edits: dict[int, dict[int, int]] = {}
        self._tags: dict[int, tuple[str, ...]] = {}
        # All ids of messages, and the places of all edits with the ids of their messages, ascending.
        self._ids: list[int] = []
        self._audits: list[AuditEntry] = []
        self._edit_places: list[tuple[int, int]] = []
        self._removed: list[RemovedChat] = []
        self._numbers = count()
        self._uuids: dict[int, UUID] = {}
        # The chats that are unused for the longest time come first.
        self._reserved: dict[UUID, ChatRow] = {}
        self._owned: Counter[int] = Counter()
        self._places: dict[int, tuple[int, int]] = {}
        self._active: dict[str, dict[UUID, ChatRow]] = {}
        self._batches: dict[str, int] = {}
        self._logged: dict[str, list[LoggedBatch]] | None = {} if nodes else None
        self._last_logged: LoggedBatch | None = None
        self._positions = dict.fromkeys(brokers, 0)
        self._entries: list[LogEntry] = []
        self._last_seq = 0
        self._epoch = int(clock())

    def commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
        nodes = self._logged is not None
        recorder = CommitRecorder(batch.now, self._epoch, nodes=nodes) if self._positions or nodes else None
        try:
            decided, changes = decide_batch(operations, self._rows, self, self._policy, batch.now)
        except Exception:
            # `decide_each` logs each operation that fails, with its traceback.
            decided = decide_each(operations, lambda operation: self._alone(operation, batch.now, recorder))
        else:
            if recorder is not None:
                recorder.add(decided, changes, self._rows)
            self._apply(changes)
        if recorder is not None and (payload := recorder.payload()) is not None:
            self._log_batch(batch, payload)
        self._batches[batch.writer] = batch.number
        return decided

    def _log_batch(self, batch: Batch, payload: bytes) -> None:
        if self._positions:
            self._last_seq += 1
            self._entries.append(LogEntry(self._last_seq, batch.now, payload))
        if self._logged is not None:
            rows = self._logged.setdefault(batch.writer, [])
            previous = rows[-1].number if rows else 0
            self._last_logged = LoggedBatch(batch.writer, batch.number, previous, batch.now, payload)
            rows.append(self._last_logged)

    def newest_batches(self) -> Mapping[str, int]:
        return {writer: rows[-1].number for writer, rows in (self._logged or {}).items()}

    def batches(
        self, writer: str, *, after: int, upto: int, limit: int, size: int = LOG_PAGE_BYTES
    ) -> Sequence[LoggedBatch]:
        rows = (self._logged or {}).get(writer, [])
        start, end = (bisect_right(rows, number, key=attrgetter("number")) for number in (after, upto))
        page: list[LoggedBatch] = []
        for row in rows[start : min(end, start + limit)]:
            page.append(row)
            size -= len(row.payload)
            if size <= 0:
                break
        return page

    def last_logged(self) -> LoggedBatch | None:
        return self._last_logged

    def epoch(self) -> int:
        return self._epoch

    def follow_epoch(self, epoch: int) -> None:
        self._epoch = max(epoch, self._epoch)

    def recover(self, batch: Batch) -> bool:
        return self._batches.get(batch.writer) == batch.number

    def is_new(self, operation: RefuseMessage) -> bool:
        message = operation.message
        row = self._rows.chats.get(message.chat)
        known = None if row is None else row.keys.get(person_key(message.author))
        return known is None or message.client_id is None or known.find(message.client_id) is None

    def look_up(self, operations: Sequence[RefuseMessage]) -> list[DecisionAndCounters]:
        return decide_batch(operations, self._rows, self, self._policy, 0)[0]

    def close(self) -> None:
        """Do nothing: there are no files or connections."""

    def positions(self) -> Mapping[str, int]:
        return self._positions.copy()

    def entries(self, after: int, size: int) -> Sequence[LogEntry]:
        found: list[LogEntry] = []
        for place in range(bisect_right(self._entries, after, key=attrgetter("seq")), len(self._entries)):
            if size <= 0:
                break
            found.append(self._entries[place])
            size -= len(self._entries[place].payload)
        return found

    def record_relayed(self, positions: Mapping[str, int], expired: TooOld) -> Trimmed:
        self._positions.update({broker: seq for broker, seq in positions.items() if broker in self._positions})
        done = min(self._positions.values(), default=0)
        deletable = list(
            takewhile(lambda entry: entry.seq <= done or expired.covers(entry.seq, entry.time), self._entries)
        )
        del self._entries[: len(deletable)]
        return Trimmed(len(deletable), sum(entry.seq > done for entry in deletable), self._last_seq)

    def _alone(self, operation: Operation, now: float, recorder: CommitRecorder | None) -> DecisionAndCounters:
        [decided], changes = decide_batch([operation], self._rows, self, self._policy, now)
        if recorder is not None:
            recorder.add([decided], changes, self._rows)
        self._apply(changes)
        return decided

    def _apply(self, changes: Changes) -> None:
        for draft in changes.created:
            draft.number = next(self._numbers)
            self._logs[draft.number] = []
            self._uuids[draft.number] = draft.state.uuid
            self._moves[draft.number] = []
            self._owned[draft.state.owner.id] += 1
        apply_changes(self._rows, changes)
        for draft in changes.deleted:
            self._delete(draft)
        self.messages_stored += len(changes.messages)
        for draft, message in changes.messages:
            self._logs[draft.number].append(message)
            self._places[message.id] = (draft.number, message.index)
            self._ids.append(message.id)
        self._removed += changes.removed
        for entry in changes.audits:
            if entry.action is AuditAction.RETENTION:
                self._audits = [each for each in self._audits if (each.action, each.at) != (entry.action, entry.at)]
            number = self._audits[-1].number + 1 if self._audits else 1
            self._audits.append(attrs.evolve(entry, number=number))
        for draft, message, place in changes.edits:
            self._logs[draft.number][message.index] = message
            self._edit_places.append((place, message.id))
            self._edits.setdefault(draft.number, {})[message.index] = message.edit_rev
        for given in changes.given:
            self._give(given, created=given.draft in changes.created)
        for uuid, upload in self._rows.uploads.items() if changes.givers else ():
            taker = changes.givers.get(upload.uploader.id) if upload.uploader.role is Role.USER else None
            if taker is not None:
                self._rows.uploads[uuid] = replace(upload, uploader=identity_of(taker))
        for draft, operation in changes.replaced_tags:
            self._tags[draft.number] = with_tag_replaced(self._tags.get(draft.number, ()), operation)
        for draft, tags in changes.tags:
            self._tags[draft.number] = tags
        for draft, place in changes.moves:
            self._moves[draft.number].append(place)
        for draft in changes.drafts.values():
            chat = draft.state
            if chat.stage is not Stage.RESERVED:
                if draft.before.stage is Stage.RESERVED:
                    self._reserved.pop(chat.uuid, None)
            elif draft.changed or chat.uuid not in self._reserved:
                self._reserved.pop(chat.uuid, None)
                self._reserved[chat.uuid] = self._rows.chats[chat.uuid]
            if draft.before.stage is not chat.stage and draft.before.active is not chat.active:
                active = self._active.setdefault(chat.source, {})
                if chat.active:
                    active[chat.uuid] = self._rows.chats[chat.uuid]
                else:
                    del active[chat.uuid]

    def _give(self, given: GivenChat, *, created: bool) -> None:
        log, giver = self._logs[given.draft.number], Identity(Role.USER, given.giver)
        for message in tuple(log):
            if message.author is not None and identity_of(message.author) == giver:
                log[message.index] = replace(message, author=given.taker)
        if not created:
            self._owned[given.taker.id] += 1
            self._owned[giver.id] -= 1
            if not self._owned[giver.id]:
                del self._owned[giver.id]

    def _delete(self, draft: Draft) -> None:
        owner = draft.before.owner
        self._reserved.pop(draft.before.uuid, None)
        if draft.row is not None:
            ids = {message.id for message in self._logs[draft.number]}
            if ids:
                self._ids = [id_ for id_ in self._ids if id_ not in ids]
                for id_ in ids:
                    del self._places[id_]
            if self._edits.pop(draft.number, None):
                self._edit_places = [each for each in self._edit_places if each[1] not in ids]
            del self._logs[draft.number], self._moves[draft.number]
            self._uuids.pop(draft.number, None)
            self._tags.pop(draft.number, None)
            self._owned[owner.id] -= 1
        if not self._owned[owner.id]:
            del self._owned[owner.id]
            record = self._rows.people.get(person_key(owner))
            # The record of a visitor who has signed out stays, or its tokens would be worth something again.
            if owner.id >= ANONYMOUS_IDS and record is not None and not record.signed_out_at:
                del self._rows.people[person_key(owner)]
            if owner.id >= ANONYMOUS_IDS or draft.before.stage is Stage.CLOSED:
                self._rows.documents.pop(DocumentKey(DocumentKind.VISIT, str(owner.id)), None)

    def at(self, row: ChatRow, index: int) -> StoredMessage:
        return self._now(self._logs[row.number][index])

    def find(self, row: ChatRow, message_id: int) -> MarkedMessage | None:
        number, index = self._places.get(message_id, (-1, -1))
        if number != row.number:
            return None
        message = self._logs[row.number][index]
        return MarkedMessage(message.index, message.type, message.type_role)

    def files(self, row: ChatRow) -> tuple[UUID, ...]:
        return tuple(file.uuid for message in self._logs[row.number] for file in message.attachments)

    def chat(self, chat: UUID) -> ChatState | None:
        row = self._rows.chats.get(chat)
        return None if row is None else self._state(row)

    def newest(self, chat: UUID, role: Role, *, before: int | None, limit: int, size: int = PAGE_BYTES) -> Page | None:
        log = self._log(chat)
        end = len(log) if before is None else max(0, min(before, len(log)))
        older = (log[index] for index in range(end - 1, -1, -1))
        page = self._page(chat, (message for message in older if visible_to(message, role)), limit, size)
        return None if page is None else attrs.evolve(page, messages=page.messages[::-1])

    def after(self, chat: UUID, role: Role, *, after: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        newer = self._from(chat, after + 1)
        return self._page(chat, (message for message in newer if visible_to(message, role)), limit, size)

    def since(self, chat: UUID, *, rev: int, limit: int) -> Page | None:
        start = bisect_right(self._log(chat), rev, key=attrgetter("rev"))
        return self._page(chat, self._from(chat, start), limit, inf)

    def authored(
        self, chat: UUID, author_role: Role, *, after: int, upto: int, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        theirs = (
            message
            for message in islice(self._from(chat, after + 1), max(0, upto - max(after, -1)))
            if message.type is MessageType.STANDARD and message.type_role is author_role
        )
        return self._page(chat, theirs, limit, size)

    def edited(self, chat: UUID, *, rev: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        row = self._rows.chats.get(chat)
        edits = {} if row is None else self._edits.get(row.number, {})
        log = self._log(chat)
        changed = sorted((at, index) for index, at in edits.items() if at > rev)
        return self._page(chat, (log[index] for _, index in changed), limit, size)

    def located(self, message_id: int) -> tuple[UUID, int] | None:
        number, index = self._places.get(message_id, (-1, -1))
        uuid = self._uuids.get(number)
        return None if uuid is None else (uuid, index)

    def chats(self, which: ChatFilter) -> ChatPage:
        newest = self._rows.next_message_id - 1
        begin = which.before
        if isinstance(begin, UUID):
            last = self._rows.chats.get(begin)
            if last is None:
                return ChatPage(())
            begin = ListPlace(newest, last.state.place)
        start = newest if begin is None else min(begin.start, newest)
        found = [
            (stood, row)
            for row in self._rows.chats.values()
            if _matches(row.state, which)
            and (which.tag is None or which.tag in self._tags.get(row.number, ()))
            and (stood := self._stood(row, start)) is not None
            and (begin is None or stood < begin.place)
        ]
        found.sort(key=itemgetter(0), reverse=True)
        taken = found[: which.limit]
        more = ListPlace(start, taken[-1][0]) if len(found) > len(taken) else None
        return ChatPage(tuple(self._state(row) for _, row in taken), more)

    def _stood(self, row: ChatRow, start: int) -> int | None:
        """The chat's place when the newest number was `start`, None if it was in no list then."""
        chat = row.state
        if chat.place <= start:
            return chat.place
        log, moves = self._logs[row.number], self._moves[row.number]
        known = bisect_right(log, start, key=attrgetter("id"))
        moved = bisect_right(moves, start)
        places = [message.id for message in log[known - 1 : known]] + moves[moved - 1 : moved]
        return max(places, default=None)

    def summaries(self, chats: Collection[UUID]) -> tuple[SummaryRecord, ...]:
        rows = (row for uuid in frozenset(chats) if (row := self._rows.chats.get(uuid)) is not None)
        return tuple(self._summary(row) for row in rows if row.state.listed)

    def _summary(self, row: ChatRow) -> SummaryRecord:
        chat, log = self._state(row), self._logs[row.number]
        last = next((message for message in reversed(log) if visible_to(message, Role.OPERATOR)), None)
        unread = (
            message
            for message in (log[index] for index in range(chat.operators_read + 1, len(log)))
            if message.type is MessageType.STANDARD and message.type_role is Role.USER
        )
        told = None
        if chat.stage is Stage.CLOSED:
            system = (message for message in reversed(log) if message.type is MessageType.SYSTEM)
            told = next((message for message in system if message.type_role is Role.USER), None)
        return SummaryRecord(
            chat,
            None if last is None else self._now(last),
            sum(1 for _ in islice(unread, MOST_UNREAD)),
            log[0].time if log else chat.last_activity,
            self._tags.get(row.number, ()),
            None if told is None else self._now(told),
        )

    def person(self, identity: Identity) -> PersonRecord | None:
        return self._rows.people.get((identity.role is Role.OPERATOR, identity.id))

    def people(self, identities: Collection[Identity]) -> tuple[PersonRecord, ...]:
        found = (self.person(identity) for identity in identities)
        return tuple(record for record in found if record is not None)

    def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        wanted, now = None if sources is None else frozenset(sources), self._clock()
        people = sorted((key[1], record) for key, record in self._rows.people.items() if key[0])
        return tuple(
            OperatorRecord(record, self._rows.operators.get(id_) or OperatorCounters(id_))
            for id_, record in people
            if wanted is None or wanted & record.sources(now)
        )

    def accounts(self) -> tuple[Account, ...]:
        return tuple([self._rows.accounts[id_] for id_ in sorted(self._rows.accounts)])

    def blocks(self) -> tuple[Block, ...]:
        return tuple([self._rows.blocks[id_] for id_ in sorted(self._rows.blocks)])

    def sources(self, limit: int) -> tuple[str, ...]:
        return tuple(sorted(source for source, counters in self._rows.sources.items() if counters.rev)[:limit])

    def tag_counts(self, sources: Collection[str], limit: int) -> tuple[tuple[str, int], ...]:
        wanted = frozenset(sources)
        chats = (row for row in self._rows.chats.values() if row.state.source in wanted)
        counts = Counter(tag for row in chats for tag in self._tags.get(row.number, ()))
        return tuple(sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:limit])

    def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        wanted = sorted(frozenset(sources))
        rows = [row for source in wanted for row in self._active.get(source, {}).values()]
        rows.sort(key=lambda row: row.state.place)
        return FeedSnapshot(
            self.operators(wanted),
            tuple(self._rows.sources.get(source) or SourceCounters(source) for source in wanted),
            tuple(self._state(row) for row in rows[max(0, len(rows) - limit) :]),
        )

    def past_retention(self, retention: Retention, now: float, limit: int) -> tuple[tuple[UUID, float], ...]:
        closed = (row.state for row in self._rows.chats.values() if row.state.stage is Stage.CLOSED)
        times = [(chat, now - seconds) for chat in closed if (seconds := retention.of(chat.source))]
        past = [(chat, before) for chat, before in times if chat.last_activity <= before]
        past.sort(key=lambda each: (each[0].source, each[0].last_activity, each[0].uuid))
        return tuple((chat.uuid, before) for chat, before in past[:limit])

    def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        unused = ((row.state.last_activity, uuid) for uuid, row in self._reserved.items())
        return tuple(uuid for _, uuid in sorted(islice(takewhile(lambda each: each[0] <= before, unused), limit)))

    def documents(self, kind: DocumentKind, scope: str) -> tuple[tuple[str, str], ...]:
        found = ((key.name, text) for key, text in self._rows.documents.items() if key[:2] == (kind, scope))
        return tuple(sorted(found))

    def uploads(self, files: Collection[UUID]) -> tuple[Upload, ...]:
        return tuple(upload for uuid in files if (upload := self._rows.uploads.get(uuid)) is not None)

    def unbound_uploads(self, before: float, limit: int) -> tuple[UUID, ...]:
        unbound = (upload for upload in self._rows.uploads.values() if not upload.bound and upload.created <= before)
        return tuple(upload.file.uuid for upload in sorted(unbound, key=attrgetter("created"))[:limit])

    def searchable(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        start = bisect_right(self._ids, after)
        return tuple(self._searchable(id_, id_) for id_ in self._ids[start : start + limit])

    def searchable_edits(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        start = bisect_right(self._edit_places, after, key=itemgetter(0))
        return tuple(self._searchable(place, id_) for place, id_ in self._edit_places[start : start + limit])

    def _searchable(self, number: int, id_: int) -> SearchableMessage:
        chat, index = self._places[id_]
        message, state = self._logs[chat][index], self._rows.chats[self._uuids[chat]].state
        hidden = next((role for role in Role if not visible_to(message, role)), None)
        files = tuple(file.filename for file in message.attachments)
        chat_hex, owner_id = state.uuid.hex, state.owner.id
        return SearchableMessage(number, id_, chat_hex, state.source, owner_id, hidden, message.text, files)

    def removed_chats(self, after: int, limit: int) -> tuple[RemovedChat, ...]:
        start = bisect_right(self._removed, after, key=attrgetter("place"))
        return tuple(self._removed[start : start + limit])

    def people_after(self, after: Identity, limit: int) -> tuple[SearchablePerson, ...]:
        role = after.role is Role.OPERATOR
        ids = sorted(
            id_
            for (is_operator, id_), record in self._rows.people.items()
            if is_operator is role and id_ > after.id and record.user != User(id_, after.role, record.user.avatar)
        )
        return self.searchable_people([Identity(after.role, id_) for id_ in ids[:limit]])

    def searchable_people(self, people: Collection[Identity]) -> tuple[SearchablePerson, ...]:
        records = [record for identity in people if (record := self.person(identity)) is not None]
        owners = {record.user.id: set[str]() for record in records if record.user.role is Role.USER}
        for row in self._rows.chats.values():
            if row.state.listed and row.state.owner.id in owners:
                owners[row.state.owner.id].add(row.state.source)
        return tuple(
            SearchablePerson(
                record.user,
                record.sources(self._clock())
                if record.user.role is Role.OPERATOR
                else frozenset(owners[record.user.id]),
            )
            for record in records
        )

    def audits(self, before: int, limit: int) -> tuple[AuditEntry, ...]:
        return tuple([entry for entry in reversed(self._audits) if entry.number < before][:limit])

    def written_by(self, author: Identity, after: int, limit: int) -> tuple[tuple[UUID, int], ...]:
        found: list[tuple[UUID, int]] = []
        for id_ in self._ids[bisect_right(self._ids, after) :]:
            number, index = self._places[id_]
            message = self._logs[number][index]
            if message.author is not None and identity_of(message.author) == author and len(found) < limit:
                found.append((self._uuids[number], id_))
        return tuple(found)

    def uploads_of(self, uploader: Identity) -> tuple[UUID, ...]:
        return tuple(uuid for uuid, upload in self._rows.uploads.items() if upload.uploader == uploader)

    def newest_number(self) -> int:
        return self._rows.next_message_id - 1

    def found(self, messages: Sequence[int]) -> tuple[tuple[ChatState, StoredMessage], ...]:
        found: list[tuple[ChatState, StoredMessage]] = []
        for id_ in messages:
            number, index = self._places.get(id_, (-1, -1))
            if number in self._uuids:
                row = self._rows.chats[self._uuids[number]]
                found.append((self._state(row), self.at(row, index)))
        return tuple(found)

    def probe(self) -> None:
        pass

    def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        if not self._policy.idle_timeout and not self._policy.answer_timeout:
            return ()
        times = (
            (row.state.due_at(self._policy), uuid) for active in self._active.values() for uuid, row in active.items()
        )
        return tuple(
            uuid for _, uuid in sorted((at, uuid) for at, uuid in times if at is not None and at <= now)[:limit]
        )

    def _state(self, row: ChatRow) -> ChatState:
        people, state = self._rows.people, row.state
        operator = None if state.operator is None else people.get(person_key(state.operator))
        return with_known_people(state, people.get(person_key(state.owner)), operator)

    def _now(self, message: StoredMessage) -> StoredMessage:
        author = message.author
        record = None if author is None else self._rows.people.get(person_key(author))
        if record is None or record.user is author:
            return message
        return replace(message, author=record.user)

    def _log(self, chat: UUID) -> Sequence[StoredMessage]:
        row = self._rows.chats.get(chat)
        return () if row is None else self._logs[row.number]

    def _from(self, chat: UUID, start: int) -> Iterator[StoredMessage]:
        log = self._log(chat)
        return (log[index] for index in range(max(0, start), len(log)))

    def _page(self, chat: UUID, messages: Iterable[StoredMessage], limit: int, size: float) -> Page | None:
        row = self._rows.chats.get(chat)
        if row is None:
            return None
        taken, has_more = cut_page(messages, limit, size)
        return Page(self._state(row), tuple(map(self._now, taken)), has_more)


def _matches(chat: ChatState, which: ChatFilter) -> bool:
    return (
        chat.listed
        and (which.sources is None or chat.source in which.sources)
        and (which.stages is None or chat.stage in which.stages)
        and (which.operator_id is None or (chat.operator is not None and chat.operator.id == which.operator_id))
        and (which.owner_id is None or chat.owner.id == which.owner_id)
        and (which.owners is None or chat.owner.id in which.owners)
    )
