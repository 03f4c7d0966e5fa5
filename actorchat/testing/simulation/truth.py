"""Records all commits in their order, and compares each with the model of the contract's rules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple
from unittest.mock import ANY
from uuid import UUID

import trio

from actorchat.chat.accounts import Account, AccountOperation, AccountStored, ChangeAccount, SignOut
from actorchat.chat.blocks import Block, BlockRemoved, BlockStored
from actorchat.chat.documents import ChangeDocument
from actorchat.chat.model import OperatorCounters, PersonRecord, Policy, SourceCounters, Stage, StoredMessage
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    Decision,
    EditMessage,
    EndLeaving,
    ExpireChat,
    Expired,
    ExpireUploads,
    HandOver,
    MarkMessage,
    Operation,
    PersonRecorded,
    RecordPerson,
    RecordUpload,
    RedactMessage,
    RefreshPeople,
    Refused,
    RefuseMessage,
    ReleaseChat,
    ReopenChat,
    ReplaceTag,
    ReserveChat,
    ReturnChat,
    SetOnline,
    SetTags,
    SweepChat,
    TransferChat,
    Unchanged,
    UploadsExpired,
)
from actorchat.chat.privacy import ErasePerson, RecordAudit
from actorchat.protocol import MessageType, Role, User
from actorchat.storage import Batch, DecisionAndCounters, Store
from actorchat.testing.simulation.chat_truth import ChatTruth, person_of
from actorchat.testing.simulation.model import (
    Answer,
    Commit,
    Model,
    Nothing,
    Person,
    Refusal,
    Repeat,
    Upload,
    sees,
)

__all__ = ["Truth"]


_EDITS: Final = frozenset({"EditMessage", "RedactMessage"})

_COMPARED: Final = (
    *("stage", "rev", "next_index"),
    *("visitor_delivered", "visitor_read", "operators_delivered", "operators_read"),
)
"""The columns of a chat that are compared with storage."""


class Erasure(NamedTuple):
    """The commit that erases a person: its time by Trio's clock, and what was stored of the person."""

    at: float
    messages: Mapping[str, Sequence[int]]
    files: Sequence[UUID]


