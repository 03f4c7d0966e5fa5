"""Messages with a repeated `client_id` are never refused while the message is, or may be, stored."""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.chat import ChatRefused, Limits
from actorchat.chat import room as room_module
from actorchat.chat import service as chats_module
from actorchat.chat.operations import AddMessage, Operation, Unchanged, Undecided
from actorchat.protocol import MessageAdded, MessageNotAdded
from actorchat.storage.store import Batch, DecisionAndCounters, Store
from actorchat.testing import CommitFault, FaultyStore
from tests.chat.harness import ChatHarness, Socket, open_chat
from tests.chat.people import ANNA, OLGA

ONE_A_WHILE = Limits(messages_per_second=0.1, burst=1)


def outcomes(socket: Socket) -> list[tuple[str | None, str]]:
    """The outcomes of the socket's messages in order: the key, and the refusal or the index."""
    found: list[tuple[str | None, str]] = []
    for event in socket.recorder.events:
        if isinstance(event, MessageAdded) and event.client_id is not None:
            found.append((event.client_id, str(event.message.message_index)))
        elif isinstance(event, MessageNotAdded):
            found.append((event.client_id, event.code))
    return found


async def perform(harness: ChatHarness, chat: UUID, text: str, key: str) -> int | str:
    """Send a message as an HTTP request does. Returns the index of the stored message, or the refusal."""
    try:
        decision = await harness.chats.perform(AddMessage(chat, ANNA, text, client_id=key))
    except ChatRefused as refused:
        return refused.code
    message = decision.message if isinstance(decision, Unchanged) else decision.messages[0]
    assert message is not None
    return message.index


async def test_over_the_rate_a_repeated_message_is_the_stored_one() -> None:
    async with open_chat(limits=ONE_A_WHILE) as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("one", "k")
        await harness.settle()
        for _ in range(2):
            # The room refuses the first message, the receiver itself the second.
            anna.say("two", "new")
            anna.say("one", "k")
            await harness.settle()
        assert outcomes(anna) == [("k", "0"), *[("new", "rate_limited"), ("k", "0")] * 2]
        assert [await perform(harness, chat, "one", "k"), await perform(harness, chat, "two", "new")] == [
            0,
            "rate_limited",
        ]
        assert anna.recorder.done == 5


async def test_over_the_rate_another_text_under_a_known_key_is_a_conflict() -> None:
    async with open_chat(limits=ONE_A_WHILE) as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        for text in ("one", "other", "other"):
            anna.say(text, "k")
            await harness.settle()
        assert outcomes(anna) == [("k", "0"), ("k", "conflict"), ("k", "conflict")]


async def test_a_message_that_became_too_long_is_still_the_stored_one(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/chat.db"
    async with open_chat(store=store) as harness:
        chat = await harness.reserve()
        assert await perform(harness, chat, "long", "k") == 0
    async with open_chat(store=store, limits=Limits(text_length=3)) as harness:
        anna = await harness.join(chat, ANNA)
        anna.say("long", "k")
        anna.say("long", "new")
        assert await perform(harness, chat, "long", "k") == 0
        assert outcomes(anna) == [("k", "0"), ("new", "too_long")]


async def test_a_full_server_refuses_only_after_earlier_messages_are_answered() -> None:
    async with open_chat(limits=Limits(messages_per_second=0, operations_in_flight=1)) as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("one", "k")
        anna.say("one", "k")
        await harness.settle()
        assert outcomes(anna) == [("k", "0"), ("k", "0")]
        anna.say("two", "two")
        assert [await perform(harness, chat, "one", "k"), await perform(harness, chat, "three", "new")] == [0, 2]


@pytest.mark.parametrize("bound", ["journal", "room"])
async def test_full_queues_refuse_only_after_waiting_messages_are_answered(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bound == "room":
        monkeypatch.setattr(room_module, "ROOM_IN_FLIGHT", 1)
    async with open_chat(capacity=1 if bound == "journal" else 10) as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("one", "k")
        anna.say("one", "k")
        await harness.settle()
        assert outcomes(anna) == [("k", "0"), ("k", "0")]
        anna.say("two", "two")
        anna.say("three", "three")
        await harness.settle()
        # A refusal may come before the echo of an earlier message.
        assert outcomes(anna)[2:] == [("three", "overloaded"), ("two", "1")]


async def test_a_socket_with_too_many_refusals_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room_module, "ROOM_IN_FLIGHT", 1)
    async with open_chat() as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        for _ in range(3):
            anna.say("one", "k")
        await harness.settle()
        assert (anna.recorder.closed, anna.recorder.done) == (1013, 3)
        assert not anna.recorder.got(MessageNotAdded)


async def test_a_room_whose_inbox_is_full_closes_instead_of_refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chats_module, "ROOM_INBOX", 1)
    async with open_chat() as harness:
        chat = await harness.reserve()
        olga, anna = await harness.join(chat, OLGA), await harness.join(chat, ANNA)
        # Messages wait until the room has handled this.
        harness.chats._rooms[chat].signal(room_module.Announce())
        anna.say("in the inbox", "k")
        anna.say("in the inbox", "k")
        olga.say("without a key")
        await harness.settle()
        assert anna.recorder.closed == 1013
        assert not anna.recorder.got(MessageNotAdded)
        assert [event.code for event in olga.recorder.got(MessageNotAdded)] == ["overloaded"]
        assert olga.recorder.closed is None
        assert olga.recorder.texts() == ["in the inbox"]


