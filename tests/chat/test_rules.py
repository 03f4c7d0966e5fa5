"""The transition table of the contract's semantics, line by line."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actorchat.chat.model import (
    ChatState,
    OnClosed,
    PersonRecord,
    Policy,
    Stage,
    StoredAttachment,
    StoredMessage,
    Upload,
    contribution,
    endless,
    identity_of,
    message_status,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    Decision,
    EndLeaving,
    MarkMessage,
    Refused,
    ReleaseChat,
    ReopenChat,
    ReturnChat,
    SetOnline,
    SweepChat,
    TransferChat,
    Unchanged,
)
from actorchat.chat.rules import DecisionContext, MarkedMessage, decide, prospective_operator, record_presence
from actorchat.protocol import AttachmentType, MessageStatus, MessageType, Role, User
from tests.chat.people import ANNA, CHAT, OLGA, PETR, chat

NOW = 1_000
SOURCES = endless({"lk"})


def context(**changes: Any) -> DecisionContext:
    return replace(DecisionContext(policy=Policy(), now=NOW, message_id=50), **changes)


def put(state: ChatState, operation: ChatOperation, **changes: Any) -> Changed:
    decision = decide(state, operation, context(**changes))
    assert isinstance(decision, Changed), decision
    return decision


def code(decision: Decision) -> str:
    assert isinstance(decision, Refused), decision
    return decision.code


def says(author: User, text: str = "hi") -> AddMessage:
    return AddMessage(CHAT, author, text)


THERE = PersonRecord(OLGA, endless({"lk"}), online=True)
LEAVING = PersonRecord(OLGA, endless({"lk"}), leaving=True)
NOTE = AddMessage(CHAT, OLGA, "careful", type=MessageType.SYSTEM, type_role=Role.OPERATOR)


def test_the_first_message_of_the_visitor_makes_a_reserved_chat_new() -> None:
    changed = put(chat(), says(ANNA))
    assert (changed.chat.stage, changed.chat.operator, changed.chat_changed) == (Stage.NEW, None, True)
    (message,) = changed.messages
    assert (message.id, message.index, message.rev, message.time) == (50, 0, 1, NOW)


@pytest.mark.parametrize("stage", [Stage.RESERVED, Stage.NEW])
@pytest.mark.parametrize("operation", [says(OLGA), AcceptChat(CHAT, OLGA)])
def test_accepting_or_answering_a_waiting_chat_opens_it(stage: Stage, operation: ChatOperation) -> None:
    changed = put(chat(stage), operation)
    assert (changed.chat.stage, changed.chat.operator, changed.chat_changed) == (Stage.OPEN, OLGA, True)


@pytest.mark.parametrize(
    "operation", [says(PETR), AcceptChat(CHAT, PETR), CloseChat(CHAT, PETR), ReturnChat(CHAT, PETR)]
)
def test_an_operator_can_not_act_on_another_operators_open_chat(operation: ChatOperation) -> None:
    assert code(decide(chat(Stage.OPEN, OLGA), operation, context())) == "not_owner"


def test_accepting_ones_own_open_chat_changes_nothing() -> None:
    state = chat(Stage.OPEN, OLGA)
    assert decide(state, AcceptChat(CHAT, OLGA), context()) == Unchanged(state)


def test_any_operator_may_answer_a_chat_that_waits_for_another() -> None:
    assert put(chat(Stage.NEW, OLGA), says(PETR)).chat.operator == PETR


def test_a_message_in_the_operators_own_chat_does_not_update_the_chat() -> None:
    assert not put(chat(Stage.OPEN, OLGA), says(OLGA)).chat_changed


@pytest.mark.parametrize("operation", [says(OLGA), AcceptChat(CHAT, OLGA)])
def test_a_full_operator_gets_no_further_chat(operation: ChatOperation) -> None:
    full = context(policy=Policy(capacity=3), load=3)
    assert code(decide(chat(Stage.NEW), operation, full)) == "over_capacity"


def test_a_full_operator_may_open_a_chat_that_was_counted_for_it_already() -> None:
    changed = put(chat(Stage.NEW, OLGA), AcceptChat(CHAT, OLGA), policy=Policy(capacity=3), load=3)
    assert changed.chat.stage is Stage.OPEN


def test_transfer_gives_the_chat_and_tells_each_role() -> None:
    target = PersonRecord(PETR, endless({"lk"}))
    changed = put(chat(Stage.OPEN, OLGA), TransferChat(CHAT, OLGA, PETR.id), target=target)
    assert (changed.chat.stage, changed.chat.operator) == (Stage.NEW, PETR)
    assert [message.type_role for message in changed.messages] == [Role.USER, Role.OPERATOR]
    assert [message.index for message in changed.messages] == [0, 1]
    assert all(message.author == OLGA and message.type is MessageType.SYSTEM for message in changed.messages)


@pytest.mark.parametrize("target", [None, PersonRecord(PETR, endless({"shop"})), PersonRecord(PETR, {"lk": NOW})])
def test_a_transfer_goes_only_to_operators_of_the_source(target: PersonRecord | None) -> None:
    decision = decide(chat(Stage.OPEN, OLGA), TransferChat(CHAT, OLGA, PETR.id), context(target=target))
    assert code(decision) == "not_found"


def test_a_transfer_to_a_full_operator_is_refused() -> None:
    full = context(target=PersonRecord(PETR, {"lk": NOW + 1}), policy=Policy(capacity=1), load=1)
    assert code(decide(chat(Stage.OPEN, OLGA), TransferChat(CHAT, OLGA, PETR.id), full)) == "over_capacity"


def test_return_puts_the_chat_back_into_the_queue() -> None:
    changed = put(chat(Stage.OPEN, OLGA), ReturnChat(CHAT, OLGA))
    assert (changed.chat.stage, changed.chat.operator, len(changed.messages)) == (Stage.NEW, None, 2)


@pytest.mark.parametrize("by", [ANNA, OLGA])
def test_either_side_may_close_and_the_visitor_gets_a_system_message(by: User) -> None:
    changed = put(chat(Stage.OPEN, OLGA), CloseChat(CHAT, by))
    assert (changed.chat.stage, changed.chat.operator) == (Stage.CLOSED, OLGA)
    assert [(each.type, each.type_role) for each in changed.messages] == [(MessageType.SYSTEM, Role.USER)]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (AcceptChat(CHAT, OLGA), "chat_closed"),
        (CloseChat(CHAT, OLGA), "chat_closed"),
        (TransferChat(CHAT, OLGA, 2), "chat_closed"),
        (ReturnChat(CHAT, OLGA), "chat_closed"),
    ],
)
def test_a_closed_chat_refuses_transitions(operation: ChatOperation, expected: str) -> None:
    assert code(decide(chat(Stage.CLOSED, OLGA), operation, context())) == expected


@pytest.mark.parametrize(
    "operation", [NOTE, CloseChat(CHAT, ANNA), TransferChat(CHAT, OLGA, 2), ReturnChat(CHAT, OLGA)]
)
def test_a_chat_without_a_message_refuses_what_needs_one(operation: ChatOperation) -> None:
    assert code(decide(chat(), operation, context())) == "conflict"


def test_reopening_a_chat_that_is_not_closed_is_a_conflict() -> None:
    assert code(decide(chat(Stage.OPEN, OLGA), ReopenChat(CHAT, ANNA), context())) == "conflict"


@pytest.mark.parametrize("operation", [says(ANNA), ReopenChat(CHAT, ANNA)])
@pytest.mark.parametrize(
    ("on_closed", "had", "stage", "operator"),
    [
        (OnClosed.REOPEN, OLGA, Stage.OPEN, OLGA),
        (OnClosed.REOPEN, None, Stage.NEW, None),
        (OnClosed.QUEUE, OLGA, Stage.NEW, None),
    ],
)
def test_the_visitor_comes_back_to_a_closed_chat_as_the_source_says(
    operation: ChatOperation, on_closed: OnClosed, had: User | None, stage: Stage, operator: User | None
) -> None:
    holder = None if had is None else THERE
    changed = put(chat(Stage.CLOSED, had), operation, policy=Policy(on_closed=on_closed), holder=holder)
    assert (changed.chat.stage, changed.chat.operator, changed.chat_changed) == (stage, operator, True)


@pytest.mark.parametrize("operation", [says(ANNA), ReopenChat(CHAT, ANNA)])
@pytest.mark.parametrize(
    "holder",
    [
        attrs.evolve(THERE, online=False),
        attrs.evolve(THERE, online=False, leaving=True),
        attrs.evolve(THERE, memberships=endless({"shop"})),
        None,
    ],
)
def test_a_closed_chat_whose_operator_is_not_there_reopens_in_the_queue(
    operation: ChatOperation, holder: PersonRecord | None
) -> None:
    changed = put(chat(Stage.CLOSED, OLGA), operation, holder=holder)
    assert (changed.chat.stage, changed.chat.operator, changed.chat.assigned_at) == (Stage.NEW, None, None)
    assert changed.chat.awaiting_since == NOW


@pytest.mark.parametrize("operation", [says(ANNA), ReopenChat(CHAT, ANNA)])
def test_a_source_may_refuse_writing_into_a_closed_chat(operation: ChatOperation) -> None:
    refusing = context(policy=Policy(on_closed=OnClosed.REFUSE))
    assert code(decide(chat(Stage.CLOSED, OLGA), operation, refusing)) == "chat_closed"


def test_a_chat_does_not_reopen_with_a_full_operator() -> None:
    changed = put(chat(Stage.CLOSED, OLGA), says(ANNA), policy=Policy(capacity=1), load=1, holder=THERE)
    assert (changed.chat.stage, changed.chat.operator) == (Stage.NEW, None)


@pytest.mark.parametrize("operation", [says(PETR), ReopenChat(CHAT, PETR)])
def test_an_operator_reopens_a_closed_chat_for_itself(operation: ChatOperation) -> None:
    changed = put(chat(Stage.CLOSED, OLGA), operation)
    assert (changed.chat.stage, changed.chat.operator) == (Stage.OPEN, PETR)


def test_an_operator_gone_offline_loses_its_chat_but_not_anothers() -> None:
    assert put(chat(Stage.OPEN, OLGA), ReleaseChat(CHAT, OLGA.id), holder=LEAVING).chat.stage is Stage.NEW
    petrs = context(holder=PersonRecord(PETR, endless({"lk"}), online=True))
    assert isinstance(decide(chat(Stage.OPEN, PETR), ReleaseChat(CHAT, OLGA.id), petrs), Unchanged)


def test_an_operator_that_came_back_keeps_the_chats_that_were_not_returned_yet() -> None:
    for holder in (THERE, attrs.evolve(THERE, online=False)):
        release = decide(chat(Stage.OPEN, OLGA), ReleaseChat(CHAT, OLGA.id), context(holder=holder))
        assert isinstance(release, Unchanged)


@pytest.mark.parametrize(
    ("before", "operation", "chats", "after"),
    [
        ((False, False), SetOnline(1, True), 2, (True, False)),
        ((True, False), SetOnline(1, False), 2, (False, True)),
        ((True, False), SetOnline(1, False), 0, (False, False)),
        ((False, False), SetOnline(1, False), 2, (False, False)),
        ((False, True), SetOnline(1, False), 2, (False, True)),
        ((False, True), SetOnline(1, True), 2, (True, False)),
        ((False, True), EndLeaving(1), 2, (False, True)),
        ((False, True), EndLeaving(1), 0, (False, False)),
        ((True, False), EndLeaving(1), 2, (True, False)),
    ],
)
def test_only_going_offline_makes_an_operator_with_chats_leave(
    before: tuple[bool, bool], operation: SetOnline | EndLeaving, chats: int, after: tuple[bool, bool]
) -> None:
    stored = PersonRecord(OLGA, endless({"lk"}), *before)
    record = record_presence(stored, operation, chats)
    assert (record.online, record.leaving) == after
    assert (record.user, record.memberships) == (stored.user, stored.memberships)


def test_an_idle_chat_is_closed_when_swept_and_not_before() -> None:
    policy = Policy(idle_timeout=60)
    state = replace(chat(Stage.OPEN, OLGA), last_activity=NOW - 60)
    assert state.due_at(policy) == NOW
    assert put(state, SweepChat(CHAT), policy=policy).chat.stage is Stage.CLOSED
    early = decide(state, SweepChat(CHAT), context(policy=policy, now=NOW - 1))
    assert early == Unchanged(state)


def test_an_unanswered_chat_goes_back_to_the_queue() -> None:
    policy = Policy(answer_timeout=30)
    asked = put(chat(Stage.OPEN, OLGA), says(ANNA), policy=policy).chat
    assert asked.due_at(policy) == NOW + 30
    swept = put(asked, SweepChat(CHAT), policy=policy, now=NOW + 30)
    assert (swept.chat.stage, swept.chat.operator) == (Stage.NEW, None)
    # The customer has waited since the question, whichever operator had the chat.
    assert swept.chat.awaiting_since == NOW


WAITING = replace(chat(Stage.NEW), awaiting_since=NOW - 500, last_activity=NOW - 500)
TRANSFER = TransferChat(CHAT, OLGA, PETR.id)


@pytest.mark.parametrize(
    ("before", "operation", "changes"),
    [
        (WAITING, AcceptChat(CHAT, OLGA), {}),
        (replace(WAITING, operator=OLGA, assigned_at=NOW - 29), AcceptChat(CHAT, OLGA), {}),
        (replace(WAITING, operator=OLGA, assigned_at=NOW - 29), AcceptChat(CHAT, PETR), {}),
        (WAITING, TRANSFER, {"target": PersonRecord(PETR, endless({"lk"}))}),
        (replace(WAITING, stage=Stage.OPEN, operator=OLGA, assigned_at=NOW - 29), TRANSFER,
         {"target": PersonRecord(PETR, endless({"lk"}))}),
        (chat(Stage.OPEN, OLGA), TRANSFER, {"target": PersonRecord(PETR, endless({"lk"}))}),
        (replace(chat(Stage.CLOSED, OLGA), assigned_at=NOW - 500), says(ANNA), {"holder": THERE}),
        (replace(chat(Stage.CLOSED, OLGA), assigned_at=NOW - 500), ReopenChat(CHAT, ANNA), {"holder": THERE}),
    ],
)  # fmt: skip
def test_an_operator_who_gets_a_waiting_chat_has_the_whole_answer_time(
    before: ChatState, operation: ChatOperation, changes: dict[str, Any]
) -> None:
    policy = Policy(answer_timeout=30)
    got = put(before, operation, policy=policy, **changes).chat
    assert got.operator is not None
    assert got.due_at(policy) == NOW + 30
    early = context(policy=policy, now=NOW + 29)
    assert decide(got, SweepChat(CHAT), early) == Unchanged(got)
    assert put(got, SweepChat(CHAT), policy=policy, now=NOW + 30).chat.operator is None


def test_a_timer_that_begins_within_a_second_runs_its_whole_time() -> None:
    policy = Policy(answer_timeout=30, idle_timeout=60)
    asked = put(chat(Stage.OPEN, OLGA), says(ANNA), rounded=1)
    assert asked.messages[0].time == NOW
    assert asked.chat.due_at(policy) == NOW + 31
    assert put(WAITING, AcceptChat(CHAT, OLGA), rounded=1).chat.due_at(policy) == NOW + 31
    assert put(asked.chat, says(OLGA), rounded=1).chat.due_at(policy) == NOW + 61


def test_a_chat_whose_customer_waits_for_an_answer_is_never_closed_as_idle() -> None:
    policy = Policy(idle_timeout=60)
    asked = put(chat(), says(ANNA), policy=policy).chat
    for waiting in (asked, put(asked, AcceptChat(CHAT, OLGA)).chat, put(asked, NOTE).chat):
        assert waiting.due_at(policy) is None
        assert isinstance(decide(waiting, SweepChat(CHAT), context(policy=policy, now=NOW + 10**6)), Unchanged)


def test_the_idle_timer_runs_from_the_last_activity_on_the_customers_turn() -> None:
    policy = Policy(idle_timeout=60)
    answered = put(chat(Stage.NEW), says(OLGA)).chat
    assert answered.due_at(policy) == NOW + 60
    noted = put(answered, NOTE, now=NOW + 50).chat
    assert noted.due_at(policy) == NOW + 110
    changed = put(noted, SweepChat(CHAT), policy=policy, now=NOW + 110)
    assert (changed.chat.stage, changed.chat_changed) == (Stage.CLOSED, True)
    (told,) = changed.messages
    assert (told.type, told.type_role, told.author) == (MessageType.SYSTEM, Role.USER, None)


@pytest.mark.parametrize(
    ("operation", "changes"),
    [(TRANSFER, {"target": PersonRecord(PETR, endless({"lk"}))}), (ReturnChat(CHAT, OLGA), {})],
)
def test_a_transferred_or_returned_chat_waits_for_an_answer(operation: ChatOperation, changes: dict[str, Any]) -> None:
    answered = put(chat(Stage.NEW), says(OLGA)).chat
    handed = put(answered, operation, now=NOW + 9, **changes).chat
    assert handed.awaiting_since == NOW + 9
    assert handed.due_at(Policy(idle_timeout=60)) is None


def test_a_chat_returned_because_its_operator_left_is_still_the_customers_turn() -> None:
    answered = put(chat(Stage.NEW), says(OLGA)).chat
    released = put(answered, ReleaseChat(CHAT, OLGA.id), now=NOW + 9, holder=LEAVING).chat
    assert released.awaiting_since is None
    assert released.due_at(Policy(idle_timeout=60)) == NOW + 69


def test_an_answer_stops_the_answer_timer() -> None:
    asked = put(chat(Stage.OPEN, OLGA), says(ANNA)).chat
    assert put(asked, says(OLGA)).chat.due_at(Policy(answer_timeout=30)) is None


def test_a_note_neither_opens_nor_answers() -> None:
    changed = put(chat(Stage.NEW), NOTE)
    assert (changed.chat.stage, changed.chat.operator, changed.chat_changed) == (Stage.NEW, None, False)
    assert changed.messages[0].type_role is Role.OPERATOR


STORED = StoredMessage(9, 0, 1, MessageType.STANDARD, Role.USER, "hi", ANNA, NOW, "k1")


def test_a_repeated_client_id_gets_the_stored_message() -> None:
    state = chat(Stage.NEW)
    repeat = AddMessage(CHAT, ANNA, "hi", client_id="k1")
    assert decide(state, repeat, context(prior=STORED)) == Unchanged(state, STORED)


def test_a_client_id_used_for_another_body_is_a_conflict() -> None:
    other = AddMessage(CHAT, ANNA, "something else", client_id="k1")
    assert code(decide(chat(Stage.NEW), other, context(prior=STORED))) == "conflict"


def test_a_repeated_client_id_is_answered_even_when_the_chat_refuses_messages() -> None:
    refusing = context(prior=STORED, policy=Policy(on_closed=OnClosed.REFUSE))
    repeat = AddMessage(CHAT, ANNA, "hi", client_id="k1")
    assert isinstance(decide(chat(Stage.CLOSED), repeat, refusing), Unchanged)


FILE = StoredAttachment(UUID(int=1), AttachmentType.FILE, "a.txt", "txt", 5)
UPLOAD = Upload(FILE, identity_of(ANNA), "lk", "application/octet-stream", 1_000)


@pytest.mark.parametrize(
    "upload",
    [
        None,
        replace(UPLOAD, uploader=identity_of(PETR)),
        replace(UPLOAD, bound=True),
        replace(UPLOAD, created=1_000 - 86_400),
    ],
    ids=["none", "another's", "bound", "expired"],
)
def test_every_unusable_file_is_refused_with_the_same_answer(upload: Upload | None) -> None:
    other = replace(UPLOAD, file=replace(FILE, uuid=UUID(int=2)))
    operation = AddMessage(CHAT, ANNA, "", attachments=(FILE.uuid, UUID(int=2)))
    refused = decide(chat(), operation, context(uploads=(upload, other)))
    wanted = Refused("attachment_unknown", "there is no such attachment", attachments=(FILE.uuid,))
    assert refused == wanted


def test_a_message_takes_its_uploads_in_its_own_order() -> None:
    other = replace(UPLOAD, file=replace(FILE, uuid=UUID(int=2)))
    operation = AddMessage(CHAT, ANNA, "", attachments=(UUID(int=2), FILE.uuid))
    decision = decide(chat(), operation, context(uploads=(other, UPLOAD)))
    assert isinstance(decision, Changed)
    assert decision.messages[0].attachments == (other.file, FILE)


def test_a_repeat_needs_the_same_attachments_in_the_same_order() -> None:
    files = (FILE, replace(FILE, uuid=UUID(int=2)))
    prior = replace(STORED, attachments=files)
    same = AddMessage(CHAT, ANNA, STORED.text, (FILE.uuid, UUID(int=2)), client_id="k1")
    assert decide(chat(), same, context(prior=prior)) == Unchanged(chat(), prior)
    for attachments in ((), (FILE.uuid,), (UUID(int=2), FILE.uuid)):
        assert code(decide(chat(), replace(same, attachments=attachments), context(prior=prior))) == "conflict"


VISITORS = MarkedMessage(4, MessageType.STANDARD, Role.USER)


def test_read_implies_delivered_and_a_repeat_changes_nothing() -> None:
    read = MarkMessage(CHAT, OLGA, 9, read=True)
    changed = put(chat(Stage.OPEN, OLGA), read, marked=VISITORS)
    assert (changed.chat.operators_delivered, changed.chat.operators_read, changed.chat.rev) == (4, 4, 1)
    assert isinstance(decide(changed.chat, read, context(marked=VISITORS)), Unchanged)
    delivered = MarkMessage(CHAT, OLGA, 9, read=False)
    assert isinstance(decide(changed.chat, delivered, context(marked=VISITORS)), Unchanged)


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        (None, "message_not_found"),
        (MarkedMessage(4, MessageType.SYSTEM, Role.USER), "message_not_found"),
        (MarkedMessage(4, MessageType.SYSTEM, Role.OPERATOR), "not_markable"),
        (MarkedMessage(4, MessageType.STANDARD, Role.OPERATOR), "not_markable"),
    ],
)
def test_only_the_other_sides_standard_messages_are_marked(marked: MarkedMessage | None, expected: str) -> None:
    mark = MarkMessage(CHAT, OLGA, 9, read=True)
    assert code(decide(chat(Stage.OPEN, OLGA), mark, context(marked=marked))) == expected


@given(marks=st.lists(st.tuples(st.sampled_from([ANNA, OLGA]), st.integers(0, 20), st.booleans()), max_size=30))
def test_watermarks_never_go_back_and_read_never_passes_delivered(
    marks: list[tuple[User, int, bool]],
) -> None:
    state = chat(Stage.OPEN, OLGA)
    for reader, index, read in marks:
        other = Role.OPERATOR if reader.role is Role.USER else Role.USER
        marked = MarkedMessage(index, MessageType.STANDARD, other)
        decision = decide(state, MarkMessage(CHAT, reader, 1, read), context(marked=marked))
        if isinstance(decision, Changed):
            after = decision.chat
            assert after.rev == state.rev + 1
            assert after.operators_read >= state.operators_read
            assert after.visitor_delivered >= state.visitor_delivered
            assert after.operators_read <= after.operators_delivered
            assert after.visitor_read <= after.visitor_delivered
            state = after


@pytest.mark.parametrize(
    ("delivered", "read", "expected"),
    [(-1, -1, MessageStatus.NEW), (0, -1, MessageStatus.DELIVERED), (0, 0, MessageStatus.READ)],
)
def test_a_messages_status_follows_the_counterparts_watermarks(
    delivered: int, read: int, expected: MessageStatus
) -> None:
    state = replace(chat(Stage.OPEN), operators_delivered=delivered, operators_read=read)
    assert message_status(state, STORED) is expected


@pytest.mark.parametrize(
    ("stage", "operator", "new", "opened", "unread"),
    [
        (Stage.RESERVED, None, 0, 0, 0),
        (Stage.NEW, None, 0, 0, 1),
        (Stage.NEW, OLGA, 1, 0, 1),
        (Stage.OPEN, OLGA, 0, 1, 1),
        (Stage.CLOSED, OLGA, 0, 0, 0),
    ],
)
def test_what_a_chat_with_an_unread_message_adds_to_the_counters(
    stage: Stage, operator: User | None, new: int, opened: int, unread: int
) -> None:
    share = contribution(replace(chat(stage, operator), last_visitor_index=0))
    assert (share.new, share.open, share.unread) == (new, opened, unread)
    assert share.operator_id == (OLGA.id if new or opened else None)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (says(PETR), PETR.id),
        (says(ANNA), OLGA.id),
        (ReopenChat(CHAT, ANNA), OLGA.id),
        (TransferChat(CHAT, OLGA, 2), 2),
        (CloseChat(CHAT, OLGA), None),
    ],
)
def test_which_operators_load_a_decision_depends_on(operation: ChatOperation, expected: int | None) -> None:
    assert prospective_operator(chat(Stage.CLOSED, OLGA), operation) == expected


class _Clocked:
    """A chat under random operations, with the times since its operator has it and the customer waits."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.now = policy, NOW
        self.chat = put(chat(), says(ANNA), policy=policy).chat
        self.held_since = self.waits_since = NOW

    def do(self, operation: ChatOperation, there: bool) -> None:
        target = PersonRecord(PETR if isinstance(operation, TransferChat) and operation.to == 2 else OLGA, SOURCES)
        holder = None
        if self.chat.operator is not None:
            holder = PersonRecord(self.chat.operator, SOURCES, online=there, leaving=not there)
        around = context(policy=self.policy, now=self.now, target=target, holder=holder)
        before, decision = self.chat, decide(self.chat, operation, around)
        if not isinstance(decision, Changed):
            return
        after = self.chat = decision.chat
        if isinstance(operation, SweepChat):
            if after.stage is Stage.CLOSED:
                assert before.awaiting_since is None, "a chat was closed while the customer waits for an answer"
                assert self.now - before.last_activity >= self.policy.idle_timeout
            else:
                assert self.now - self.held_since >= self.policy.answer_timeout, "the operator had less than its time"
                assert self.now - self.waits_since >= self.policy.answer_timeout
        if after.operator != before.operator or (after.stage is Stage.OPEN) > (before.stage is Stage.OPEN):
            self.held_since = self.now
        if before.awaiting_since is None and after.awaiting_since is not None:
            self.waits_since = self.now
        asked = any(message.type_role is Role.USER and message.author == ANNA for message in decision.messages)
        if asked and after.active and decision.messages[0].type is MessageType.STANDARD:
            assert after.awaiting_since is not None


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    says(ANNA), says(OLGA), says(PETR), NOTE, AcceptChat(CHAT, OLGA), AcceptChat(CHAT, PETR),
                    CloseChat(CHAT, ANNA), CloseChat(CHAT, OLGA), ReopenChat(CHAT, ANNA), ReopenChat(CHAT, PETR),
                    TransferChat(CHAT, OLGA, 1), TransferChat(CHAT, OLGA, 2), ReturnChat(CHAT, OLGA),
                    ReleaseChat(CHAT, 1), ReleaseChat(CHAT, 2), SweepChat(CHAT), SweepChat(CHAT),
                ]
            ),
            st.integers(0, 40),
            st.booleans(),
        ),
        max_size=40,
    ),
    policy=st.builds(Policy, answer_timeout=st.sampled_from((0, 30)), idle_timeout=st.sampled_from((0, 20, 60))),
)  # fmt: skip
def test_a_sweep_never_shortens_an_answer_time_or_closes_a_waiting_chat(
    steps: list[tuple[ChatOperation, int, bool]], policy: Policy
) -> None:
    clocked = _Clocked(policy)
    for operation, seconds, there in steps:
        clocked.now += seconds
        clocked.do(operation, there)