class Truth:
    """Everything that was committed. `committed` must be called with each commit; faults are reported to `fail`.

    `attempts` and `refusals` have a number for each chat, person and `client_id`: the sends that may still be stored,
    and the sends that were refused while nothing was stored under that `client_id`. `edits` is the number of edits and
    redactions so far; `known_edits` has those that the server has announced, in this order. `blocks` and `accounts` are
    the stored ones by their id. These have times of Trio's clock: `gone` of each file's deletion, `signed_out` of
    everybody's last sign-out, `blocked` of each visitor's last block, `disabled` of the end of each account, and
    `enabled_at` of its return.
    """

    def __init__(
        self, fail: Callable[[str, str], object], log: Callable[..., object], policy: Policy, keys_kept: int
    ) -> None:
        self._fail, self._log, self._policy = fail, log, policy
        self.model: Model = Model(
            on_closed=policy.on_closed.value,
            capacity=policy.capacity,
            keys_kept=keys_kept,
            edit_within=policy.edit_within,
            upload_timeout=policy.upload_timeout,
        )
        self.chats: dict[str, ChatTruth] = {}
        self.expired: dict[str, ChatTruth] = {}
        self.people: dict[Person, PersonRecord] = {}
        self.attempts: Counter[tuple[str, Person, str | None]] = Counter()
        self.refusals: Counter[tuple[str, Person, str | None]] = Counter()
        self.commits: int = 0
        self.operations: int = 0
        self.edits: int = 0
        self.known_edits: dict[int, int] = {}
        self.gone: dict[UUID, float] = {}
        self.blocks: dict[int, Block] = {}
        self.blocked: dict[int, float] = {}
        self.accounts: dict[int, Account] = {}
        self.disabled: dict[Person, float] = {}
        self.enabled_at: dict[Person, float] = {}
        self.signed_out: dict[Person, float] = {}
        self._erasures: dict[Person, list[Erasure]] = defaultdict(list)
        # Each operator's counters after each commit, with the chat and the number of events in its feed.
        self.loads: dict[int, list[tuple[tuple[int, int], str, int]]] = defaultdict(lambda: [((0, 0), "", 0)])
        self.unread: dict[str, list[int]] = defaultdict(lambda: [0])
        self._ids: dict[int, tuple[str, int]] = {}
        self._counter_revs: dict[tuple[str, int | str], int] = defaultdict(int)

    def chat(self, uuid: str) -> ChatTruth | None:
        """The chat, even if it was deleted; None if there never was one."""
        return self.chats.get(uuid) or self.expired.get(uuid)

    def message(self, chat: str, index: int) -> StoredMessage | None:
        truth = self.chat(chat)
        return truth.messages[index] if truth is not None and 0 <= index < len(truth.messages) else None

    def stored(self, chat: str, who: Person, key: str) -> StoredMessage | None:
        """The message stored under that key, as long as the key is kept."""
        truth = self.chats.get(chat)
        if truth is None:
            return None
        index = dict(truth.model.keys.get(who, [])[-self.model.keys_kept :]).get(key)
        return None if index is None else truth.messages[index]

    def settle_attempt(self, chat: str, who: Person, key: str | None) -> None:
        """Record that one send of that key was answered, and can't be stored any more."""
        if key is not None and self.attempts[chat, who, key] > 0:
            self.attempts[chat, who, key] -= 1

    def found_new(self, message: AddMessage) -> None:
        """Record that the message is refused because nothing is stored under its `client_id`.

        Another send under it may be stored before the sender of this one gets the refusal.
        """
        chat, who, key = str(message.chat), person_of(message.author), message.client_id
        if key is not None and self.stored(chat, who, key) is None:
            self.refusals[chat, who, key] += 1

    def know_edit(self, number: int) -> None:
        """Record that the server has announced this edit, after its commit."""
        self.known_edits.setdefault(number, len(self.known_edits))

    def was_known(self, number: int, before: int) -> bool:
        """Whether the edit was among the first `before` that were announced."""
        return self.known_edits.get(number, before) < before

    def removed_texts(self) -> frozenset[str]:
        """The texts of messages before an edit, a redaction or the deletion of their chat, that no message has now."""
        kept = {message.text for chat in self.chats.values() for message in chat.messages}
        removed = {message.text for chat in self.expired.values() for message in chat.messages}
        for chat in (*self.chats.values(), *self.expired.values()):
            for index in chat.edited_indexes:
                removed |= {version.message.text for version in chat.versions(index)}
        return frozenset(removed - kept - {""})

    # Commits

    def committed(self, operations: Sequence[Operation], decided: Sequence[DecisionAndCounters], batch: Batch) -> None:
        """Record and check one durable batch."""
        self.commits += 1
        for operation, (decision, counters) in zip(operations, decided, strict=True):
            self.operations += 1
            if not isinstance(operation, ExpireChat) or isinstance(decision, Expired):
                # A chat in use is checked for expiry again and again; logging that would fill the log.
                self._log("commit", type(operation).__name__, _brief(decision))
            self._take(operation, decision, batch.now)
            for counter in counters:
                self._count(counter, str(getattr(operation, "chat", "")))

    def _take(self, operation: Operation, decision: Decision, now: float) -> None:
        if isinstance(operation, RecordPerson | SetOnline | EndLeaving):
            if isinstance(decision, PersonRecorded):
                self._record(decision.person, now)
        elif isinstance(operation, AccountOperation):
            self._account(operation, decision, now)
        elif isinstance(operation, ErasePerson):
            self._erased(operation, decision, now)
        elif isinstance(operation, RecordUpload):
            upload = operation.upload
            self._expect(upload.file.uuid not in self.model.uploads, "uploads", f"{upload.file.uuid} is stored twice")
            uploader = (upload.uploader.role.value, upload.uploader.id)
            self.model.uploads[upload.file.uuid] = Upload(uploader, upload.created)
        elif isinstance(operation, ExpireUploads):
            self._expire_uploads(operation, decision, now)
        elif isinstance(operation, ReserveChat):
            if isinstance(decision, Changed):
                self._reserve(operation, decision, now)
            elif isinstance(decision, Unchanged):
                self._used(decision.chat.uuid, now)
        elif isinstance(operation, ExpireChat):
            if isinstance(decision, Expired):
                self._expired(operation, decision, now)
            elif operation.in_use and operation.retention is None:
                self._found_in_use(operation, now)
        elif isinstance(operation, ChangeDocument):
            pass
        elif isinstance(operation, RecordAudit):
            self._expect(False, "rules", f"{operation}: nobody is exported in a simulation")
        elif isinstance(operation, HandOver):
            self._expect(False, "rules", f"{operation}: nobody signs in in a simulation")
        else:
            chat = self.chats.get(str(operation.chat))
            if chat is None:
                refused = isinstance(decision, Refused) and decision.code == "not_found"
                self._expect(refused, "rules", f"{operation} of an unknown chat: {_brief(decision)}")
            else:
                self._compare(chat, operation, decision, now)

    def _record(self, record: PersonRecord, now: float) -> None:
        who = person_of(record.user)
        self.people[who] = record
        (self.model.online.add if record.online else self.model.online.discard)(who)
        (self.model.away.add if record.away else self.model.away.discard)(who)
        self.model.person(who, record.user.firstname, record.sources(now))

    def _account(self, operation: AccountOperation, decision: Decision, now: float) -> None:
        if isinstance(decision, PersonRecorded | AccountStored):
            self._record(decision.person, now)
            if isinstance(operation, SignOut) or (isinstance(operation, ChangeAccount) and operation.sign_out_at):
                self.signed_out[person_of(decision.person.user)] = trio.current_time()
        if isinstance(decision, AccountStored):
            account = self.accounts[decision.account.id] = decision.account
            if account.disabled:
                self.disabled.setdefault(("operator", account.id), trio.current_time())
            elif self.disabled.pop(("operator", account.id), None) is not None:
                self.enabled_at[("operator", account.id)] = trio.current_time()
        elif isinstance(decision, BlockStored):
            for ended in decision.ended:
                del self.blocks[ended.id]
            self.blocks[decision.block.id] = decision.block
            if decision.block.user is not None:
                self.blocked[decision.block.user] = trio.current_time()
        elif isinstance(decision, BlockRemoved):
            del self.blocks[decision.block.id]

    def _erased(self, operation: ErasePerson, decision: Decision, now: float) -> None:
        subject = operation.audit.subject
        if not isinstance(decision, PersonRecorded) or subject is None:
            self._fail("erased", f"{operation}: {_brief(decision)}")
            return
        who = (subject.role.value, subject.id)
        self._record(decision.person, now)
        self._expect(not decision.person.user.firstname, "erased", f"{who} is still {decision.person.user.firstname!r}")
        messages = {chat.uuid: self._messages_of(chat, who) for chat in self.chats.values()}
        files = [file for file, upload in self.model.uploads.items() if upload.uploader == who and not upload.bound]
        self._erasures[who].append(Erasure(trio.current_time(), messages, files))

    def _messages_of(self, chat: ChatTruth, who: Person) -> list[int]:
        """The indexes of the messages that an erasure of `who` removes."""
        if chat.model.owner == who:
            return [*range(len(chat.messages))]
        return [each.index for each in chat.messages if each.author is not None and person_of(each.author) == who]

    def judge_erased(self, who: Person, began: float) -> None:
        """Check, once a request to erase a person is answered, that nothing is left of what was stored at its commit.

        `began` is when the request was sent, by Trio's clock.
        """
        erasure = next((each for each in self._erasures[who] if each.at >= began), None)
        if erasure is None:
            self._fail("erased", f"the erasure of {who} is not committed")
            return
        for uuid, indexes in erasure.messages.items():
            chat = self.chats.get(uuid)
            # A hand-over has given the chat to another visitor, who keeps it.
            if chat is None or (who[0] == "user" and chat.model.owner != who):
                continue
            left = [index for index in indexes if not chat.messages[index].redacted]
            self._expect(not left, "erased", f"{who}: messages {left} of {uuid} are left")
        uploads = self.model.uploads
        files = [file for file in erasure.files if (upload := uploads.get(file)) is not None and not upload.bound]
        self._expect(not files, "erased", f"{who}: files {files} are left")

    def _expire_uploads(self, operation: ExpireUploads, decision: Decision, now: float) -> None:
        owners = {upload.uploader for file in operation.files if (upload := self.model.uploads.get(file)) is not None}
        timely = operation.before <= now - self.model.upload_timeout or owners <= self.signed_out.keys()
        self._expect(timely, "uploads", f"{operation} at {now}: too early")
        gone = self.model.expire_uploads(operation.files, operation.before)
        told = list(decision.files) if isinstance(decision, UploadsExpired) else None
        self._expect(told == gone, "uploads", f"{operation}: {told}, the model says {gone}")
        self.gone.update(dict.fromkeys(gone, trio.current_time()))

    def _reserve(self, operation: ReserveChat, decision: Changed, now: float) -> None:
        owner = self._known(operation.owner)
        theirs = self.model.unclosed(operation.source, owner)
        self._expect(not theirs, "reserve", f"{theirs} of {owner} are not closed")
        chat = self.model.reserve(operation.chat, operation.source, owner)
        self.chats[str(operation.chat)] = ChatTruth(str(operation.chat), chat, decision.chat)
        self._used(operation.chat, now)

    def _used(self, uuid: UUID, now: float) -> None:
        chat = self.chats.get(str(uuid))
        if chat is not None and chat.model.stage == "reserved":
            # The later of both, because the clock may have been set back.
            chat.used_at = max(chat.used_at, now)

    def _found_in_use(self, operation: ExpireChat, now: float) -> None:
        chat = self.chats.get(str(operation.chat))
        if chat is not None and int(chat.used_at) <= operation.before:
            self._used(operation.chat, now)

    def _expired(self, operation: ExpireChat, decision: Expired, now: float) -> None:
        chat = self.chats.pop(str(operation.chat), None)
        if chat is None:
            self._fail("expiry", f"{operation} of an unknown chat")
            return
        if operation.retention is None:
            # Rows store whole seconds.
            due = chat.model.stage == "reserved" and int(chat.used_at) <= operation.before
            what = f"{operation} at {chat.used_at}"
        else:
            kept = now - chat.state.last_activity
            due = chat.model.stage == "closed" and kept >= self._policy.retention.of(chat.model.source) > 0
            what = f"{chat.uuid[:4]}, which is {chat.model.stage}, is deleted after {kept:.1f} s"
        self._expect(due and not operation.in_use, "expiry", what)
        files = self.model.remove(chat.model)
        told = (decision.messages, sorted(decision.files))
        self._expect(told == (len(chat.messages), sorted(files)), "expiry", f"{chat.uuid[:4]}: {told} are deleted")
        self.gone.update(dict.fromkeys(files, trio.current_time()))
        self.expired[chat.uuid] = chat

    def _ask_model(self, chat: ChatTruth, operation: ChatOperation, decision: Decision, now: float) -> Answer:
        model, theirs = self.model, chat.model
        if isinstance(operation, AddMessage):
            return self._ask_send(chat, operation, decision, now)
        if isinstance(operation, MarkMessage):
            index = self._index(chat, operation.message_id)
            return model.mark(theirs, person_of(operation.reader), index, operation.read)
        if isinstance(operation, EditMessage):
            index = self._index(chat, operation.message_id)
            return model.edit(theirs, person_of(operation.by), index, operation.text, now)
        if isinstance(operation, RedactMessage):
            index, by = self._index(chat, operation.message_id), person_of(operation.by)
            return model.redact(theirs, by, index, now, moderates=operation.moderates, erases=operation.erases)
        if isinstance(operation, ReleaseChat):
            holder = ("operator", operation.operator_id)
            record = self.people.get(holder)
            held = theirs.active and theirs.operator == holder and record is not None
            leaving = held and record is not None and (record.leaving or (record.away and theirs.stage == "new"))
            return model.requeue(theirs, None, now) if leaving else Nothing()
        if isinstance(operation, SweepChat):
            return self._ask_sweep(chat, decision, now)
        if isinstance(operation, RefreshPeople):
            return model.refresh(theirs)
        if isinstance(operation, SetTags | ReplaceTag):
            return model.tag(theirs)
        by = self._known(operation.by)
        if isinstance(operation, AcceptChat):
            return model.accept(theirs, by)
        if isinstance(operation, CloseChat):
            return model.close(theirs, by, now)
        if isinstance(operation, ReopenChat):
            return model.reopen(theirs, by, now)
        if isinstance(operation, TransferChat):
            return model.transfer(theirs, by, ("operator", operation.to), now)
        assert isinstance(operation, ReturnChat)  # noqa: S101 - all other operations are handled above
        return model.give_back(theirs, by, now)

    def _index(self, chat: ChatTruth, message_id: int) -> int | None:
        """The message's index, None if it is in another chat."""
        place = self._ids.get(message_id)
        return place[1] if place is not None and place[0] == chat.uuid else None

    def _ask_refusal(self, chat: ChatTruth, operation: RefuseMessage, now: float) -> Answer:
        message, theirs = operation.message, chat.model
        who = self._known(message.author)
        if message.client_id in dict(theirs.keys.get(who, [])[-self.model.keys_kept :]):
            note_for = message.type_role.value if message.type is MessageType.SYSTEM else None
            return self.model.send(
                theirs, who, message.text, now, message.client_id, attachments=message.attachments, note_for=note_for
            )
        return Refusal(operation.refusal.code)

    def _ask_sweep(self, chat: ChatTruth, decision: Decision, now: float) -> Answer:
        if not isinstance(decision, Changed):
            return Nothing()
        policy, what = self._policy, f"{chat.uuid[:4]} at {now:.1f}"
        if decision.chat.stage is Stage.CLOSED:
            # The time of the last message, which need not be the latest: the clock may have been set back.
            waited = now - (chat.messages[-1].time if chat.messages else chat.assigned_at)
            self._expect(waited >= policy.idle_timeout > 0, "timers", f"{what}: closed after {waited:.1f} s")
            self._expect(not chat.customer_waits, "timers", f"{what}: closed though the customer waits for an answer")
            return self.model.close_idle(chat.model, now)
        had = now - chat.assigned_at
        self._expect(had >= policy.answer_timeout > 0, "timers", f"{what}: returned to the queue after {had:.1f} s")
        return self.model.requeue(chat.model, None, now)

    def _ask_send(self, chat: ChatTruth, operation: AddMessage, decision: Decision, now: float) -> Answer:
        who, key, theirs = self._known(operation.author), operation.client_id, chat.model
        if key is not None and isinstance(decision, Changed):
            what = f"{who} {key} {operation.text!r}"
            kept = dict(theirs.keys.get(who, [])[-self.model.keys_kept :])
            self._expect(self.attempts[chat.uuid, who, key] > 0, "stored-after-refused", what)
            self._expect(key not in kept, "stored-twice", what)
        note_for = operation.type_role.value if operation.type is MessageType.SYSTEM else None
        files = operation.attachments
        return self.model.send(theirs, who, operation.text, now, key, attachments=files, note_for=note_for)

    def _known(self, user: User) -> Person:
        who = person_of(user)
        if who not in self.model.people:
            self.model.person(who, user.firstname, frozenset())
        return who

    def _compare(
        self, chat: ChatTruth, operation: ChatOperation | RefuseMessage, decision: Decision, now: float
    ) -> None:
        if isinstance(operation, RefuseMessage):
            answer = self._ask_refusal(chat, operation, now)
        else:
            answer = self._ask_model(chat, operation, decision, now)
        name = type(operation).__name__
        if isinstance(decision, Refused):
            same = isinstance(answer, Refusal) and answer.code == decision.code
            if isinstance(operation, AddMessage | RefuseMessage):
                self.found_new(operation.message if isinstance(operation, RefuseMessage) else operation)
        elif isinstance(decision, Unchanged):
            if decision.message is None:
                same = isinstance(answer, Nothing)
            else:
                same = isinstance(answer, Repeat) and answer.index == decision.message.index
        else:
            same = isinstance(decision, Changed) and isinstance(answer, Commit)
        self._expect(same, "rules", f"{name}: {_brief(decision)}, the model says {answer}")
        if isinstance(decision, Changed) and isinstance(answer, Commit):
            before, held_by = chat.state, chat.look[1]
            self._compare_change(chat, name, decision, answer, now)
            taken = chat.state.stage is Stage.OPEN and before.stage is not Stage.OPEN
            if taken or chat.look[1] != held_by:
                chat.assigned_at = now
            if not isinstance(operation, RefuseMessage):
                chat.customer_waits = _customer_waits(operation, before=chat.customer_waits)

    def _compare_change(self, chat: ChatTruth, name: str, decision: Changed, answer: Commit, now: float) -> None:
        after, model, expect = decision.chat, chat.model, self._expect
        expect(after.rev == chat.state.rev + 1, "rev", f"{chat.state.rev} -> {after.rev}")
        operator = None if after.operator is None else person_of(after.operator)
        expect((after.stage.value, operator) == (model.stage, model.operator), "rules", f"{name}: {_brief(decision)}")
        ours = {
            "user": [after.visitor_delivered, after.visitor_read],
            "operator": [after.operators_delivered, after.operators_read],
        }
        expect(ours == model.marks, "rules", f"{name}: marks {ours}, the model says {model.marks}")
        expect(decision.chat_changed == answer.chat_changed, "rules", f"{name}: chat_changed")
        expect(len(decision.messages) == len(answer.messages), "rules", f"{name}: {len(decision.messages)} messages")
        for message in decision.messages:
            self._add(chat, name, message)
        expect(len(decision.updated) == (len(answer.updated) if name in _EDITS else 0), "rules", f"{name}: updated")
        for message in decision.updated:
            self._edit(chat, name, message, decision.removed, now)
        chat.state = after
        if decision.chat_changed:
            chat.looks.append(chat.look)
            chat.feed.append(("chat", *chat.look))
        chat.feed += [("message", each.index) for each in decision.messages if each.type is MessageType.STANDARD]

    def _add(self, chat: ChatTruth, name: str, message: StoredMessage) -> None:
        index = len(chat.messages)
        theirs = chat.model.messages[index]
        self._expect(message.index == index, "dense", f"index {message.index} instead of {index}")
        self._expect(message.id not in self._ids, "ids", f"id {message.id} again")
        author = None if message.author is None else person_of(message.author)
        same = (message.type.value, message.type_role.value, author) == tuple(
            theirs[field] for field in ("type", "role", "author")
        )
        self._expect(same and theirs["text"] in (ANY, message.text), "rules", f"{name}: message {index}")
        self._ids[message.id] = (chat.uuid, index)
        chat.messages.append(message)
        for role in chat.visible:
            if sees(role, theirs):
                chat.visible[role].append(index)

    def _edit(self, chat: ChatTruth, name: str, message: StoredMessage, removed: Sequence[UUID], now: float) -> None:
        before, theirs = chat.messages[message.index], chat.model.messages[message.index]
        told = (message.id, message.text, message.redacted, tuple([file.uuid for file in message.attachments]))
        expected = (before.id, theirs["text"], theirs["redacted"], theirs["files"])
        self._expect(told == expected, "rules", f"{name}: {told}, the model says {expected}")
        gone = {file.uuid for file in before.attachments} - {file.uuid for file in message.attachments}
        self._expect(gone == set(removed), "uploads", f"{name}: the files {removed} are deleted, of {gone}")
        self.gone.update(dict.fromkeys(gone, trio.current_time()))
        self.edits += 1
        chat.edited(message, self.edits)

    def _count(self, counter: OperatorCounters | SourceCounters, chat: str) -> None:
        kind: tuple[str, int | str]
        if isinstance(counter, OperatorCounters):
            kind = ("operator", counter.operator_id)
            reach = len(self.chats[chat].feed) if chat in self.chats else 0
            self.loads[counter.operator_id].append(((counter.new_chats, counter.open_chats), chat, reach))
        else:
            kind = ("source", counter.source)
            self.unread[counter.source].append(counter.unread_chats)
        before = self._counter_revs[kind]
        self._expect(counter.rev == before + 1, "counters", f"{kind}: rev {before} -> {counter.rev}")
        self._counter_revs[kind] = counter.rev

    # Storage

    def check_storage(self, store: Store) -> None:
        """Check that storage has everything that was committed, and nothing else."""
        for uuid, chat in self.chats.items():
            state = store.chat(UUID(uuid))
            if state is None:
                self._fail("lost", f"chat {uuid}")
                continue
            for name in _COMPARED:
                same = getattr(state, name) == getattr(chat.state, name)
                self._expect(same, "lost", f"chat {uuid}: {name} is {getattr(state, name)}")
            page = store.after(UUID(uuid), Role.OPERATOR, after=-1, limit=100_000)
            theirs = [] if page is None else [_gist(message) for message in page.messages]
            ours = [_gist(chat.messages[index]) for index in chat.visible["operator"]]
            self._expect(theirs == ours, "lost", f"messages of {uuid}")
        for uuid in self.expired:
            self._expect(store.chat(UUID(uuid)) is None, "expiry", f"chat {uuid} was deleted, but is stored")
        for record in store.operators(None):
            who = person_of(record.person.user)
            counters = (record.counters.new_chats, record.counters.open_chats)
            recounted = self.model.load(who)
            self._expect(counters == recounted, "counters", f"{who}: {counters}, recounted {recounted}")
        sources = sorted({chat.model.source for chat in self.chats.values()})
        for counter in store.feed_snapshot(sources, 0).counters:
            unread = self.model.unread(frozenset({counter.source}))
            self._expect(
                counter.unread_chats == unread, "counters", f"{counter.source}: {counter.unread_chats}, is {unread}"
            )

    def _expect(self, condition: bool, kind: str, detail: str) -> None:
        if not condition:
            self._fail(kind, detail)