async def test_a_draining_server_answers_stored_repeats_and_refuses_new_messages() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("one", "k")
        await harness.chats.drain()
        anna.say("one", "k")
        anna.say("two", "new")
        await harness.settle()
        assert [await perform(harness, chat, "one", "k"), await perform(harness, chat, "two", "new")] == [0, "draining"]
        assert outcomes(anna) == [("k", "0"), ("k", "0"), ("new", "draining")]


@pytest.mark.parametrize("fault", [CommitFault.STORED, CommitFault.FORGOTTEN])
async def test_while_a_commit_is_uncertain_nothing_is_answered(fault: CommitFault, autojump_clock: MockClock) -> None:
    faults = [None] * 4 + [None, fault]

    def broken(store: Store) -> Store:
        return FaultyStore(store, faults, away_for=4)

    async with open_chat(faults=broken) as harness:
        chat = await harness.reserve()
        anna, tab = await harness.join(chat, ANNA), await harness.join(chat, ANNA)
        anna.say("one", "first")
        await harness.settle()
        anna.say("two", "k")
        await wait_all_tasks_blocked()
        for text, key in (("two", "k"), ("three", "new"), ("one", "first")):
            tab.say(text, key)
        await wait_all_tasks_blocked()
        assert outcomes(anna) == [("first", "0")]
        assert sorted(outcomes(tab)[1:]) == [("first", "0"), ("new", "storage_unavailable")]
        await trio.sleep(10)
        said = "1" if fault is CommitFault.STORED else "storage_unavailable"
        assert outcomes(anna)[1:] == [("k", said)]
        assert outcomes(tab)[3:] == [("k", said)] * (2 if fault is CommitFault.STORED else 1)
        assert anna.recorder.closed is tab.recorder.closed is None


async def test_without_any_storage_a_message_that_may_be_stored_waits_for_it(autojump_clock: MockClock) -> None:
    stores: list[FaultyStore] = []

    def broken(store: Store) -> Store:
        stores.append(FaultyStore(store, [None] * 5 + [CommitFault.AWAY], away_for=5))
        return stores[0]

    async with open_chat(faults=broken) as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("one", "k")
        await harness.settle()
        stores[0].unreadable, stores[0].remembers = True, False
        for text, key in (("two", None), ("one", "k"), ("three", "new")):
            anna.say(text, key)
        await wait_all_tasks_blocked()
        assert outcomes(anna)[1:] == [(None, "storage_unavailable")]
        stores[0].unreadable = False
        await trio.sleep(20)
        assert outcomes(anna)[2:] == [("k", "0"), ("new", "storage_unavailable")]
        assert anna.recorder.done == 4


async def test_an_unreadable_message_closes_its_socket_without_an_answer() -> None:
    def damaged(store: Store) -> Store:
        commit = store.commit

        def undecided(operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
            decided = commit(operations, batch)
            keys = [getattr(operation, "client_id", None) for operation in operations]
            return [(Undecided("damaged"), ()) if key else each for key, each in zip(keys, decided, strict=True)]

        store.commit = undecided  # type: ignore[method-assign] # the store of this test only
        return store

    async with open_chat(faults=damaged) as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("one", "k")
        with pytest.raises(ChatRefused, match=r"storage_unavailable: .*; it is not known whether .* same client_id"):
            await harness.chats.perform(AddMessage(chat, ANNA, "two", client_id="l"))
        assert (anna.recorder.closed, anna.recorder.done) == (1011, 1)
        assert not anna.recorder.got(MessageNotAdded)
