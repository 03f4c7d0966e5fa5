"""Checks that a store keeps its promises: every implementation passes `check_store`."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count, islice
from typing import Final
from uuid import UUID

import attrs
from msgspec.structs import replace

from actorchat.chat.documents import ChangeDocument, DocumentChanged, DocumentKey, DocumentKind
from actorchat.chat.model import (
    ANONYMOUS_IDS,
    ENDLESS,
    ChatState,
    Identity,
    OperatorCounters,
    PersonRecord,
    Policy,
    Retention,
    SourceCounters,
    Stage,
    StoredAttachment,
    Upload,
    contribution,
    endless,
    identity_of,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
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
    UploadRecorded,
    UploadsExpired,
)
from actorchat.chat.ports import MOST_UNREAD, ChatFilter, ChatPage, Page
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.protocol import AttachmentType, MessageType, Role, User
from actorchat.storage.store import Batch, DecisionAndCounters, Store
from actorchat.testing._account_checks import (
    check_accounts,
    check_blocks,
    check_sessions,
    check_sign_out,
    check_stored_accounts,
    store_accounts,
)
from actorchat.testing._hand_over_checks import check_hand_over

__all__ = ["OpenStore", "check_store", "check_walk", "random_operations"]

OpenStore = Callable[[Policy], AbstractContextManager[Store]]
"""Opens one store. A durable store that is opened again finds what it stored."""

ANN: Final = User(1, Role.USER, firstname="Ann")
BOB: Final = User(2, Role.USER, firstname="Bob")
GUEST: Final = User(ANONYMOUS_IDS + 7, Role.USER)
# Operators and visitors share ids on purpose: an identity is a role and an id.
EVE: Final = User(1, Role.OPERATOR, firstname="Eve")
FAY: Final = User(2, Role.OPERATOR, firstname="Fay")
SHOP: Final = "shop"
CHAT: Final = UUID(int=1)
NOW: Final = 1_700_000_000
_RECORDS: Final = tuple(
    RecordPerson(user, frozenset(), frozenset({SHOP} if user.role is Role.OPERATOR else ()))
    for user in (ANN, BOB, EVE, FAY)
)


class _Writer:
    """Commits operations to a store under consecutive batch numbers."""

    def __init__(self, store: Store, writer: str = "check") -> None:
        self.store = store
        self._writer = writer
        self._numbers = count(1)

    def batch(self, *operations: Operation, now: float = NOW) -> list[DecisionAndCounters]:
        return self.store.commit(operations, Batch(self._writer, next(self._numbers), now))

    def one(self, operation: Operation, now: float = NOW) -> DecisionAndCounters:
        [decided] = self.batch(operation, now=now)
        return decided

    def decision(self, operation: Operation, now: float = NOW) -> Decision:
        return self.one(operation, now)[0]

    def changed(self, operation: Operation, now: float = NOW) -> Changed:
        decision, _ = self.one(operation, now)
        assert isinstance(decision, Changed), decision
        return decision

    def person(self, user: User) -> PersonRecord:
        record = self.store.person(Identity(user.role, user.id))
        assert record is not None
        return record

    def talk(self, *texts: str, chat: UUID = CHAT, author: User = ANN) -> list[int]:
        """Add messages of `author`, each in a batch of its own, and return their ids."""
        return [self.changed(AddMessage(chat, author, text)).messages[0].id for text in texts]


def check_store(fresh: Callable[[], OpenStore], *, durable: bool = True) -> None:
    """Check that a store keeps the promises of `actorchat.storage.Store` and `actorchat.chat.ports.ChatReader`.

    Each call of `fresh` returns a function that opens a new, empty store. `durable=False` leaves out the checks that
    open a store a second time. Raises AssertionError.
    """
    for check in _CHECKS:
        with fresh()(Policy()) as store:
            writer = _Writer(store)
            writer.batch(*_RECORDS, ReserveChat(CHAT, SHOP, ANN))
            check(writer)
    for account_check in (check_accounts, check_sessions, check_sign_out, check_blocks):
        with fresh()(Policy()) as store:
            account_check(store, _Writer(store).decision)
    with fresh()(Policy()) as store:
        check_hand_over(store, _Writer(store).batch)
    _check_capacity_and_due(fresh())
    for seed in range(5):
        _check_random_sessions(fresh(), seed)
        _check_walk(fresh(), seed)
    if durable:
        _check_reopening(fresh())
        _check_reopened_accounts(fresh())


def _check_order(writer: _Writer) -> None:
    """Revisions and indexes have no gaps and ids are unique; decisions come in the order of their operations."""
    decided = writer.batch(*(AddMessage(CHAT, ANN, str(n)) for n in range(5)))
    decided += writer.batch(AddMessage(CHAT, EVE, "5"), TransferChat(CHAT, EVE, FAY.id))
    changes = [decision for decision, _ in decided if isinstance(decision, Changed)]
    assert [change.chat.rev for change in changes] == list(range(1, 8))
    messages = [message for change in changes for message in change.messages]
    assert [message.index for message in messages] == list(range(8))
    assert len({message.id for message in messages}) == 8
    page = writer.store.after(CHAT, Role.OPERATOR, after=-1, limit=100)
    assert page is not None
    assert [message.index for message in page.messages] == [0, 1, 2, 3, 4, 5, 7]
    assert page.chat == changes[-1].chat == writer.store.chat(CHAT)
    assert page.messages == tuple(message for message in messages if message.index != 6)


def _check_refusals(writer: _Writer) -> None:
    """An operation on something that does not exist is refused; the rest of its batch is stored."""
    nowhere = UUID(int=99)
    decided = writer.batch(
        AddMessage(nowhere, ANN, "?"),
        AddMessage(CHAT, ANN, "here"),
        MarkMessage(nowhere, ANN, 1, True),
        SetOnline(77, True),
        AcceptChat(CHAT, EVE),
        AcceptChat(CHAT, FAY),
    )
    codes = [decision.code if isinstance(decision, Refused) else None for decision, _ in decided]
    assert codes == ["not_found", None, "not_found", "not_found", None, "not_owner"]
    assert writer.store.chat(nowhere) is None
    assert writer.store.newest(nowhere, Role.USER, before=None, limit=1) is None


def _check_idempotency(writer: _Writer) -> None:
    """A repeated key with the same body returns the stored message, with another body a conflict, in any batch."""
    send = AddMessage(CHAT, ANN, "once", client_id="k")
    [(first, _), (again, _), (other, _)] = writer.batch(send, send, replace(send, text="twice"))
    assert isinstance(first, Changed)
    assert again == Unchanged(first.chat, first.messages[0])
    assert isinstance(other, Refused)
    assert other.code == "conflict"
    assert writer.one(send)[0] == Unchanged(first.chat, first.messages[0])
    # A key belongs to its author and its chat.
    writer.batch(ReserveChat(UUID(int=2), SHOP, BOB))
    writer.changed(replace(send, author=EVE, text="mine"))
    writer.changed(replace(send, chat=UUID(int=2), author=BOB))


def _check_refused_keys(writer: _Writer) -> None:
    """Refusing a message whose key is known returns the stored message instead."""
    first, second = (AddMessage(CHAT, ANN, text, client_id=text) for text in ("first", "second"))
    other, refused = replace(first, text="other"), Refused("overloaded", "")
    unknown = AddMessage(UUID(int=9), ANN, "nowhere", client_id="first")
    writer.changed(first)
    refusals = [RefuseMessage(message, refused) for message in (first, second, other, unknown)]
    batch = writer.batch(*refusals, second, refusals[1])
    [again, new, conflict, nowhere] = [decision for decision, _ in writer.store.look_up(refusals)]
    for decision, expected in ((batch[0][0], first), (again, first), (batch[5][0], second), (new, second)):
        assert isinstance(decision, Unchanged)
        assert decision.message is not None
        assert decision.message.text == expected.text
    assert [batch[1][0], batch[3][0], nowhere] == [refused] * 3
    for decision in (batch[2][0], conflict):
        assert isinstance(decision, Refused)
        assert decision.code == "conflict"
    assert not any(writer.store.is_new(refusals[place]) for place in (0, 1, 2))


def _check_key_horizon(writer: _Writer) -> None:
    """The newest 256 keys of an author in a chat are known; older ones are forgotten."""

    def key(n: int) -> AddMessage:
        return AddMessage(CHAT, ANN, "x", client_id=f"k{n}")

    writer.batch(*map(key, range(200)))
    writer.batch(*map(key, range(200, 256)))
    assert isinstance(writer.one(key(0))[0], Unchanged)
    writer.changed(AddMessage(CHAT, ANN, "no key"))
    writer.changed(replace(key(0), author=EVE))
    assert isinstance(writer.one(key(0))[0], Unchanged)
    # The horizon also moves inside a batch: here key 256 pushes out key 0, which is then stored as a new one.
    decisions = [decision for decision, _ in writer.batch(key(256), key(1), key(0), key(1))]
    assert [type(decision) for decision in decisions] == [Changed, Unchanged, Changed, Changed]
    assert isinstance(writer.one(key(0))[0], Unchanged)


def _check_reserve(writer: _Writer) -> None:
    """An owner has one chat at a source until it is closed; a reserved chat is in no list."""
    first = writer.store.chat(CHAT)
    assert first is not None
    assert (first.stage, first.rev, first.owner) == (Stage.RESERVED, 0, ANN)
    assert writer.store.chats(ChatFilter()) == ChatPage(())
    assert writer.one(ReserveChat(UUID(int=2), SHOP, ANN))[0] == Unchanged(first)
    [(bobs, _), (same, _), (elsewhere, _)] = writer.batch(
        ReserveChat(UUID(int=3), SHOP, BOB),
        ReserveChat(UUID(int=4), SHOP, BOB),
        ReserveChat(UUID(int=5), "mall", BOB),
    )
    assert isinstance(bobs, Changed)
    assert same == Unchanged(bobs.chat)
    assert isinstance(elsewhere, Changed)
    writer.talk("hello")
    decided = writer.batch(CloseChat(CHAT, ANN), ReserveChat(UUID(int=6), SHOP, ANN), ReopenChat(CHAT, ANN))
    assert [type(decision) for decision, _ in decided] == [Changed, Changed, Changed]
    writer.changed(AddMessage(CHAT, ANN, "later"), now=NOW + 9)
    unchanged, _ = writer.one(ReserveChat(UUID(int=7), SHOP, ANN))
    assert isinstance(unchanged, Unchanged)
    assert unchanged.chat.uuid == CHAT
    # A chat that is reserved and used in the same batch is counted like any other.
    _, (_, counters) = writer.batch(ReserveChat(UUID(int=8), "mall", ANN), AddMessage(UUID(int=8), ANN, "hi"), now=NOW)
    assert counters == (SourceCounters("mall", 1, 1),)


def _check_marks(writer: _Writer) -> None:
    """A mark names a message of its own chat; the id of another chat's message is refused as unknown."""
    ids = writer.talk("one", "two")
    writer.batch(ReserveChat(UUID(int=2), SHOP, BOB))
    [foreign] = writer.talk("theirs", chat=UUID(int=2), author=BOB)
    change = writer.changed(MarkMessage(CHAT, EVE, ids[1], True))
    assert (change.chat.operators_delivered, change.chat.operators_read) == (1, 1)
    assert isinstance(writer.one(MarkMessage(CHAT, EVE, ids[0], True))[0], Unchanged)
    for unknown in (foreign, 10**9, -1, 0):
        refused, _ = writer.one(MarkMessage(CHAT, EVE, unknown, True))
        assert isinstance(refused, Refused)
        assert refused.code == "message_not_found"
    # A message can be marked in the batch that adds it, if its id is guessed.
    # Ids need not be consecutive, but the next one is known.
    guess = writer.store.newest_number() + 1
    decided = writer.batch(AddMessage(CHAT, ANN, "three"), MarkMessage(CHAT, EVE, guess, True))
    assert isinstance(decided[1][0], Changed)
    decided = writer.batch(AddMessage(CHAT, ANN, "4"), MarkMessage(UUID(int=2), EVE, guess + 1, True))
    assert isinstance(decided[1][0], Refused)


