"""Checks that a store keeps its promises: every implementation passes `check_store`."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final
from uuid import UUID

import attrs

from actorchat.chat.model import (
    OperatorCounters,
    Policy,
    SourceCounters,
    Stage,
    contribution,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    RecordUpload,
    Refused,
    ReserveChat,
    SetOnline,
    SweepChat,
    Unchanged,
)
from actorchat.chat.ports import ChatFilter
from actorchat.protocol import Role, User
from actorchat.storage.store import Batch
from actorchat.testing._account_checks import (
    check_accounts,
    check_blocks,
    check_sessions,
    check_sign_out,
    check_stored_accounts,
    store_accounts,
)
from actorchat.testing._hand_over_checks import check_hand_over
from actorchat.testing._lifetime_checks import (
    check_expiring_uploads,
    check_expiry,
    check_reserve,
    check_retention,
    check_uploads,
)
from actorchat.testing._list_checks import (
    check_lists,
    check_order_of_lists,
    check_pages,
    check_seeded_walk,
    check_summaries,
)
from actorchat.testing._message_checks import (
    check_bad_value,
    check_edits,
    check_idempotency,
    check_key_horizon,
    check_marks,
    check_order,
    check_redactions,
    check_refusals,
    check_refused_keys,
)
from actorchat.testing._people_checks import check_documents, check_memberships, check_people, check_presence
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
    new_upload,
    random_operations,
    refuses,
)

__all__ = ["check_store"]


def check_store(fresh: Callable[[], OpenStore], *, durable: bool = True) -> None:
    """Check that a store keeps the promises of `actorchat.storage.Store` and `actorchat.chat.ports.ChatReader`.

    Each call of `fresh` returns a function that opens a new, empty store. `durable=False` leaves out the checks that
    open a store a second time. Raises AssertionError.
    """
    for check in _CHECKS:
        with fresh()(Policy()) as store:
            writer = StoreWriter(store)
            writer.batch(*RECORDS, ReserveChat(CHAT, SHOP, ANN))
            check(writer)
    for account_check in (check_accounts, check_sessions, check_sign_out, check_blocks):
        with fresh()(Policy()) as store:
            account_check(store, StoreWriter(store).decision)
    with fresh()(Policy()) as store:
        check_hand_over(store, StoreWriter(store).batch)
    _check_capacity_and_due(fresh())
    for seed in range(5):
        _check_random_sessions(fresh(), seed)
        check_seeded_walk(fresh(), seed)
    if durable:
        _check_reopening(fresh())
        _check_reopened_accounts(fresh())


def _check_recover(writer: StoreWriter) -> None:
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


def _check_capacity_and_due(open_store: OpenStore) -> None:
    """Capacity is checked against the counters in the transaction. Overdue chats are found, the most overdue first."""
    policy = Policy(capacity=1, idle_timeout=100, answer_timeout=10)
    with open_store(policy) as store:
        writer = StoreWriter(store)
        writer.batch(*RECORDS)
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
        writer = StoreWriter(store)
        writer.batch(*RECORDS)
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
        store_accounts(StoreWriter(store).decision)
    with open_store(Policy()) as store:
        check_stored_accounts(store, StoreWriter(store, "second").decision)


def _check_reopening(open_store: OpenStore) -> None:
    """A store that is opened again still has every id, key, counter and batch, and reuses no id."""
    send = AddMessage(CHAT, ANN, "kept", client_id="k")
    batch = Batch("first", 1, NOW)
    with open_store(Policy()) as store:
        writer = StoreWriter(store)
        writer.batch(*RECORDS, ReserveChat(CHAT, SHOP, ANN))
        writer.talk("a", "b")
        writer.batch(*(AddMessage(CHAT, EVE, "x", client_id=str(n)) for n in range(300)))
        writer.batch(RecordUpload(new_upload(1)), RecordUpload(new_upload(2)))
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
        writer = StoreWriter(store, "second")
        assert writer.one(send)[0] == Unchanged(first.chat, first.messages[0])
        again, _ = writer.one(AddMessage(CHAT, ANN, "filed", (UUID(int=1),), "f"))
        assert again == Unchanged(first.chat, filed.messages[0])
        refuses(writer, AddMessage(CHAT, ANN, "x", (UUID(int=1),)), "attachment_unknown")
        assert store.unbound_uploads(NOW, 9) == (UUID(int=2),)
        for n, known in ((43, False), (45, True), (299, True)):
            again, _ = writer.one(AddMessage(CHAT, EVE, "x", client_id=str(n)))
            assert isinstance(again, Unchanged if known else Changed)
        assert writer.changed(AddMessage(CHAT, ANN, "new")).messages[0].id > first.messages[0].id
        assert store.recover(batch)
    with open_store(Policy()) as store:
        # The first batch after opening continues the stored ids and counters, and knows the people's names.
        writer = StoreWriter(store, "third")
        decided = writer.batch(ReserveChat(UUID(int=2), SHOP, BOB), AddMessage(UUID(int=2), BOB, "hi"))
        assert decided[1][1] == (SourceCounters(SHOP, 2, 2),)
    with open_store(Policy()) as store:
        unchanged, _ = StoreWriter(store, "fourth").one(ReserveChat(UUID(int=3), SHOP, ANN))
        assert isinstance(unchanged, Unchanged)
        assert (unchanged.chat.owner, unchanged.chat.operator) == (ANN, EVE)


_CHECKS: Final = (
    check_order,
    check_refusals,
    check_idempotency,
    check_refused_keys,
    check_key_horizon,
    check_reserve,
    check_marks,
    check_pages,
    check_lists,
    check_summaries,
    check_documents,
    check_order_of_lists,
    check_people,
    check_presence,
    check_expiry,
    check_retention,
    check_memberships,
    check_uploads,
    check_expiring_uploads,
    check_edits,
    check_redactions,
    check_bad_value,
    _check_recover,
)
