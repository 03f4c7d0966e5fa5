"""Decides the operations of a batch in order, each on the result of those before it. Pure functions without IO.

`actorchat.chat.rules` decides what an operation does to its chat. This module adds idempotency keys, counters,
reservations and people.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from uuid import UUID

import attrs
from msgspec.structs import replace

from actorchat.chat.accounts import AccountOperation, signed_out
from actorchat.chat.documents import ChangeDocument, DocumentChanged, DocumentKey, visit_of
from actorchat.chat.model import (
    ChatState,
    OperatorCounters,
    PersonRecord,
    Policy,
    SourceCounters,
    Stage,
    StoredMessage,
    Upload,
    contribution,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    EditMessage,
    EndLeaving,
    ExpireChat,
    Expired,
    ExpireUploads,
    GiveChat,
    HandedOver,
    HandOver,
    MarkMessage,
    Operation,
    PersonRecorded,
    RecordPerson,
    RecordUpload,
    RedactMessage,
    Refused,
    RefuseMessage,
    ReleaseChat,
    ReopenChat,
    ReplaceTag,
    ReserveChat,
    ReturnChat,
    SetOnline,
    SetTags,
    TransferChat,
    Unchanged,
    UploadRecorded,
    UploadsExpired,
)
from actorchat.chat.page_views import has_taken_over, taken_over
from actorchat.chat.person_records import record_person
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.privacy import AuditEntry, ErasePerson, RecordAudit, Recorded
from actorchat.chat.rules import DecisionContext, MarkedMessage, decide, prospective_operator, record_presence
from actorchat.protocol import RefusalCode, Role, User
from actorchat.storage.account_decider import AccountDecider
from actorchat.storage.changes import Changes, Draft, GivenChat, NewKeys
from actorchat.storage.row_cache import (
    Messages,
    PersonKey,
    RowCache,
    person_key,
    with_known_people,
)
from actorchat.storage.store import Counters, DecisionAndCounters, RemovedChat

__all__ = ["decide_batch", "decide_each", "with_tag_replaced"]

_log = logging.getLogger("actorchat.storage")

_NO_COUNTERS: Final[Counters] = ()
_NO_CHAT: Final[DecisionAndCounters] = (Refused("not_found", "there is no such chat"), _NO_COUNTERS)
_SIGNED_OUT: Final[DecisionAndCounters] = (
    Refused("not_authenticated", "the visitor has signed out since the token was issued"),
    _NO_COUNTERS,
)
_NO_OPERATOR: Final[DecisionAndCounters] = (Refused("not_found", "there is no such operator"), _NO_COUNTERS)


def decide_batch(
    operations: Iterable[Operation], rows: RowCache, messages: Messages, policy: Policy, now: float
) -> tuple[list[DecisionAndCounters], Changes]:
    """Decide `operations` in order at `now`, in epoch seconds.

    `rows` must hold the rows that `actorchat.storage.preload` asked for. It is not changed.
    """
    decider = _Decider(rows, messages, policy, now)
    return list(map(decider.decide, operations)), decider.changes


def decide_each(
    operations: Sequence[Operation], alone: Callable[[Operation], DecisionAndCounters]
) -> list[DecisionAndCounters]:
    """Decide each operation by `alone`, which stores it as a whole or not at all, and refuse those that fail."""
    decided: list[DecisionAndCounters] = []
    for operation in operations:
        try:
            decided.append(alone(operation))
        except StorageUnavailable:
            raise
        except Exception:
            _log.exception("an operation can't be stored: %s", type(operation).__name__)
            refused = Refused(RefusalCode.MALFORMED, "this can't be stored")
            decided.append((refused, _NO_COUNTERS))
    return decided


def with_tag_replaced(tags: tuple[str, ...], operation: ReplaceTag) -> tuple[str, ...]:
    """Return the sorted tags of a chat after the operation."""
    if operation.tag not in tags:
        return tags
    others = [tag for tag in tags if tag != operation.tag]
    return tuple(sorted({*others, operation.into} if operation.into is not None else others))


def _is_worthless(person: PersonRecord | None, issued: float | None) -> bool:
    """Whether the person has signed out since a token was issued."""
    return person is not None and issued is not None and issued <= person.signed_out_at


class _Decider:
    """Decides one batch: `rows` stay as committed, `changes` are what the operations make of them."""

    def __init__(self, rows: RowCache, messages: Messages, policy: Policy, now: float) -> None:
        self._rows = rows
        self._messages = messages
        self._policy = policy
        self._now = int(now)
        self._rounded = int(self._now < now)
        self._first_message_id = rows.next_message_id
        self._unclosed: dict[tuple[int, str], list[UUID]] = {}
        self.changes = Changes(next_message_id=rows.next_message_id)

    def decide(self, operation: Operation) -> DecisionAndCounters:
        match operation:
            case AddMessage():
                return self._add_message(operation)
            case RefuseMessage():
                return self._refuse_message(operation)
            case ReserveChat():
                return self._reserve(operation)
            case ExpireChat():
                return self._expire(operation)
            case RecordPerson():
                return self._record(operation)
            case SetOnline() | EndLeaving():
                return self._record_presence(operation)
            case HandOver():
                return self._hand_over(operation)
            case RecordUpload():
                return self._record_upload(operation.upload)
            case ExpireUploads():
                return self._expire_uploads(operation)
            case EditMessage() | RedactMessage():
                return self._change_message(operation)
            case ChangeDocument():
                return self._change_document(operation)
            case ErasePerson():
                return self._erase(operation)
            case RecordAudit(audit=audit):
                self.changes.audits.append(audit)
                return Recorded(), _NO_COUNTERS
            case AccountOperation():
                return AccountDecider(self._rows, self.changes, self._now).decide(operation), _NO_COUNTERS
            case SetTags() | ReplaceTag():
                return self._set_tags(operation)
            case _:
                return self._decide_on_chat(operation)

    def _add_message(self, operation: AddMessage) -> DecisionAndCounters:
        draft = self._draft(operation.chat)
        if draft is None:
            return _NO_CHAT
        author, client_id = self._known(operation.author), operation.client_id
        if author is not operation.author:
            operation = replace(operation, author=author)
        add = self._add_with_files if operation.attachments else self._decided
        if client_id is None:
            return add(draft, operation)
        new_keys = self._keys(draft, person_key(author))
        index = new_keys.find(client_id)
        if index is not None:
            return add(draft, operation, prior=self._message_at(draft, index))
        decided = add(draft, operation)
        decision = decided[0]
        if isinstance(decision, Changed):
            new_keys.add(client_id, decision.messages[0].index)
        return decided

    def _add_with_files(
        self, draft: Draft, operation: AddMessage, *, prior: StoredMessage | None = None
    ) -> DecisionAndCounters:
        uploads = tuple(map(self._upload, operation.attachments))
        decided = self._decided(draft, operation, prior=prior, uploads=uploads)
        decision = decided[0]
        if isinstance(decision, Changed):
            for upload in uploads:
                if upload is not None:
                    self.changes.uploads[upload.file.uuid] = replace(upload, bound=True)
                    self.changes.taken[upload.file.uuid] = (draft, decision.messages[0].index)
        return decided

    def _upload(self, uuid: UUID) -> Upload | None:
        if uuid in self.changes.uploads:
            return self.changes.uploads[uuid]
        return self._rows.uploads.get(uuid)

    def _record_upload(self, upload: Upload) -> DecisionAndCounters:
        if self._upload(upload.file.uuid) is None:
            self.changes.uploads[upload.file.uuid] = upload
        return UploadRecorded(), _NO_COUNTERS

    def _expire_uploads(self, operation: ExpireUploads) -> DecisionAndCounters:
        expired: list[UUID] = []
        for uuid in operation.files:
            upload = self._upload(uuid)
            if upload is not None and not upload.bound and upload.created <= operation.before:
                self.changes.uploads[uuid] = None
                expired.append(uuid)
        return UploadsExpired(tuple(expired)), _NO_COUNTERS

    def _refuse_message(self, operation: RefuseMessage) -> DecisionAndCounters:
        message, draft = operation.message, self._draft(operation.chat)
        if draft is None or message.client_id is None:
            return operation.refusal, _NO_COUNTERS
        index = self._keys(draft, person_key(message.author)).find(message.client_id)
        if index is None:
            return operation.refusal, _NO_COUNTERS
        return self._decided(draft, message, prior=self._message_at(draft, index))

    def _change_message(self, operation: EditMessage | RedactMessage) -> DecisionAndCounters:
        draft = self._draft(operation.chat)
        if draft is None:
            return _NO_CHAT
        found = self._marked(draft, operation.message_id)
        edited = None if found is None else self._message_at(draft, found.index)
        decided = self._decided(draft, operation, edited=edited)
        decision = decided[0]
        if isinstance(decision, Changed):
            if draft.edited is None:
                draft.edited = {}
            for message in decision.updated:
                draft.edited[message.index] = message
                self.changes.edits.append((draft, message, self.changes.next_message_id))
                self.changes.next_message_id += 1
            for file in decision.removed:
                self.changes.uploads[file] = None
        return decided

    def _decide_on_chat(self, operation: ChatOperation) -> DecisionAndCounters:
        draft = self._draft(operation.chat)
        if draft is None:
            return _NO_CHAT
        known = self._by_known_person(operation)
        marked, target = None, None
        if isinstance(known, MarkMessage):
            marked = self._marked(draft, known.message_id)
        elif isinstance(known, TransferChat):
            target = self._person((True, known.to))
        return self._decided(draft, known, marked=marked, target=target)

    def _change_document(self, operation: ChangeDocument) -> DecisionAndCounters:
        before = self._document(operation.key)
        after = operation.change(before)
        if after != before:
            self.changes.documents[operation.key] = after
        return DocumentChanged(after), _NO_COUNTERS

    def _document(self, key: DocumentKey) -> str | None:
        documents = self.changes.documents
        return documents[key] if key in documents else self._rows.documents.get(key)

    def _hand_over(self, operation: HandOver) -> DecisionAndCounters:
        anonymous, changes = User(operation.anonymous, Role.USER), self.changes
        giver, taker = person_key(anonymous), person_key(operation.to)
        theirs, mine = visit_of(anonymous.id), visit_of(operation.to.id)
        visit = self._document(mine)
        if has_taken_over(visit, anonymous.id):
            return HandedOver(), _NO_COUNTERS
        stored = self._person(giver)
        if _is_worthless(stored, operation.anonymous_issued) or _is_worthless(self._person(taker), operation.issued):
            return _SIGNED_OUT
        to = self._known(operation.to)
        given = self._chats_of(anonymous.id)
        decided = [self._decided(draft, part) for draft, part in self._parts(given, to)]
        for draft in given:
            self._give_away(draft, giver, to)
        # Without a name, because what it says of the person is the record of `to` now.
        at = max(operation.at, 0.0 if stored is None else stored.signed_out_at)
        record = changes.people[giver] = signed_out(PersonRecord(anonymous), at)
        changes.documents[mine] = taken_over(visit, anonymous.id, self._document(theirs))
        changes.documents[theirs] = None
        changes.givers[anonymous.id] = to
        done = tuple([decision for decision, _ in decided if isinstance(decision, Changed)])
        return HandedOver(done, record), tuple([each for _, counters in decided for each in counters])

    def _chats_of(self, owner: int, source: str | None = None) -> list[Draft]:
        """The chats of a visitor, at all sources or at one, as far as they are loaded."""
        found: dict[UUID, None] = {}
        for known in (self._rows.owned, self._unclosed):
            for pair, uuids in known.items():
                if pair[0] == owner and source in (None, pair[1]):
                    found.update(dict.fromkeys(uuids))
        drafts = [draft for uuid in found if (draft := self._draft(uuid)) is not None]
        return [draft for draft in drafts if draft.state.owner.id == owner]

    def _parts(self, given: Sequence[Draft], to: User) -> list[tuple[Draft, GiveChat]]:
        """Return what happens to each chat: of several that are not closed at one source, the newest one goes on."""
        parts = {draft.state.uuid: (draft, GiveChat(draft.state.uuid, to)) for draft in given}
        active = [draft for draft in given if draft.state.active]
        for source in dict.fromkeys([draft.state.source for draft in active]):
            here = [draft for draft in active if draft.state.source == source]
            here += [draft for draft in self._chats_of(to.id, source) if draft.state.active]
            *older, newest = sorted(here, key=lambda draft: draft.state.place)
            if not older:
                continue
            for draft in older:
                parts[draft.state.uuid] = draft, GiveChat(draft.state.uuid, to, ended=True)
            waiting = [since for draft in older if (since := draft.state.awaiting_since) is not None]
            uuid = newest.state.uuid
            # Last, so that whoever sees it sees the others closed.
            parts.pop(uuid, None)
            parts[uuid] = newest, GiveChat(uuid, to, joined=True, awaiting_since=min(waiting, default=None))
        return list(parts.values())

    def _give_away(self, draft: Draft, giver: PersonKey, to: User) -> None:
        files = [file.uuid for message in draft.messages for file in message.attachments]
        if draft.row is not None:
            files += self._messages.files(draft.row)
        draft.given = GivenChat(draft, giver[1], to, tuple(files))
        self.changes.given.append(draft.given)
        draft.keys[person_key(to)] = self._keys(draft, giver)
        draft.keys.pop(giver)
        if draft.state.stage is not Stage.CLOSED:
            self._unclosed.setdefault((to.id, draft.state.source), []).append(draft.state.uuid)

    def _set_tags(self, operation: SetTags | ReplaceTag) -> DecisionAndCounters:
        draft = self._draft(operation.chat)
        if draft is None:
            return _NO_CHAT
        decided = self._decided(draft, operation)
        if not isinstance(decided[0], Changed):
            return decided
        if isinstance(operation, SetTags):
            self.changes.tags.append((draft, operation.tags))
            return decided
        given = next((tags for other, tags in reversed(self.changes.tags) if other is draft), None)
        if given is None:
            self.changes.replaced_tags.append((draft, operation))
        else:
            self.changes.tags.append((draft, with_tag_replaced(given, operation)))
        return decided

    def _decided(
        self,
        draft: Draft,
        operation: ChatOperation | GiveChat,
        *,
        prior: StoredMessage | None = None,
        marked: MarkedMessage | None = None,
        target: PersonRecord | None = None,
        uploads: tuple[Upload | None, ...] = (),
        edited: StoredMessage | None = None,
    ) -> DecisionAndCounters:
        before, changes = draft.state, self.changes
        holder = None
        if before.operator is not None and (before.stage is Stage.CLOSED or isinstance(operation, ReleaseChat)):
            holder = self._person((True, before.operator.id))
        context = DecisionContext(
            policy=self._policy,
            now=self._now,
            rounded=self._rounded,
            message_id=changes.next_message_id,
            load=self._load(before, operation) if self._policy.capacity else 0,
            prior=prior,
            marked=marked,
            target=target,
            holder=holder,
        )
        if uploads:
            context = replace(context, uploads=uploads)
        if edited is not None:
            context = replace(context, edited=edited)
        decision = decide(before, operation, context)
        if not isinstance(decision, Changed):
            return decision, _NO_COUNTERS
        draft.state = after = decision.chat
        for message in decision.messages:
            draft.messages.append(message)
            changes.messages.append((draft, message))
            changes.next_message_id += 1
        if not decision.messages and after.place != before.place:
            changes.moves.append((draft, after.place))
            changes.next_message_id += 1
        if before.stage is Stage.CLOSED and after.stage is not Stage.CLOSED:
            self._unclosed.setdefault((after.owner.id, after.source), []).append(after.uuid)
        # Most messages change no counter: the chat's stage, its operator and whether it is unread stay the same.
        if (
            before.stage is after.stage
            and before.operator is after.operator
            and (before.last_visitor_index > before.operators_read) is (after.last_visitor_index > after.operators_read)
        ):
            return decision, _NO_COUNTERS
        return decision, self._count(draft, before, after)

    def _count(self, draft: Draft, before: ChatState, after: ChatState) -> Counters:
        was = draft.share if draft.share is not None else contribution(before)
        now = draft.share = contribution(after)
        counters: list[OperatorCounters | SourceCounters] = []
        if was.operator_id == now.operator_id:
            if now.operator_id is not None:
                self._adjust(counters, now.operator_id, now.new - was.new, now.open - was.open)
        else:
            if was.operator_id is not None:
                self._adjust(counters, was.operator_id, -was.new, -was.open)
            if now.operator_id is not None:
                self._adjust(counters, now.operator_id, now.new, now.open)
        if was.unread != now.unread:
            source = self.changes.sources.get(after.source) or self._rows.sources.get(after.source)
            source = source or SourceCounters(after.source)
            unread = source.unread_chats + now.unread - was.unread
            source = self.changes.sources[after.source] = SourceCounters(after.source, unread, source.rev + 1)
            counters.append(source)
        return tuple(counters)

    def _adjust(
        self, counters: list[OperatorCounters | SourceCounters], operator_id: int, new: int, open_: int
    ) -> None:
        if not new and not open_:
            return
        current = self._operator(operator_id)
        adjusted = OperatorCounters(operator_id, current.new_chats + new, current.open_chats + open_, current.rev + 1)
        self.changes.operators[operator_id] = adjusted
        counters.append(adjusted)

    def _operator(self, operator_id: int) -> OperatorCounters:
        current = self.changes.operators.get(operator_id) or self._rows.operators.get(operator_id)
        return current or OperatorCounters(operator_id)

    def _load(self, chat: ChatState, operation: ChatOperation | GiveChat) -> int:
        operator_id = prospective_operator(chat, operation)
        if operator_id is None:
            return 0
        counters = self._operator(operator_id)
        return counters.new_chats + counters.open_chats

    def _draft(self, uuid: UUID) -> Draft | None:
        draft = self.changes.drafts.get(uuid.int)
        if draft is None:
            row = self._rows.chats.get(uuid)
            if row is None or uuid.int in self.changes.gone:
                return None
            state = row.state
            owner = self._person(person_key(state.owner))
            operator = None if state.operator is None else self._person((True, state.operator.id))
            draft = self.changes.drafts[uuid.int] = Draft(row, with_known_people(state, owner, operator))
        return draft

    def _keys(self, draft: Draft, person: PersonKey) -> NewKeys:
        keys = draft.keys.get(person)
        if keys is None:
            committed = None if draft.row is None else draft.row.keys.get(person)
            keys = draft.keys[person] = NewKeys(committed)
        return keys

    def _message_at(self, draft: Draft, index: int) -> StoredMessage:
        message, given = self._found_at(draft, index), draft.given
        author = message.author
        if given is not None and author is not None and person_key(author) == (False, given.giver):
            return replace(message, author=given.taker)
        return message

    def _found_at(self, draft: Draft, index: int) -> StoredMessage:
        if draft.edited is not None and index in draft.edited:
            return draft.edited[index]
        offset = index - draft.before.next_index
        if offset >= 0 or draft.row is None:
            return draft.messages[offset]
        return self._messages.at(draft.row, index)

    def _marked(self, draft: Draft, message_id: int) -> MarkedMessage | None:
        if message_id >= self._first_message_id:
            added = self.changes.messages
            at = bisect_left(added, message_id, key=lambda entry: entry[1].id)
            if at < len(added) and added[at][1].id == message_id:
                holder, message = added[at]
                return MarkedMessage(message.index, message.type, message.type_role) if holder is draft else None
            # Another writer may have got the ids behind those of this batch, and may have committed earlier.
        return None if draft.row is None else self._messages.find(draft.row, message_id)

    def _person(self, key: PersonKey) -> PersonRecord | None:
        return self.changes.people.get(key) or self._rows.people.get(key)

    def _known(self, user: User) -> User:
        """`user` as stored. A user whose token was never recorded is stored as the operation has it."""
        key = person_key(user)
        record = self._person(key)
        if record is None:
            self.changes.people[key] = PersonRecord(user)
            return user
        return record.user

    def _by_known_person(self, operation: ChatOperation) -> ChatOperation:
        match operation:
            case AcceptChat(by=user) | CloseChat(by=user) | ReopenChat(by=user) | ReturnChat(by=user):
                known = self._known(user)
                return operation if known is user else attrs.evolve(operation, by=known)
            case TransferChat(by=user):
                known = self._known(user)
                return operation if known is user else attrs.evolve(operation, by=known)
            case _:
                return operation

    def _reserve(self, operation: ReserveChat) -> DecisionAndCounters:
        pair = (operation.owner.id, operation.source)
        candidates = [*self._rows.owned.get(pair, ()), *self._unclosed.get(pair, ())]
        newest: ChatState | None = None
        for uuid in candidates:
            draft = self._draft(uuid)
            if draft is None or draft.state.stage is Stage.CLOSED or draft.state.owner.id != operation.owner.id:
                continue
            chat = draft.state
            if newest is None or (chat.place, chat.uuid) > (newest.place, newest.uuid):
                newest = chat
        if newest is not None:
            return Unchanged(self._used(newest)), _NO_COUNTERS
        if operation.refusal is not None:
            return operation.refusal, _NO_COUNTERS
        if self._draft(operation.chat) is not None:
            return Refused(RefusalCode.CONFLICT, "there is another chat with this uuid"), _NO_COUNTERS
        owner = self._known(operation.owner)
        chat = ChatState(operation.chat, operation.source, owner, last_activity=self._now)
        draft = self.changes.drafts[chat.uuid.int] = Draft(None, chat)
        self.changes.created.append(draft)
        self._unclosed.setdefault(pair, []).append(chat.uuid)
        return Changed(chat), _NO_COUNTERS

    def _used(self, chat: ChatState) -> ChatState:
        """Restart the expiry of a reserved chat that is used again, and return the chat."""
        if chat.stage is Stage.RESERVED and chat.last_activity < self._now:
            chat = self.changes.drafts[chat.uuid.int].state = replace(chat, last_activity=self._now)
        return chat

    def _expire(self, operation: ExpireChat) -> DecisionAndCounters:
        draft = self._draft(operation.chat)
        if draft is None:
            return _NO_CHAT
        chat = draft.state
        wanted = Stage.RESERVED if operation.retention is None else Stage.CLOSED
        if chat.stage is not wanted or chat.last_activity > operation.before or draft.given is not None:
            return Unchanged(chat), _NO_COUNTERS
        if operation.in_use:
            return Unchanged(self._used(chat)), _NO_COUNTERS
        if operation.retention is not None:
            return self._remove(draft, operation.retention)
        self._delete(draft)
        return Expired(chat.uuid), _NO_COUNTERS

    def _remove(self, draft: Draft, record: AuditEntry) -> DecisionAndCounters:
        chat, changes = draft.state, self.changes
        if draft.row is None or draft.changed:
            # This batch has tags, edits or marks of the chat. A later operation deletes them with it.
            return Unchanged(chat), _NO_COUNTERS
        files = self._messages.files(draft.row)
        self._delete(draft)
        changes.uploads.update(dict.fromkeys(files))
        changes.removed.append(RemovedChat(changes.next_message_id, chat.uuid, chat.owner.id))
        changes.next_message_id += 1
        counts = Counter(record.counts)
        counts.update(chats=1, messages=chat.next_index, files=len(files))
        changes.audits.append(attrs.evolve(record, counts=dict(counts)))
        return Expired(chat.uuid, chat.next_index, files), _NO_COUNTERS

    def _delete(self, draft: Draft) -> None:
        chat = draft.state
        del self.changes.drafts[chat.uuid.int]
        if draft.row is None:
            self.changes.created.remove(draft)
        self.changes.deleted.append(draft)
        self.changes.gone.add(chat.uuid.int)

    def _record(self, operation: RecordPerson) -> DecisionAndCounters:
        key = person_key(operation.user)
        stored = self._person(key)
        record = record_person(stored, operation, self._now)
        if record == stored:
            return PersonRecorded(stored, False), _NO_COUNTERS
        renamed = self.changes.put_person(key, record, stored)
        return PersonRecorded(record, True, renamed), _NO_COUNTERS

    def _erase(self, operation: ErasePerson) -> DecisionAndCounters:
        self.changes.audits.append(operation.audit)
        subject = operation.audit.subject
        if subject is None:
            raise ValueError("an erasure needs a person")
        nobody = User(subject.id, subject.role)
        key = person_key(nobody)
        stored = self._person(key)
        if stored is None or stored.user == nobody:
            return PersonRecorded(stored or PersonRecord(nobody), False), _NO_COUNTERS
        record = attrs.evolve(stored, user=nobody)
        self.changes.put_person(key, record, stored)
        return PersonRecorded(record, True, True), _NO_COUNTERS

    def _record_presence(self, operation: SetOnline | EndLeaving) -> DecisionAndCounters:
        key = (True, operation.operator_id)
        stored = self._person(key)
        if stored is None:
            return _NO_OPERATOR
        counters = self._operator(operation.operator_id)
        record = record_presence(stored, operation, counters.new_chats + counters.open_chats)
        if record == stored:
            return PersonRecorded(stored, False), _NO_COUNTERS
        self.changes.people[key] = record
        return PersonRecorded(record, True), _NO_COUNTERS