def _check_pages(writer: _Writer) -> None:
    """Every page has its order, bounds, role filter and `has_more`, and shows people as they are now."""
    writer.talk("0", "1")
    writer.talk("2", author=EVE)
    writer.batch(TransferChat(CHAT, EVE, FAY.id), AddMessage(CHAT, ANN, "5"))
    writer.one(AddMessage(CHAT, EVE, "note", type=MessageType.SYSTEM, type_role=Role.OPERATOR))
    writer.one(RecordPerson(attrs.evolve(EVE, firstname="Eva"), frozenset({"firstname"}), frozenset({SHOP})))
    store = writer.store

    def page(found: Page | None) -> tuple[list[int], bool]:
        assert found is not None
        return [message.index for message in found.messages], found.has_more

    user, operator = Role.USER, Role.OPERATOR
    assert page(store.newest(CHAT, user, before=None, limit=9)) == ([0, 1, 2, 3, 5], False)
    assert page(store.newest(CHAT, operator, before=None, limit=9)) == ([0, 1, 2, 4, 5, 6], False)
    assert page(store.newest(CHAT, user, before=None, limit=2)) == ([3, 5], True)
    assert page(store.newest(CHAT, user, before=3, limit=3)) == ([0, 1, 2], False)
    assert page(store.newest(CHAT, user, before=0, limit=3)) == ([], False)
    assert page(store.after(CHAT, user, after=-1, limit=2)) == ([0, 1], True)
    assert page(store.after(CHAT, operator, after=2, limit=3)) == ([4, 5, 6], False)
    assert page(store.after(CHAT, user, after=99, limit=3)) == ([], False)
    assert page(store.since(CHAT, rev=0, limit=9)) == ([0, 1, 2, 3, 4, 5, 6], False)
    assert page(store.since(CHAT, rev=3, limit=2)) == ([3, 4], True)
    assert page(store.since(CHAT, rev=6, limit=2)) == ([], False)
    assert page(store.authored(CHAT, user, after=0, upto=5, limit=9)) == ([1, 5], False)
    assert page(store.authored(CHAT, user, after=-1, upto=5, limit=1)) == ([0], True)
    assert page(store.authored(CHAT, operator, after=-1, upto=9, limit=9)) == ([2], False)
    found = store.newest(CHAT, operator, before=None, limit=9)
    assert found is not None
    author = found.messages[2].author
    assert author is not None
    assert author.firstname == "Eva"
    assert found.chat.operator == FAY
    # Pages are also bounded in bytes, in both directions: a page ends with the message that reaches the bound.
    assert page(store.after(CHAT, user, after=-1, limit=9, size=2)) == ([0, 1], True)
    assert page(store.after(CHAT, user, after=-1, limit=9, size=0)) == ([0], True)
    assert page(store.newest(CHAT, user, before=None, limit=9, size=1)) == ([5], True)
    assert page(store.newest(CHAT, user, before=2, limit=2, size=2)) == ([0, 1], False)
    assert page(store.authored(CHAT, user, after=-1, upto=5, limit=9, size=2)) == ([0, 1], True)
    writer.talk("ж🐌")
    assert page(store.after(CHAT, user, after=5, limit=9, size=6)) == ([7], False)
    assert page(store.after(CHAT, user, after=3, limit=9, size=7)) == ([5, 7], False)
    assert page(store.newest(CHAT, user, before=None, limit=9, size=6)) == ([7], True)


