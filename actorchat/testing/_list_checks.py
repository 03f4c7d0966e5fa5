"""Checks the pages, lists and summaries of a store."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from uuid import UUID

import attrs

from actorchat.chat.model import (
    OperatorCounters,
    Policy,
    Stage,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    CloseChat,
    MarkMessage,
    Operation,
    RecordPerson,
    Refused,
    ReopenChat,
    ReplaceTag,
    ReserveChat,
    SetTags,
    TransferChat,
)
from actorchat.chat.ports import MOST_UNREAD, ChatFilter, Page
from actorchat.protocol import MessageType, Role, User
from actorchat.storage.store import Store
from actorchat.testing._store_writer import (
    ANN,
    BOB,
    CHAT,
    EVE,
    FAY,
    NOW,
    RECORDS,
    SHOP,
    OpenStore,
    StoreWriter,
    random_operations,
)

__all__ = [
    "check_lists",
    "check_order_of_lists",
    "check_pages",
    "check_seeded_walk",
    "check_summaries",
    "check_walk",
]


def check_pages(writer: StoreWriter) -> None:
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


def check_lists(writer: StoreWriter) -> None:
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


def check_summaries(writer: StoreWriter) -> None:
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


def check_order_of_lists(writer: StoreWriter) -> None:
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


def check_seeded_walk(open_store: OpenStore, seed: int) -> None:
    """Paging through a list shows each chat that matches all the time exactly once, whatever happens between pages."""
    chance = random.Random(seed)  # noqa: S311 - seeded, to be repeatable
    with open_store(Policy()) as store:
        writer = StoreWriter(store)
        writer.batch(*RECORDS)
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
