"""The feed: its snapshot, chats and their messages in order, counters and presence."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import joining
from actorchat.chat.model import Policy
from actorchat.chat.operations import AcceptChat, AddMessage, CloseChat
from actorchat.protocol import (
    ChatStatus,
    ChatUpdated,
    FeedReady,
    GlobalUpdated,
    MarkMessageRead,
    MessageAdded,
    MessageType,
    OperatorUpdated,
    Profile,
    Role,
    User,
)
from tests.chat.harness import Socket, open_chat
from tests.chat.people import ANNA, BORIS, OLGA, PETR


def last_operator(socket: Socket, operator_id: int) -> tuple[bool, int, int]:
    event = [each for each in socket.recorder.got(OperatorUpdated) if each.user.id == operator_id][-1]
    return event.is_online, event.new_chats, event.open_chats


async def test_a_reserved_chat_is_on_no_feed_until_its_first_message(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        olga = await harness.console(OLGA)
        anna = await harness.join(await harness.reserve(), ANNA)
        await trio.sleep(1)
        assert olga.recorder.got(ChatUpdated) == []
        olga.recorder.take()
        anna.say("hi")
        await trio.sleep(1)
        assert olga.recorder.types() == ["chat_updated", "message_added", "global_updated", "chat_summary"]


async def test_a_new_console_gets_operators_the_global_value_and_unclosed_chats(
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as harness:
        for owner, closed in ((ANNA, False), (BORIS, True)):
            chat = await harness.reserve(owner)
            await harness.chats.perform(AddMessage(chat, owner, "hi"))
            if closed:
                await harness.chats.perform(CloseChat(chat, owner))
        olga = await harness.console(OLGA)
        snapshot = ["operator_updated", "operator_updated", "global_updated", "chat_updated"]
        assert olga.recorder.types() == [*snapshot, "chat_summary", "feed_ready"]
        assert olga.recorder.got(FeedReady) == [FeedReady(complete=True)]
        assert [each.unread_chats for each in olga.recorder.got(GlobalUpdated)] == [1]
        assert [each.chat.owner_user.id for each in olga.recorder.got(ChatUpdated)] == [ANNA.id]


async def test_a_strict_console_gets_no_end_of_the_snapshot(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        olga = await harness.console(OLGA, profile=Profile.STRICT)
        assert olga.recorder.types() == ["operator_updated", "operator_updated", "global_updated"]


async def test_feed_ready_tells_that_the_snapshot_lacks_old_chats(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "FEED_SNAPSHOT", 2)
    async with open_chat() as harness:
        for owner_id, complete in ((11, True), (12, True), (13, False)):
            owner = await harness.person(User(owner_id, Role.USER), frozenset())
            await harness.chats.perform(AddMessage(await harness.reserve(owner), owner, "hi"))
            olga = await harness.console(OLGA)
            assert olga.recorder.got(FeedReady) == [FeedReady(complete)]
            shown = [event.chat.owner_user.id for event in olga.recorder.got(ChatUpdated)]
            assert shown == [11, 12, 13][max(0, owner_id - 12) : owner_id - 10]


async def test_live_events_follow_feed_ready(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        harness.nursery.start_soon(harness.console, PETR)
        anna.say("hi")
        olga = await harness.console(OLGA)
        anna.say("more")
        await trio.sleep(1)
        types = olga.recorder.types()
        assert olga.recorder.texts()[-1] == "more"
        assert "message_added" not in types[: types.index("feed_ready")]


async def test_counters_follow_what_happens_to_chats(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        console = await harness.console(PETR)
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        anna.say("hi")
        await trio.sleep(1)
        assert console.recorder.got(GlobalUpdated)[-1].unread_chats == 1
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await trio.sleep(1)
        assert last_operator(console, OLGA.id) == (False, 0, 1)
        olga.receiver.receive(MarkMessageRead(olga.recorder.got(MessageAdded)[0].message.id))
        await trio.sleep(1)
        assert console.recorder.got(GlobalUpdated)[-1].unread_chats == 0
        await harness.chats.perform(CloseChat(chat, OLGA))
        await trio.sleep(1)
        assert last_operator(console, OLGA.id) == (False, 0, 0)
        assert console.recorder.got(ChatUpdated)[-1].chat.status is ChatStatus.CLOSED


async def test_counters_are_sent_at_most_ten_times_a_second_the_latest_last(
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as harness:
        console = await harness.console(PETR)
        await trio.sleep(1)
        console.recorder.take()
        for number in range(30):
            chat = await harness.reserve(visitor(number))
            await harness.chats.perform(AddMessage(chat, visitor(number), "hi"))
            await trio.sleep(0.01)
        await trio.sleep(0.2)
        values = [each.unread_chats for each in console.recorder.got(GlobalUpdated)]
        assert values[-1] == 30
        assert len(values) <= 6


def visitor(number: int) -> User:
    return attrs.evolve(ANNA, id=1000 + number)


async def test_a_console_with_several_sources_sees_the_sum(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        both = frozenset({"lk", "shop"})
        await harness.person(OLGA, both)
        for source, owner in (("lk", ANNA), ("shop", BORIS)):
            chat, _ = await harness.chats.reserve_chat(source, owner)
            await harness.chats.perform(AddMessage(chat.uuid, owner, "hi"))
        console = await harness.console(OLGA, both)
        assert [each.unread_chats for each in console.recorder.got(GlobalUpdated)] == [2]
        chat, _ = await harness.chats.reserve_chat("shop", ANNA)
        await harness.chats.perform(AddMessage(chat.uuid, ANNA, "hi"))
        await trio.sleep(1)
        assert console.recorder.got(GlobalUpdated)[-1].unread_chats == 3


async def test_system_messages_are_never_on_the_feed(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        console = await harness.console(OLGA)
        chat = await harness.reserve()
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        note = AddMessage(chat, OLGA, "a note", type=MessageType.SYSTEM, type_role=Role.OPERATOR)
        await harness.chats.perform(note)
        await harness.chats.perform(CloseChat(chat, OLGA))
        await trio.sleep(1)
        assert console.recorder.texts() == ["hi"]


async def test_an_operator_is_online_with_its_first_console_and_offline_past_the_grace(
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as harness:
        petr, olga = await harness.console(PETR), await harness.console(OLGA)
        await trio.sleep(1)
        assert last_operator(petr, OLGA.id)[0]
        await harness.leave(olga)
        await trio.sleep(25)
        assert last_operator(petr, OLGA.id)[0]
        await trio.sleep(10)
        assert not last_operator(petr, OLGA.id)[0]


async def test_an_operator_that_reconnects_within_the_grace_period_stays_online(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        petr, olga = await harness.console(PETR), await harness.console(OLGA)
        await trio.sleep(1)
        petr.recorder.take()
        await harness.leave(olga)
        await trio.sleep(20)
        await harness.console(OLGA)
        await trio.sleep(60)
        assert [each for each in petr.recorder.got(OperatorUpdated) if each.user.id == OLGA.id] == []


async def test_the_chats_of_an_operator_gone_offline_go_back_to_the_queue(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        olga, petr = await harness.console(OLGA), await harness.console(PETR)
        chat = await harness.reserve()
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await harness.leave(olga)
        await trio.sleep(40)
        state = await harness.state(chat)
        assert (state.stage.value, state.operator) == ("new", None)
        assert last_operator(petr, OLGA.id) == (False, 0, 0)


async def test_an_operator_without_a_console_keeps_its_chats(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await trio.sleep(300)
        assert (await harness.state(chat)).operator is not None


async def test_idle_chats_are_closed_and_unanswered_ones_returned_by_themselves(autojump_clock: MockClock) -> None:
    async with open_chat(policy=Policy(answer_timeout=30, idle_timeout=600)) as harness:
        chat = await harness.reserve()
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        await trio.sleep(40)
        assert (await harness.state(chat)).stage.value == "new"
        # While the customer waits for an answer, the idle timer does not run.
        await trio.sleep(700)
        assert (await harness.state(chat)).stage.value == "new"
        await harness.chats.perform(AddMessage(chat, OLGA, "hello"))
        await trio.sleep(590)
        assert (await harness.state(chat)).stage.value == "open"
        await trio.sleep(20)
        assert (await harness.state(chat)).stage.value == "closed"


async def test_a_new_name_reaches_consoles_and_replays_after_a_cancelled_request(
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as harness:
        petr, chat = await harness.console(PETR), await harness.reserve()
        await harness.chats.perform(AddMessage(chat, OLGA, "hello"))
        await trio.sleep(1)
        with trio.CancelScope() as given_up:
            given_up.cancel()
            await harness.person(attrs.evolve(OLGA, firstname="Olya"))
        await trio.sleep(1)
        assert petr.recorder.got(OperatorUpdated)[-1].user.firstname == "Olya"
        resumed = await harness.join(chat, OLGA, after=-1)
        author = resumed.recorder.got(MessageAdded)[0].message.user
        assert author is not None
        assert author.firstname == "Olya"