def _check_lists(writer: _Writer) -> None:
    """Lists show the newest activity first, with each filter and from a cursor on; a snapshot shows it last."""
    for n, (owner, source) in enumerate([(ANN, "a"), (BOB, "a"), (ANN, "b"), (BOB, "b")]):
        writer.batch(ReserveChat(UUID(int=10 + n), source, owner), now=NOW + n)
        writer.changed(AddMessage(UUID(int=10 + n), owner, "hi"), now=NOW + n)
    writer.batch(CloseChat(UUID(int=10), ANN), AcceptChat(UUID(int=13), EVE), now=NOW + 3)
    store = writer.store

    def listed(**which: object) -> list[int]:
        return [chat.uuid.int for chat in store.chats(ChatFilter(**which)).chats]  # type: ignore[arg-type]  # fields are passed by name

    assert listed() == [13, 10, 12, 11]
    assert listed(limit=2) == [13, 10]
    assert listed(before=UUID(int=10), limit=1) == [12]
    assert listed(before=UUID(int=11)) == []
    assert listed(before=UUID(int=99)) == []
    assert listed(sources=frozenset({"b"})) == [13, 12]
    assert listed(stages=frozenset({Stage.OPEN, Stage.CLOSED})) == [13, 10]
    assert listed(stages=frozenset({Stage.RESERVED})) == []
    assert listed(operator_id=EVE.id) == [13]
    assert listed(owner_id=ANN.id, stages=frozenset({Stage.NEW})) == [12]
    assert listed(owners=frozenset({ANN.id, 99}), sources=frozenset({"b"})) == [12]
    assert listed(owners=frozenset({ANN.id, BOB.id}), before=UUID(int=12)) == [11]
    assert listed(owners=frozenset()) == []
    assert listed(sources=frozenset({"a"}), owner_id=BOB.id, before=UUID(int=10)) == [11]
    snapshot = store.feed_snapshot(["b", "a", "c"], 2)
    assert [chat.uuid.int for chat in snapshot.chats] == [12, 13]
    assert [(one.source, one.unread_chats) for one in snapshot.counters] == [("a", 1), ("b", 2), ("c", 0)]
    assert snapshot.operators == ()
    snapshot = store.feed_snapshot([SHOP], 2)
    assert [record.person.user for record in snapshot.operators] == [EVE, FAY]
    assert snapshot.operators[0].counters == OperatorCounters(EVE.id, 0, 1, 1)
    assert snapshot.chats == ()


