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

from actorchat.chat.commit_log import LogEntry, Trimmed
from actorchat.chat.model import (
    ANONYMOUS_IDS,
    ChatState,
    Identity,
    OperatorCounters,
    PersonRecord,
    Policy,
    SourceCounters,
    Stage,
    StoredMessage,
    Upload,
    visible_to,
)
from actorchat.chat.operations import Operation, RefuseMessage
from actorchat.chat.ports import PAGE_BYTES, ChatFilter, ChatPage, FeedSnapshot, ListPlace, OperatorRecord, Page
from actorchat.chat.rules import MarkedMessage
from actorchat.protocol import MessageType, Role
from actorchat.storage.commit_recorder import CommitRecorder
from actorchat.storage.decider import Changes, Draft, apply_changes, decide_batch, decide_each
from actorchat.storage.row_cache import ChatRow, RowCache, cut_page, person_key, with_known_people
from actorchat.storage.store import Batch, DecisionAndCounters

__all__ = ["MemoryStore"]


class MemoryStore:
    """A `Store` whose content ends with the process. One thread makes all calls. `clock` gives epoch seconds.

    With `brokers`, their names, it is a `StoredLog` too.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.time, brokers: Collection[str] = ()) -> None:
        self.corrected_counters = 0
        self._policy = policy
        self._clock = clock
        self._rows = RowCache()
        self._logs: dict[int, list[StoredMessage]] = {}
        self._moves: dict[int, list[int]] = {}
        self._numbers = count()
        # The chats that are unused for the longest time come first.
        self._reserved: dict[UUID, ChatRow] = {}
        self._owned: Counter[int] = Counter()
        self._places: dict[int, tuple[int, int]] = {}
        self._active: dict[str, dict[UUID, ChatRow]] = {}
        self._batches: dict[str, int] = {}
        self._positions = dict.fromkeys(brokers, 0)
        self._entries: list[LogEntry] = []
        self._last_seq = 0

    def commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
        recorder = CommitRecorder(batch.now) if self._positions else None
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
            self._last_seq += 1
            self._entries.append(LogEntry(self._last_seq, batch.now, payload))
        self._batches[batch.writer] = batch.number
        return decided

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

    def record_relayed(self, positions: Mapping[str, int], expired: float) -> Trimmed:
        self._positions.update({broker: seq for broker, seq in positions.items() if broker in self._positions})
        done = min(self._positions.values(), default=0)
        deletable = list(takewhile(lambda entry: entry.seq <= done or entry.time < expired, self._entries))
        del self._entries[: len(deletable)]
        return Trimmed(len(deletable), sum(entry.seq > done for entry in deletable))

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
            self._moves[draft.number] = []
            self._owned[draft.state.owner.id] += 1
        apply_changes(self._rows, changes)
        for draft in changes.deleted:
            self._delete(draft)
        for draft, message in changes.messages:
            self._logs[draft.number].append(message)
            self._places[message.id] = (draft.number, message.index)
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

    def _delete(self, draft: Draft) -> None:
        owner = draft.before.owner
        self._reserved.pop(draft.before.uuid, None)
        if draft.row is not None:
            del self._logs[draft.number], self._moves[draft.number]
            self._owned[owner.id] -= 1
        if not self._owned[owner.id]:
            del self._owned[owner.id]
            if owner.id >= ANONYMOUS_IDS:
                self._rows.people.pop(person_key(owner), None)

    def at(self, row: ChatRow, index: int) -> StoredMessage:
        return self._now(self._logs[row.number][index])

    def find(self, row: ChatRow, message_id: int) -> MarkedMessage | None:
        number, index = self._places.get(message_id, (-1, -1))
        if number != row.number:
            return None
        message = self._logs[row.number][index]
        return MarkedMessage(message.index, message.type, message.type_role)

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

    def person(self, identity: Identity) -> PersonRecord | None:
        return self._rows.people.get((identity.role is Role.OPERATOR, identity.id))

    def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        wanted, now = None if sources is None else frozenset(sources), self._clock()
        people = sorted((key[1], record) for key, record in self._rows.people.items() if key[0])
        return tuple(
            OperatorRecord(record, self._rows.operators.get(id_) or OperatorCounters(id_))
            for id_, record in people
            if wanted is None or wanted & record.sources(now)
        )

    def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        wanted = sorted(frozenset(sources))
        rows = [row for source in wanted for row in self._active.get(source, {}).values()]
        rows.sort(key=lambda row: row.state.place)
        return FeedSnapshot(
            self.operators(wanted),
            tuple(self._rows.sources.get(source) or SourceCounters(source) for source in wanted),
            tuple(self._state(row) for row in rows[max(0, len(rows) - limit) :]),
        )

    def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        unused = ((row.state.last_activity, uuid) for uuid, row in self._reserved.items())
        return tuple(uuid for _, uuid in sorted(islice(takewhile(lambda each: each[0] <= before, unused), limit)))

    def uploads(self, files: Collection[UUID]) -> tuple[Upload, ...]:
        return tuple(upload for uuid in files if (upload := self._rows.uploads.get(uuid)) is not None)

    def unbound_uploads(self, before: float, limit: int) -> tuple[UUID, ...]:
        unbound = (upload for upload in self._rows.uploads.values() if not upload.bound and upload.created <= before)
        return tuple(upload.file.uuid for upload in sorted(unbound, key=attrgetter("created"))[:limit])

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
    )