def _customer_waits(operation: ChatOperation, *, before: bool) -> bool:
    """Whether the customer waits for an answer after `operation`, given whether that was so `before`."""
    if isinstance(operation, AddMessage) and operation.type is MessageType.STANDARD:
        return operation.author.role is Role.USER
    if isinstance(operation, ReopenChat):
        return operation.by.role is Role.USER
    # After a transfer or a return the customer expects an answer.
    return before or isinstance(operation, TransferChat | ReturnChat)


def _gist(message: StoredMessage) -> tuple[object, ...]:
    author = None if message.author is None else person_of(message.author)
    return (
        *(message.id, message.index, message.text, message.type, message.type_role, author, message.client_id),
        *(message.redacted, message.edited_at, tuple([file.uuid for file in message.attachments])),
    )


def _brief(decision: Decision) -> str:
    if isinstance(decision, Changed):
        chat = decision.chat
        messages = [(each.index, each.text[:24]) for each in decision.messages]
        operator = None if chat.operator is None else chat.operator.id
        return f"{str(chat.uuid)[:4]} rev {chat.rev} {chat.stage.value} of {operator} {messages}"
    if isinstance(decision, Unchanged):
        return (
            f"{str(decision.chat.uuid)[:4]} unchanged{'' if decision.message is None else f' {decision.message.index}'}"
        )
    if isinstance(decision, Expired):
        return str(decision.chat)[:4]
    return decision.code if isinstance(decision, Refused) else "recorded"