def _check_summaries(writer: _Writer) -> None:
    """A summary has the newest message that operators see, what they have not read, the first time and the tags."""
    store = writer.store
    assert store.summaries([CHAT, UUID(int=99)]) == ()
    writer.changed(AddMessage(CHAT, ANN, "one"), now=NOW)
    [two] = writer.talk("two")
    writer.talk("three")
    ann, bob = UUID(int=20), UUID(int=21)
    writer.batch(ReserveChat(ann, "a", ANN), now=NOW + 7)
    writer.batch(ReserveChat(bob, "b", BOB), AcceptChat(bob, EVE), now=NOW + 8)

    def summary(chat: UUID) -> tuple[str | None, int, int, tuple[str, ...]]:
        [found] = store.summaries([chat])
        assert found.chat == store.chat(chat)
        return None if found.last is None else found.last.text, found.unread, found.created, found.tags

    assert summary(CHAT) == ("three", 3, NOW, ())
    assert summary(bob) == (None, 0, store.summaries([bob])[0].chat.last_activity, ())
    assert {found.chat.uuid for found in store.summaries([CHAT, ann, bob])} == {CHAT, bob}
    writer.changed(MarkMessage(CHAT, EVE, two, True), now=NOW + 9)
    assert summary(CHAT) == ("three", 1, NOW, ())
    writer.changed(AddMessage(CHAT, EVE, "a note", type=MessageType.SYSTEM, type_role=Role.OPERATOR))
    writer.changed(AddMessage(CHAT, EVE, "for Ann", type=MessageType.SYSTEM, type_role=Role.USER))
    [found] = store.summaries([CHAT])
    assert found.last is not None
    assert (found.last.text, found.last.author, found.unread) == ("a note", EVE, 1)

    place = found.chat.place
    writer.changed(SetTags(CHAT, ("blue", "red")))
    writer.changed(SetTags(bob, ("red",)))
    assert summary(CHAT)[3] == ("blue", "red")
    assert store.summaries([CHAT])[0].chat.place == place
    assert {chat.uuid for chat in store.chats(ChatFilter(tag="red")).chats} == {CHAT, bob}
    assert [chat.uuid for chat in store.chats(ChatFilter(tag="blue", sources=frozenset({SHOP}))).chats] == [CHAT]
    assert store.chats(ChatFilter(tag="blue", owner_id=BOB.id, before=bob)).chats == ()
    writer.batch(SetTags(CHAT, ("red",)), SetTags(CHAT, ("green",)))
    assert summary(CHAT)[3] == ("green",)
    writer.changed(SetTags(CHAT, ()))
    assert summary(CHAT)[3] == ()
    writer.batch(SetTags(CHAT, ("blue", "green", "red")), SetTags(bob, ("red",)))
    both = [SHOP, store.summaries([bob])[0].chat.source]
    assert store.tag_counts(both, 9) == (("red", 2), ("blue", 1), ("green", 1))
    assert store.tag_counts(both, 1) == (("red", 2),)
    assert store.tag_counts([], 9) == store.tag_counts(["other"], 9) == ()
    # A new name, a name that the chat has already, none, and a tag that the chat does not have.
    for tag, into, left in (
        ("red", "amber", ("amber", "blue", "green")),
        ("amber", "green", ("blue", "green")),
        ("blue", None, ("green",)),
        ("red", "blue", ("green",)),
    ):
        writer.changed(ReplaceTag(CHAT, tag, into))
        assert summary(CHAT)[3] == left
    assert summary(bob)[3] == ("red",)
    writer.batch(ReplaceTag(CHAT, "green", "x"), SetTags(CHAT, ("a", "b")), ReplaceTag(CHAT, "b", "c"))
    assert summary(CHAT)[3] == ("a", "c")
    writer.batch(ReplaceTag(CHAT, "a", "b"), ReplaceTag(CHAT, "b", "c"), ReplaceTag(CHAT, "c", "d"))
    assert summary(CHAT)[3] == ("d",)
    refused, _ = writer.one(SetTags(ann, ("red",)))
    assert isinstance(refused, Refused)
    assert refused.code == "conflict"

    # Counting stops at a bound, so that a long chat costs no more.
    for _ in range(MOST_UNREAD // 100):
        writer.batch(*(AddMessage(bob, BOB, "!") for _ in range(101)))
    assert summary(bob)[1] == MOST_UNREAD


def _check_documents(writer: _Writer) -> None:
    """A document is changed in its transaction, on the result of the changes before it."""
    store, key = writer.store, DocumentKey(DocumentKind.REPLY, SHOP, "b")

    def appended(text: str) -> ChangeDocument:
        return ChangeDocument(key, lambda before: (before or "") + text)

    assert store.documents(DocumentKind.REPLY, SHOP) == ()
    assert writer.batch(appended("1"), appended("2"))[1][0] == DocumentChanged("12")
    assert writer.batch(appended("3"))[0][0] == DocumentChanged("123")
    writer.batch(ChangeDocument(DocumentKey(DocumentKind.REPLY, SHOP, "a"), lambda _: "x"))
    writer.batch(ChangeDocument(DocumentKey(DocumentKind.REPLY, "mall", "a"), lambda _: "y"))
    writer.batch(ChangeDocument(DocumentKey(DocumentKind.WIDGET, SHOP), lambda _: "z"))
    assert store.documents(DocumentKind.REPLY, SHOP) == (("a", "x"), ("b", "123"))
    assert store.documents(DocumentKind.WIDGET, SHOP) == (("", "z"),)

    def fail(_: str | None) -> str | None:
        raise ValueError("as scripted")

    decisions = writer.batch(ChangeDocument(key, lambda _: None), ChangeDocument(key, fail), appended("4"))
    assert isinstance(decisions[1][0], Refused)
    assert store.documents(DocumentKind.REPLY, SHOP) == (("a", "x"), ("b", "4"))

    # What a visitor has viewed is deleted with the record of an anonymous visitor.
    chat, viewed = UUID(int=30), DocumentKey(DocumentKind.VISIT, str(GUEST.id))
    writer.batch(ReserveChat(chat, SHOP, GUEST), ChangeDocument(viewed, lambda _: "page"))
    assert store.documents(DocumentKind.VISIT, str(GUEST.id)) == (("", "page"),)
    writer.batch(ExpireChat(chat, NOW + 1, False), now=NOW + 9)
    assert store.documents(DocumentKind.VISIT, str(GUEST.id)) == ()


def _check_order_of_lists(writer: _Writer) -> None:
    """Lists are ordered exactly, within one second and when the clock steps back. Marks do not move a chat."""
    store, chats = writer.store, [UUID(int=10 + n) for n in range(4)]
    for n, chat in enumerate(chats):
        owner = User(10 + n, Role.USER)
        writer.batch(ReserveChat(chat, SHOP, owner), AddMessage(chat, owner, "hi"))

    def order() -> list[int]:
        return [chat.uuid.int for chat in store.chats(ChatFilter()).chats]

    assert order() == [13, 12, 11, 10]
    steps: list[tuple[Operation, list[int]]] = [
        (AcceptChat(chats[0], EVE), [10, 13, 12, 11]),
        (CloseChat(chats[1], EVE), [11, 10, 13, 12]),
        (AddMessage(chats[2], EVE, "hello"), [12, 11, 10, 13]),
        (TransferChat(chats[0], EVE, FAY.id), [10, 12, 11, 13]),
        (AcceptChat(chats[0], FAY), [10, 12, 11, 13]),
        (ReopenChat(chats[1], EVE), [11, 10, 12, 13]),
    ]
    for n, (operation, expected) in enumerate(steps):
        writer.changed(operation, now=NOW - 100 * n)
        assert order() == expected
    [asked] = writer.talk("?", chat=chats[3], author=EVE)
    moved = order()
    assert moved[0] == 13
    writer.changed(MarkMessage(chats[3], User(13, Role.USER), asked, True), now=NOW + 9)
    assert order() == moved
    # Accepting a chat without messages puts it into the lists.
    writer.batch(AcceptChat(CHAT, EVE))
    assert order() == [CHAT.int, *moved]
    assert [chat.uuid.int for chat in store.feed_snapshot([SHOP], 2).chats] == [moved[0], CHAT.int]


def _check_walk(open_store: OpenStore, seed: int) -> None:
    """Paging through a list shows each chat that matches all the time exactly once, whatever happens between pages."""
    chance = random.Random(seed)  # noqa: S311 - seeded, to be repeatable
    with open_store(Policy()) as store:
        writer = _Writer(store)
        writer.batch(*_RECORDS)
        for n in range(1, 8):
            owner = User(100 + n, Role.USER)
            writer.batch(ReserveChat(UUID(int=n), SHOP, owner), AddMessage(UUID(int=n), owner, "hi"))
        writer.batch(ReserveChat(UUID(int=8), SHOP, ANN), AcceptChat(UUID(int=8), EVE))
        operations = random_operations(seed, 10_000)
        for which in (
            ChatFilter(),
            ChatFilter(stages=frozenset({Stage.NEW, Stage.OPEN})),
            ChatFilter(stages=frozenset({Stage.OPEN}), operator_id=EVE.id),
        ):
            which = attrs.evolve(which, limit=chance.randrange(1, 4))
            check_walk(store, which, lambda: writer.batch(*islice(operations, chance.randrange(12))))


def check_walk(store: Store, which: ChatFilter, between: Callable[[], object]) -> None:
    """Read the list page by page and call `between` after each page but the last.

    Check that each chat that matches at every page is shown, that none is shown twice, and that they come in the order
    that they had at the start.
    """
    order = [chat.uuid for chat in store.chats(ChatFilter(limit=100_000)).chats]
    all_of_it = attrs.evolve(which, before=None, limit=100_000)
    throughout = set(order)
    shown: list[UUID] = []
    more: ChatFilter | None = which
    while more is not None:
        throughout &= {chat.uuid for chat in store.chats(all_of_it).chats}
        page = store.chats(more)
        assert len(page.chats) <= which.limit
        shown.extend(chat.uuid for chat in page.chats)
        more = None if page.next is None else attrs.evolve(which, before=page.next)
        if more is not None:
            between()
    assert shown == [uuid for uuid in order if uuid in set(shown)], "a chat is repeated, or out of its initial order"
    assert throughout <= set(shown), "a chat that matched at every page is missing"


def _check_people(writer: _Writer) -> None:
    """Profiles are merged by claim; a changed profile is reported, and shown in every chat from then on."""
    writer.talk("hi")
    [(same, _)] = writer.batch(RecordPerson(ANN, frozenset({"firstname"})))
    assert same == PersonRecorded(PersonRecord(ANN), False)
    renamed = User(ANN.id, Role.USER, lastname="Lee")
    decided = writer.batch(RecordPerson(renamed, frozenset({"lastname"})), AddMessage(CHAT, ANN, "me"))
    ann = attrs.evolve(ANN, lastname="Lee")
    assert decided[0][0] == PersonRecorded(PersonRecord(ann), True, True)
    assert isinstance(decided[1][0], Changed)
    assert decided[1][0].chat.owner == decided[1][0].messages[0].author == ann
    assert writer.store.person(Identity(Role.USER, ANN.id)) == PersonRecord(ann)
    assert writer.store.person(Identity(Role.USER, 99)) is None
    people = [Identity(Role.USER, ANN.id), Identity(Role.OPERATOR, EVE.id), Identity(Role.USER, 99)]
    stored = sorted(writer.store.people([*people, Identity(Role.OPERATOR, 99)]), key=lambda record: record.user.role)
    assert stored == [writer.store.person(people[1]), PersonRecord(ann)]
    assert writer.store.people([]) == ()
    [chat] = writer.store.chats(ChatFilter()).chats
    assert chat.owner == ann
    refreshed = writer.changed(RefreshPeople(CHAT), now=NOW + 9)
    assert (refreshed.chat, refreshed.messages, refreshed.chat_changed) == (replace(chat, rev=chat.rev + 1), (), True)
    assert writer.store.chat(CHAT) == refreshed.chat
    online = writer.one(SetOnline(EVE.id, True))[0]
    assert online == PersonRecorded(PersonRecord(EVE, endless({SHOP}), True), True)
    assert writer.one(SetOnline(EVE.id, True))[0] == PersonRecorded(online.person, False)
    assert [record.person.online for record in writer.store.operators([SHOP])] == [True, False]
    stranger = User(7, Role.OPERATOR, firstname="Gus")
    writer.changed(AcceptChat(CHAT, stranger))
    assert [record.person.user.id for record in writer.store.operators(None)] == [1, 2, 7]
    assert writer.store.chats(ChatFilter()).chats[0].operator == stranger


def _check_expiry(writer: _Writer) -> None:
    """Unused reserved chats are found and deleted, and so are anonymous owners without another chat."""
    store, later = writer.store, NOW + 50
    chats = [UUID(int=n) for n in range(11, 16)]
    owners = (GUEST, GUEST, BOB, attrs.evolve(GUEST, id=GUEST.id + 1), attrs.evolve(GUEST, id=GUEST.id + 2))
    for n, (chat, owner) in enumerate(zip(chats, owners, strict=True)):
        writer.batch(ReserveChat(chat, f"made-up-{n}", owner), now=NOW + n)
    assert store.unused(NOW - 1, 9) == ()
    assert store.unused(later, 3) == (CHAT, *chats[:2])
    assert store.unused(NOW + 2, 9) == (CHAT, *chats[:3])
    # A chat that is requested again, or has somebody in it, is kept as long as a new one; one with a message for ever.
    again = writer.one(ReserveChat(UUID(int=99), "made-up-0", GUEST), now=later)[0]
    assert isinstance(again, Unchanged)
    assert (again.chat.uuid, again.chat.last_activity, again.chat.rev) == (chats[0], later, 0)
    assert isinstance(writer.one(ExpireChat(chats[1], later, True), now=later)[0], Unchanged)
    writer.changed(AddMessage(chats[3], owners[3], "hi"), now=later)
    assert store.unused(later - 1, 9) == (CHAT, chats[2], chats[4])
    assert store.unused(later, 9) == (CHAT, chats[2], chats[4], *chats[:2])
    decided = writer.batch(
        *(ExpireChat(chat, later - 1, False) for chat in chats),
        AddMessage(chats[2], BOB, "too late"),
        ReserveChat(chats[2], "made-up-2", BOB),
        ExpireChat(UUID(int=98), later, False),
        now=later + 1,
    )
    kinds = [Unchanged, Unchanged, Expired, Unchanged, Expired, Refused, Changed, Refused]
    assert [type(decision) for decision, _ in decided] == kinds
    assert [store.chat(chat) is None for chat in chats] == [False, False, False, False, True]
    # Only the anonymous owner without another chat is deleted, and may be stored again.
    known = [store.person(Identity(Role.USER, owner.id)) is not None for owner in owners]
    assert known == [True, True, True, True, False]
    writer.batch(ExpireChat(chats[0], later, False), now=later + 2)
    assert store.person(Identity(Role.USER, GUEST.id)) is not None
    writer.batch(ExpireChat(chats[1], later, False), now=later + 2)
    assert store.person(Identity(Role.USER, GUEST.id)) is None
    writer.changed(ReserveChat(chats[1], "made-up-1", GUEST), now=later + 3)
    assert store.person(Identity(Role.USER, GUEST.id)) == PersonRecord(GUEST)
    # A chat can be reserved and deleted in one batch.
    gus = attrs.evolve(GUEST, id=GUEST.id + 9)
    decided = writer.batch(ReserveChat(chats[4], SHOP, gus), ExpireChat(chats[4], later + 4, False), now=later + 4)
    assert decided[1][0] == Expired(chats[4])
    assert store.chat(chats[4]) is None
    # Refusing a message creates neither the chat nor the person, and changes nothing about a chat that exists.
    slowly = Refused("rate_limited", "slowly", 1.0)
    nobody = attrs.evolve(GUEST, id=GUEST.id + 10)
    decided = writer.batch(ReserveChat(chats[4], SHOP, nobody, slowly), ReserveChat(chats[4], SHOP, ANN, slowly))
    assert decided[0][0] == slowly
    assert isinstance(decided[1][0], Unchanged)
    assert store.person(Identity(Role.USER, nobody.id)) is None


def _check_retention(writer: _Writer) -> None:
    """Closed chats are found when their source keeps them no longer, and deleted with all that belongs to them."""
    store, kept, other, guests = writer.store, UUID(int=21), UUID(int=22), UUID(int=23)
    writer.batch(*(ReserveChat(chat, SHOP, BOB) for chat in (kept,)), ReserveChat(other, "help", ANN))
    writer.batch(ReserveChat(guests, "help", GUEST), RecordUpload(_upload(1)))
    [first, _] = writer.talk("hello", "world")
    writer.batch(
        AddMessage(CHAT, ANN, "", (UUID(int=1),), "file"),
        EditMessage(CHAT, ANN, first, "edited"),
        SetTags(CHAT, ("tag",)),
        ChangeDocument(DocumentKey(DocumentKind.VISIT, str(GUEST.id)), lambda _: "{}"),
        *(AddMessage(chat, owner, "x") for chat, owner in ((kept, BOB), (other, ANN), (guests, GUEST))),
        SetTags(guests, ("tag",)),
    )
    for chat, at in ((CHAT, 10), (other, 20), (guests, 30)):
        writer.changed(CloseChat(chat, EVE), now=NOW + at)
    retention, now = Retention(100, {SHOP: 50}), NOW + 125
    past = ((other, now - 100), (CHAT, now - 50))
    assert set(store.past_retention(retention, now, 9)) == set(past)
    assert len(store.past_retention(retention, now, 1)) == 1
    assert store.past_retention(Retention(0, {SHOP: 50}), now, 9) == (past[1],)
    assert store.past_retention(Retention(100, {SHOP: 0}), now, 9) == (past[0],)
    assert store.past_retention(Retention(), now, 9) == ()
    assert store.past_retention(retention, NOW + 59, 9) == ()
    before, number = store.feed_snapshot([SHOP, "help"], 9).counters, store.newest_number()

    def delete(chat: UUID, record: AuditEntry, *, before: float = now - 50, in_use: bool = False) -> Decision:
        return writer.one(ExpireChat(chat, before, in_use, record), now=now)[0]

    record = AuditEntry(int(now), "retention", AuditAction.RETENTION, None, {})
    # In use, active since, not closed, and without a record, which is for reserved chats.
    assert isinstance(delete(CHAT, record, in_use=True), Unchanged)
    assert isinstance(delete(CHAT, record, before=NOW + 9), Unchanged)
    assert isinstance(delete(kept, record), Unchanged)
    assert isinstance(writer.one(ExpireChat(CHAT, now, False))[0], Unchanged)
    # A chat that its batch changes waits for the next one.
    busy = writer.batch(SetTags(CHAT, ("new",)), ExpireChat(CHAT, now - 50, False, record), now=now)
    assert isinstance(busy[1][0], Unchanged)
    assert store.audits(9, 9) == ()
    # Closing the chat added a message.
    assert delete(CHAT, record) == Expired(CHAT, 4, (UUID(int=1),))
    assert isinstance(delete(CHAT, record), Refused)
    assert (store.chat(CHAT), store.since(CHAT, rev=0, limit=9), store.located(first)) == (None, None, None)
    assert store.edited(CHAT, rev=0, limit=9) is None
    assert (store.found([first]), store.uploads([UUID(int=1)]), store.uploads_of(identity_of(ANN))) == ((), (), ())
    searchable = [UUID(hex=message.chat) for message in store.searchable(0, 9)]
    assert searchable == [kept, other, guests, other, guests]
    assert store.searchable_edits(0, 9) == ()
    assert store.chats(ChatFilter(tag="new")).chats == ()
    assert [chat.uuid for chat in store.chats(ChatFilter(sources=frozenset({SHOP}))).chats] == [kept]
    assert store.feed_snapshot([SHOP, "help"], 9).counters == before
    # The record of the run is replaced, in the transaction of each chat.
    counts = {"chats": 1, "messages": 4, "files": 1}
    assert [(entry.counts, entry.subject) for entry in store.audits(9, 9)] == [(counts, None)]
    assert isinstance(delete(guests, attrs.evolve(record, counts=counts), before=now), Expired)
    [entry] = store.audits(9, 9)
    assert (entry.at, entry.counts) == (int(now), {"chats": 2, "messages": 6, "files": 1})
    # Only the anonymous visitor is forgotten.
    assert store.person(identity_of(GUEST)) is None
    assert store.documents(DocumentKind.VISIT, str(GUEST.id)) == ()
    assert store.person(identity_of(ANN)) is not None
    removed = store.removed_chats(0, 9)
    assert [(each.chat, each.owner_id) for each in removed] == [(CHAT, ANN.id), (guests, GUEST.id)]
    assert number < removed[0].place < removed[1].place <= store.newest_number()
    assert store.removed_chats(removed[0].place, 9) == removed[1:]
    # The owner can begin anew, and no number of a deleted message is known in a new chat.
    writer.changed(ReserveChat(CHAT, SHOP, ANN), now=now)
    assert isinstance(writer.changed(AddMessage(CHAT, ANN, "again", client_id="file"), now=now), Changed)
    _refuses(writer, MarkMessage(CHAT, EVE, first, True), "message_not_found", now=now)
    page = store.after(CHAT, Role.OPERATOR, after=-1, limit=9)
    assert page is not None
    assert [(message.index, message.text) for message in page.messages] == [(0, "again")]
    assert store.summaries([CHAT])[0].tags == ()


def _check_presence(writer: _Writer) -> None:
    """An operator who goes offline with chats is leaving until they are returned; then chats reopen in the queue."""
    other = UUID(int=2)
    writer.batch(ReserveChat(other, SHOP, BOB))
    writer.talk("hi")
    writer.talk("hi", chat=other, author=BOB)
    writer.batch(AcceptChat(CHAT, EVE), AcceptChat(other, EVE))

    def presence(operation: Operation) -> tuple[bool, bool]:
        decision, _ = writer.one(operation)
        assert isinstance(decision, PersonRecorded)
        stored = writer.store.person(Identity(Role.OPERATOR, EVE.id))
        assert stored == decision.person
        return stored.online, stored.leaving

    release = ReleaseChat(CHAT, EVE.id)
    assert isinstance(writer.one(release)[0], Unchanged)
    assert presence(SetOnline(EVE.id, False)) == (False, False)
    assert presence(SetOnline(EVE.id, True)) == (True, False)
    writer.batch(CloseChat(CHAT, ANN))
    assert writer.changed(AddMessage(CHAT, ANN, "again")).chat.operator == EVE
    assert isinstance(writer.one(release)[0], Unchanged)
    assert presence(SetOnline(EVE.id, False)) == (False, True)
    assert presence(EndLeaving(EVE.id)) == (False, True)
    assert writer.changed(release).chat.operator is None
    assert presence(EndLeaving(EVE.id)) == (False, True)
    writer.batch(CloseChat(other, BOB))
    assert presence(EndLeaving(EVE.id)) == (False, False)
    # A later operation sees the effect of an earlier one, also within a batch.
    reopened = writer.changed(AddMessage(other, BOB, "again")).chat
    assert (reopened.stage, reopened.operator) == (Stage.NEW, None)
    decided = writer.batch(
        AcceptChat(other, EVE),
        SetOnline(EVE.id, True),
        CloseChat(other, BOB),
        ReopenChat(other, BOB),
        SetOnline(EVE.id, False),
        ReleaseChat(other, EVE.id),
        SetOnline(EVE.id, True),
        AcceptChat(other, EVE),
        ReleaseChat(other, EVE.id),
    )
    states = [decision.chat.operator for decision, _ in decided if isinstance(decision, Changed | Unchanged)]
    assert states == [EVE, EVE, EVE, None, EVE, EVE]
    assert writer.one(EndLeaving(77))[0] == Refused("not_found", "there is no such operator")


def _check_memberships(writer: _Writer) -> None:
    """Each token of an operator adds its sources until it expires; the profile of an older token is ignored."""
    writer.talk("hi")
    gus, names, far = User(7, Role.OPERATOR, firstname="Gus"), frozenset({"firstname"}), ENDLESS
    older = RecordPerson(gus, names, frozenset({SHOP}), NOW + 60, "older", NOW - 60.5)
    newer = RecordPerson(attrs.evolve(gus, firstname="Augustus"), names, frozenset({"mall"}), far, "newer", NOW - 30.0)
    assert [decision for decision, _ in writer.batch(older, newer, older)][2] == PersonRecorded(
        writer.person(gus), changed=False
    )
    record = writer.person(gus)
    assert record.user.firstname == "Augustus"
    assert record.sources(NOW + 60) == {SHOP, "mall"}
    # Reads go by the clock, decisions by the time of their batch.
    assert gus.id not in [each.person.user.id for each in writer.store.operators([SHOP])]
    assert writer.store.operators(["mall"])[0].person == record
    assert writer.store.feed_snapshot(["mall"], 1).operators[0].person == record
    refused, _ = writer.one(TransferChat(CHAT, EVE, gus.id), now=NOW + 600)
    assert isinstance(refused, Refused)
    assert refused.code == "not_found"
    writer.changed(TransferChat(CHAT, EVE, gus.id), now=NOW + 59)
    # Expired memberships are forgotten. Tokens without a time of issue are ordered by their first use.
    undated = [RecordPerson(attrs.evolve(gus, firstname=name), names, None, far, name) for name in "abc"]
    writer.batch(*undated, now=NOW + 601)
    assert writer.one(undated[1], now=NOW + 602)[0] == PersonRecorded(writer.person(gus), changed=False)
    assert writer.person(gus).user.firstname == "c"
    assert writer.person(gus).memberships == {"mall": far}


def _upload(number: int, uploader: User = ANN, created: int = NOW) -> Upload:
    file = StoredAttachment(UUID(int=number), AttachmentType.IMAGE, f"{number} я.png", "png", 5, 3)
    return Upload(file, Identity(uploader.role, uploader.id), SHOP, "image/png", created)


def _check_uploads(writer: _Writer) -> None:
    """An upload can be used by one message of its uploader, which shows it everywhere, and is then kept."""
    one, two, three, bobs = _upload(1), _upload(2), _upload(3), _upload(4, BOB)
    recorded = writer.batch(*map(RecordUpload, (one, two, three, bobs)), RecordUpload(one))
    assert [decision for decision, _ in recorded] == [UploadRecorded()] * 5
    store = writer.store
    ids = [upload.file.uuid for upload in (one, two, three, bobs)]
    found = sorted(store.uploads([*ids, UUID(int=99)]), key=lambda upload: upload.file.uuid)
    assert found == [one, two, three, bobs]
    assert store.uploads([]) == ()
    send = AddMessage(CHAT, ANN, "", (ids[1], ids[0]), client_id="k")
    message = writer.changed(send).messages[0]
    assert message.attachments == (two.file, one.file)
    assert writer.one(send)[0] == Unchanged(_state(writer), message)
    for other in (tuple(ids[:2]), (), (ids[1],)):
        _refuses(writer, replace(send, text="x", attachments=other), "conflict")
    _refuses(writer, replace(send, attachments=tuple(ids[:2])), "conflict")
    # These are refused: an unknown file, one in use, another user's, and one that is named twice.
    nothing = UUID(int=99)
    for files, offending in (
        ((nothing, ids[2]), (nothing,)),
        ((ids[2], ids[0], ids[1]), (ids[0], ids[1])),
        ((ids[3],), (ids[3],)),
        ((ids[2], ids[2]), (ids[2],)),
    ):
        refused = _refuses(writer, AddMessage(CHAT, ANN, "x", files), "attachment_unknown")
        assert refused.attachments == offending
    # The refused messages have not used the file, and a user with the same id and another role can't.
    _refuses(writer, AddMessage(CHAT, EVE, "x", (ids[2],)), "attachment_unknown")
    # Of two messages in one batch the first one gets the file, even if the batch has just created its chat.
    new = UUID(int=7)
    decided = writer.batch(
        ReserveChat(new, "mall", ANN), AddMessage(new, ANN, "a", (ids[2],)), AddMessage(CHAT, ANN, "b", (ids[2],))
    )
    assert isinstance(decided[1][0], Changed)
    assert isinstance(decided[2][0], Refused)
    for page in (
        store.newest(CHAT, Role.USER, before=None, limit=9),
        store.after(CHAT, Role.OPERATOR, after=-1, limit=9),
        store.since(CHAT, rev=0, limit=9),
        store.authored(CHAT, Role.USER, after=-1, upto=9, limit=9),
    ):
        assert page is not None
        assert [each.attachments for each in page.messages] == [(two.file, one.file)]
    assert all(upload.bound for upload in store.uploads(ids[:3]))
    assert store.unbound_uploads(NOW, 9) == (ids[3],)
    # Uploads can be recorded and used, or recorded and deleted, in one batch.
    five, six = _upload(5), _upload(6)
    writer.batch(
        RecordUpload(five),
        AddMessage(CHAT, ANN, "five", (five.file.uuid,)),
        RecordUpload(six),
        ExpireUploads((six.file.uuid,), NOW),
    )
    assert [upload.bound for upload in store.uploads((five.file.uuid, six.file.uuid))] == [True]


def _check_expiring_uploads(writer: _Writer) -> None:
    """Uploads that no message takes in time are forgotten; the oldest are found first."""
    store = writer.store
    writer.batch(*(RecordUpload(_upload(n, created=NOW + n)) for n in (3, 1, 2, 4)))
    ids = [UUID(int=n) for n in range(1, 5)]
    assert store.unbound_uploads(NOW + 3, 2) == tuple(ids[:2])
    assert store.unbound_uploads(NOW + 3, 9) == tuple(ids[:3])
    writer.changed(AddMessage(CHAT, ANN, "x", (ids[0],)), now=NOW + 5)
    expired, _ = writer.one(ExpireUploads((*ids, UUID(int=99)), NOW + 3), now=NOW + 5)
    assert expired == UploadsExpired((ids[1], ids[2]))
    assert {upload.file.uuid for upload in store.uploads(ids)} == {ids[0], ids[3]}
    # The upload expired a second ago, but is not deleted yet.
    _refuses(writer, AddMessage(CHAT, ANN, "x", (ids[3],)), "attachment_unknown", now=NOW + 4 + 86_400)
    writer.changed(AddMessage(CHAT, ANN, "x", (ids[3],)), now=NOW + 3 + 86_400)


def _state(writer: _Writer) -> ChatState:
    state = writer.store.chat(CHAT)
    assert state is not None
    return state


def _refuses(writer: _Writer, operation: Operation, code: str, now: float = NOW) -> Refused:
    decision, _ = writer.one(operation, now)
    assert isinstance(decision, Refused), decision
    assert decision.code == code, decision
    return decision


def _check_bad_value(writer: _Writer) -> None:
    """An operation that can't be stored or decided is refused; the rest of its batch is stored in order."""
    no_text: object = object()
    decided = writer.batch(
        AddMessage(CHAT, ANN, "before", client_id="b"),
        AddMessage(CHAT, no_text, "bad"),  # type: ignore[arg-type]  # wrong on purpose
        AddMessage(CHAT, ANN, "after", client_id="a"),
        AddMessage(CHAT, ANN, "after", client_id="a"),
    )
    codes = [decision.code if isinstance(decision, Refused) else None for decision, _ in decided]
    assert codes == [None, "malformed", None, None]
    page = writer.store.after(CHAT, Role.USER, after=-1, limit=9)
    assert page is not None
    assert [(message.index, message.text) for message in page.messages] == [(0, "before"), (1, "after")]


def _check_recover(writer: _Writer) -> None:
    """`recover` knows only the last batch that the writer committed, and changes nothing."""
    batch = Batch("somebody", 7, NOW)
    assert not writer.store.recover(batch)
    writer.store.commit([AddMessage(CHAT, ANN, "x")], batch)
    assert writer.store.recover(batch)
    assert not writer.store.recover(attrs.evolve(batch, number=8))
    assert writer.store.recover(batch)
    chat = writer.store.chat(CHAT)
    assert chat is not None
    assert chat.rev == 1
    writer.talk("y")


def _check_edits(writer: _Writer) -> None:
    """An edit replaces the text wherever the message is read, also in the batch that adds it, and adds a revision."""
    [first, second] = writer.talk("helo", "world")
    edit = EditMessage(CHAT, ANN, first, "hello")
    changed = writer.changed(edit, NOW + 5)
    [edited] = changed.updated
    assert (edited.index, edited.text, edited.edited_at, edited.edit_rev) == (0, "hello", NOW + 5, 3)
    assert (changed.chat.rev, changed.chat.next_index, changed.messages, changed.chat_changed) == (3, 2, (), False)
    assert writer.one(edit, NOW + 6)[0] == Unchanged(changed.chat, edited)
    assert writer.store.located(second) == (CHAT, 1)
    assert writer.store.located(second + 1_000) is None
    for page in (
        writer.store.newest(CHAT, Role.USER, before=1, limit=9),
        writer.store.edited(CHAT, rev=2, limit=9),
        writer.store.edited(CHAT, rev=0, limit=9),
    ):
        assert page is not None
        assert page.messages == (edited,)
    # A repeated client_id still finds the message after its text has changed.
    send = AddMessage(CHAT, ANN, "onec", client_id="k")
    # Ids need not be consecutive: the edit has taken a number as well.
    third = writer.store.newest_number() + 1
    [(added, _), (again, _), (repeated, _)] = writer.batch(send, EditMessage(CHAT, ANN, third, "once"), send)
    assert isinstance(added, Changed)
    assert isinstance(again, Changed)
    assert repeated == Unchanged(again.chat, again.updated[0])
    assert writer.one(send)[0] == repeated
    page = writer.store.edited(CHAT, rev=0, limit=1)
    assert page is not None
    assert (page.messages, page.has_more) == ((edited,), True)
    refused = writer.batch(
        EditMessage(CHAT, ANN, first, ""),
        EditMessage(CHAT, BOB, first, "mine"),
        EditMessage(CHAT, EVE, first, "mine"),
        EditMessage(CHAT, ANN, third + 1_000, "none"),
        now=NOW + 7,
    )
    codes = [decision.code for decision, _ in refused if isinstance(decision, Refused)]
    assert codes == ["empty", "not_allowed", "not_allowed", "not_found"]
    [(late, _)] = writer.batch(EditMessage(CHAT, ANN, first, "late"), now=NOW + Policy().edit_within)
    assert isinstance(late, Refused)
    assert late.code == "too_late"


def _check_redactions(writer: _Writer) -> None:
    """A redaction removes the text and the files, and forgets the uploads. Index, author and counters stay."""
    upload = _upload(71)
    writer.batch(RecordUpload(upload))
    before = writer.changed(AddMessage(CHAT, ANN, "secret", (upload.file.uuid,)))
    note = writer.changed(AddMessage(CHAT, EVE, "note", type=MessageType.SYSTEM, type_role=Role.OPERATOR)).messages[0]
    message, unread = before.messages[0], writer.store.feed_snapshot({SHOP}, 1).counters
    for operation in (RedactMessage(CHAT, BOB, message.id), RedactMessage(CHAT, ANN, note.id, moderates=True)):
        assert isinstance(writer.one(operation)[0], Refused)
    changed = writer.changed(RedactMessage(CHAT, EVE, message.id, moderates=True), NOW + 10_000)
    [redacted] = changed.updated
    assert (redacted.text, redacted.attachments, redacted.redacted) == ("", (), True)
    assert (redacted.index, redacted.author, redacted.time) == (message.index, ANN, message.time)
    assert changed.removed == (upload.file.uuid,)
    assert writer.store.uploads((upload.file.uuid,)) == ()
    assert writer.store.feed_snapshot({SHOP}, 1).counters == unread
    page = writer.store.after(CHAT, Role.USER, after=-1, limit=9)
    assert page is not None
    assert page.messages == (redacted,)
    again = writer.one(RedactMessage(CHAT, ANN, message.id))[0]
    assert again == Unchanged(changed.chat, redacted)
    edit = writer.one(EditMessage(CHAT, ANN, message.id, "back"))[0]
    assert isinstance(edit, Refused)
    assert edit.code == "conflict"


_CHECKS: Final = (
    _check_order,
    _check_refusals,
    _check_idempotency,
    _check_refused_keys,
    _check_key_horizon,
    _check_reserve,
    _check_marks,
    _check_pages,
    _check_lists,
    _check_summaries,
    _check_documents,
    _check_order_of_lists,
    _check_people,
    _check_presence,
    _check_expiry,
    _check_retention,
    _check_memberships,
    _check_uploads,
    _check_expiring_uploads,
    _check_edits,
    _check_redactions,
    _check_bad_value,
    _check_recover,
)


def _check_capacity_and_due(open_store: OpenStore) -> None:
    """Capacity is checked against the counters in the transaction. Overdue chats are found, the most overdue first."""
    policy = Policy(capacity=1, idle_timeout=100, answer_timeout=10)
    with open_store(policy) as store:
        writer = _Writer(store)
        writer.batch(*_RECORDS)
        chats = [UUID(int=n) for n in (1, 2, 3)]
        for n, (chat, owner) in enumerate(zip(chats, (ANN, BOB, User(3, Role.USER)), strict=True)):
            writer.batch(ReserveChat(chat, SHOP, owner), AddMessage(chat, owner, "hi"), now=NOW + n)
        decided = writer.batch(AcceptChat(chats[0], EVE), AcceptChat(chats[1], EVE), now=NOW + 3)
        assert isinstance(decided[0][0], Changed)
        assert isinstance(decided[1][0], Refused)
        assert decided[1][0].code == "over_capacity"
        # The whole answer time counts from the accept. Without an operator no timer runs.
        assert store.due(NOW + 12, 9) == ()
        assert store.due(NOW + 13, 9) == (chats[0],)
        assert store.due(NOW + 1_000, 9) == (chats[0],)
        writer.batch(AddMessage(chats[1], FAY, "hello"), now=NOW + 3)
        assert store.due(NOW + 103, 1) == (chats[0],)
        assert store.due(NOW + 103, 9) == (chats[0], chats[1])
        writer.batch(*map(SweepChat, chats), now=NOW + 102.9)
        assert store.due(NOW + 1_000, 9) == (chats[1],)
        writer.batch(*map(SweepChat, chats), now=NOW + 103)
        assert store.due(NOW + 1_000, 9) == ()
        stages = [chat.stage for chat in map(store.chat, chats) if chat is not None]
        assert stages == [Stage.NEW, Stage.CLOSED, Stage.NEW]
        # The second in which the chat is accepted does not count towards the answer time.
        writer.batch(AcceptChat(chats[2], EVE), now=NOW + 110.5)
        assert store.due(NOW + 120.9, 9) == ()
        assert store.due(NOW + 121, 9) == (chats[2],)


def _check_random_sessions(open_store: OpenStore, seed: int) -> None:
    """After any operations the counters are the sum of what the chats contribute, and their revisions have no gaps."""
    chance = random.Random(seed)  # noqa: S311 - seeded, to be repeatable
    with open_store(Policy(capacity=2)) as store:
        writer = _Writer(store)
        writer.batch(*_RECORDS)
        latest: dict[object, OperatorCounters | SourceCounters] = {}
        operations = iter(random_operations(seed, 300))
        while batch := [operation for _, operation in zip(range(chance.randrange(1, 40)), operations, strict=False)]:
            for _, counters in writer.batch(*batch):
                for one in counters:
                    key = one.operator_id if isinstance(one, OperatorCounters) else one.source
                    known = latest.get(key)
                    assert one.rev == (1 if known is None else known.rev + 1)
                    latest[key] = one
        shares = [contribution(chat) for chat in store.chats(ChatFilter(limit=1_000)).chats]
        for record in store.operators(None):
            theirs = [share for share in shares if share.operator_id == record.person.user.id]
            expected = (sum(share.new for share in theirs), sum(share.open for share in theirs))
            assert (record.counters.new_chats, record.counters.open_chats) == expected
            assert record.counters == latest.get(record.person.user.id, record.counters)
        [counter] = store.feed_snapshot([SHOP], 1).counters
        assert counter.unread_chats == sum(share.unread for share in shares)
        assert counter == latest.get(SHOP, counter)


def _check_reopened_accounts(open_store: OpenStore) -> None:
    """A store that is opened again still has every account, sign-in and sign-out."""
    with open_store(Policy()) as store:
        store_accounts(_Writer(store).decision)
    with open_store(Policy()) as store:
        check_stored_accounts(store, _Writer(store, "second").decision)


def _check_reopening(open_store: OpenStore) -> None:
    """A store that is opened again still has every id, key, counter and batch, and reuses no id."""
    send = AddMessage(CHAT, ANN, "kept", client_id="k")
    batch = Batch("first", 1, NOW)
    with open_store(Policy()) as store:
        writer = _Writer(store)
        writer.batch(*_RECORDS, ReserveChat(CHAT, SHOP, ANN))
        writer.talk("a", "b")
        writer.batch(*(AddMessage(CHAT, EVE, "x", client_id=str(n)) for n in range(300)))
        writer.batch(RecordUpload(_upload(1)), RecordUpload(_upload(2)))
        writer.talk("c")
        filed = writer.changed(AddMessage(CHAT, ANN, "filed", (UUID(int=1),), "f"))
        writer.batch(SetOnline(EVE.id, True), SetOnline(EVE.id, False))
        [(first, _)] = store.commit([send], batch)
        assert isinstance(first, Changed)
        before = (store.chat(CHAT), store.feed_snapshot([SHOP], 9), store.operators(None))
    with open_store(Policy(answer_timeout=5)) as store:
        assert store.corrected_counters == 0
        assert before == (store.chat(CHAT), store.feed_snapshot([SHOP], 9), store.operators(None))
        assert store.due(NOW + 4.9, 9) == ()
        assert store.due(NOW + 5, 9) == (CHAT,)
        writer = _Writer(store, "second")
        assert writer.one(send)[0] == Unchanged(first.chat, first.messages[0])
        again, _ = writer.one(AddMessage(CHAT, ANN, "filed", (UUID(int=1),), "f"))
        assert again == Unchanged(first.chat, filed.messages[0])
        _refuses(writer, AddMessage(CHAT, ANN, "x", (UUID(int=1),)), "attachment_unknown")
        assert store.unbound_uploads(NOW, 9) == (UUID(int=2),)
        for n, known in ((43, False), (45, True), (299, True)):
            again, _ = writer.one(AddMessage(CHAT, EVE, "x", client_id=str(n)))
            assert isinstance(again, Unchanged if known else Changed)
        assert writer.changed(AddMessage(CHAT, ANN, "new")).messages[0].id > first.messages[0].id
        assert store.recover(batch)
    with open_store(Policy()) as store:
        # The first batch after opening continues the stored ids and counters, and knows the people's names.
        writer = _Writer(store, "third")
        decided = writer.batch(ReserveChat(UUID(int=2), SHOP, BOB), AddMessage(UUID(int=2), BOB, "hi"))
        assert decided[1][1] == (SourceCounters(SHOP, 2, 2),)
    with open_store(Policy()) as store:
        unchanged, _ = _Writer(store, "fourth").one(ReserveChat(UUID(int=3), SHOP, ANN))
        assert isinstance(unchanged, Unchanged)
        assert (unchanged.chat.owner, unchanged.chat.operator) == (ANN, EVE)


def random_operations(seed: int, number: int) -> Iterator[Operation]:
    """Yield `number` operations of two visitors and two operators on a few chats at the source "shop".

    Most of them are valid. The same seed gives the same operations.
    """
    chance = random.Random(seed)  # noqa: S311 - seeded, to be repeatable
    chats = [UUID(int=n) for n in range(1, 6)]
    visitors, operators = (ANN, BOB, GUEST), (EVE, FAY)
    for _ in range(number):
        chat, visitor, operator = chance.choice(chats), chance.choice(visitors), chance.choice(operators)
        either = chance.choice((visitor, operator))
        # An anonymous visitor is deleted with an unused chat, and no visitor may write in another's chat.
        author = ANN if either is GUEST else either
        key = f"k{chance.randrange(20)}"
        text = chance.choice(("hello", "there"))
        yield chance.choice(
            (
                ReserveChat(chat, SHOP, visitor),
                ReserveChat(chat, SHOP, visitor, chance.choice((None, Refused("rate_limited", "slowly", 1.0)))),
                ExpireChat(chat, NOW + chance.randrange(30), chance.random() < 0.3),
                AddMessage(chat, author, text, client_id=key),
                AddMessage(chat, author, text),
                AddMessage(chat, operator, text, type=MessageType.SYSTEM, type_role=Role.OPERATOR),
                MarkMessage(chat, either, chance.randrange(80), chance.random() < 0.5),
                AcceptChat(chat, operator),
                CloseChat(chat, author),
                ReopenChat(chat, author),
                TransferChat(chat, operator, chance.choice((EVE.id, FAY.id, 99))),
                ReturnChat(chat, operator),
                ReleaseChat(chat, operator.id),
                RecordPerson(
                    attrs.evolve(either, lastname=text),
                    frozenset({"lastname"}),
                    frozenset({chance.choice((SHOP, "mall"))}),
                    NOW + chance.randrange(600),
                    key,
                    chance.choice((None, NOW + chance.random())),
                ),
                SetOnline(operator.id, chance.random() < 0.5),
                EndLeaving(operator.id),
                SweepChat(chat),
                RefreshPeople(chat),
                SetTags(chat, chance.choice(((), ("a",), ("a", "b")))),
                ReplaceTag(chat, "a", chance.choice((None, "b", "c"))),
                HandOver(GUEST.id, chance.choice((ANN, BOB)), NOW + 1.0),
            )
        )
