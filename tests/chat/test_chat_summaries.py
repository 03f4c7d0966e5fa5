"""Extended consoles get a summary of each chat, and another one soon after the chat has changed."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import operator_feed
from actorchat.chat.model import Policy
from actorchat.chat.operations import AcceptChat, AddMessage, CloseChat, ReopenChat, SetTags
from actorchat.chat.ports import StorageDamaged, StorageUnavailable, SummaryRecord
from actorchat.protocol import (
    ChatStatus,
    ChatSummary,
    CloseCode,
    Closing,
    FeedReady,
    LastMessage,
    MarkMessageRead,
    MessageAdded,
    MessageType,
    Profile,
    Role,
    User,
    wire_time,
)
from actorchat.storage.async_reader import AsyncReader
from tests.chat.harness import ChatHarness, Socket, open_chat
from tests.chat.people import ANNA, BORIS, OLGA, PETR


async def written(harness: ChatHarness, text: str, owner: User = ANNA) -> UUID:
    """A chat of `owner` with one message."""
    chat = await harness.reserve(owner)
    await harness.chats.perform(AddMessage(chat, owner, text))
    return chat


def last_summary(console: Socket) -> ChatSummary:
    return console.recorder.got(ChatSummary)[-1]


async def test_the_snapshot_has_a_summary_of_each_chat_before_feed_ready(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        await trio.sleep(100)
        chats = [await written(harness, "hi"), await written(harness, "x" * 161, BORIS)]
        olga = await harness.console(OLGA)
        types = olga.recorder.types()
        assert types[-5:] == ["chat_updated", "chat_updated", "chat_summary", "chat_summary", "feed_ready"]
        first, second = olga.recorder.got(ChatSummary)
        assert [first.chat.uuid, second.chat.uuid] == chats
        assert first == ChatSummary(
            chat=(await harness.state(chats[0])).wire(),
            last=LastMessage("hi", Role.USER, "Anna", MessageType.STANDARD, wire_time(100)),
            unread=1,
            waiting_since=wire_time(100),
            activity=wire_time(100),
            created=wire_time(100),
            tags=(),
            viewers=(),
        )
        assert second.last is not None
        assert second.last.text == "x" * 160


async def test_a_strict_console_gets_no_summaries(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await written(harness, "hi")
        olga = await harness.console(OLGA, profile=Profile.STRICT)
        await harness.chats.perform(AddMessage(chat, ANNA, "more"))
        await trio.sleep(1)
        assert "chat_summary" not in olga.recorder.types()


async def test_each_change_of_a_chat_brings_a_new_summary(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        console = await harness.console(PETR)
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        await trio.sleep(1)
        assert console.recorder.got(ChatSummary) == []
        anna.say("one")
        anna.say("two")
        await trio.sleep(1)
        shown = last_summary(console)
        assert (shown.unread, shown.viewers, shown.waiting_since) == (2, (OLGA,), wire_time(1))
        ids = [event.message.id for event in anna.recorder.got(MessageAdded)]
        olga.receiver.receive(MarkMessageRead(ids[0]))
        await trio.sleep(1)
        # No counter changes by this, as the chat is still unread.
        assert last_summary(console).unread == 1
        olga.receiver.receive(MarkMessageRead(ids[1]))
        await trio.sleep(1)
        assert last_summary(console).unread == 0
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await trio.sleep(1)
        assert last_summary(console).chat.status is ChatStatus.OPEN
        olga.say("hello")
        await trio.sleep(1)
        assert last_summary(console).last == LastMessage(
            "hello", Role.OPERATOR, "Olga", MessageType.STANDARD, wire_time(5)
        )
        assert last_summary(console).waiting_since is None
        await harness.chats.perform(SetTags(chat, ("a", "b")))
        await trio.sleep(1)
        assert last_summary(console).tags == ("a", "b")
        await harness.chats.perform(CloseChat(chat, OLGA))
        await trio.sleep(1)
        assert last_summary(console).chat.status is ChatStatus.CLOSED


async def test_the_summary_of_a_closed_chat_says_who_closed_it_and_when(autojump_clock: MockClock) -> None:
    async with open_chat(policy=Policy(idle_timeout=60)) as harness:
        console = await harness.console(PETR)
        chat = await written(harness, "hi")
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await trio.sleep(1)
        assert last_summary(console).closed is None
        await harness.chats.perform(CloseChat(chat, OLGA))
        await harness.chats.perform(AddMessage(chat, OLGA, "a note", type=MessageType.SYSTEM, type_role=Role.OPERATOR))
        await trio.sleep(1)
        assert last_summary(console).closed == Closing(OLGA, wire_time(1))
        await harness.chats.perform(ReopenChat(chat, ANNA))
        await trio.sleep(1)
        assert last_summary(console).closed is None
        await harness.chats.perform(AddMessage(chat, OLGA, "hello"))
        await trio.sleep(70)
        assert last_summary(console).chat.status is ChatStatus.CLOSED
        closed = last_summary(console).closed
        assert closed is not None
        assert closed.user is None


async def test_operators_that_open_and_leave_a_room_are_its_viewers(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await written(harness, "hi")
        console = await harness.console(PETR)
        tabs = [await harness.join(chat, OLGA), await harness.join(chat, OLGA)]
        await harness.join(chat, ANNA)
        await trio.sleep(1)
        assert [summary.viewers for summary in console.recorder.got(ChatSummary)] == [(), (OLGA,)]
        await harness.leave(tabs[0])
        await trio.sleep(1)
        assert last_summary(console).viewers == (OLGA,)
        await harness.leave(tabs[1])
        await trio.sleep(1)
        assert last_summary(console).viewers == ()


async def test_a_chat_has_at_most_four_summaries_a_second_and_the_last_is_right(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        console = await harness.console(OLGA)
        chat = await written(harness, "first")
        for n in range(200):
            await harness.chats.perform(AddMessage(chat, ANNA, f"{n}"))
            await trio.sleep(0.01)
        await trio.sleep(1)
        shown = console.recorder.got(ChatSummary)
        assert 4 <= len(shown) <= 10
        assert (shown[-1].unread, shown[-1].last and shown[-1].last.text) == (201, "199")


async def test_more_chats_than_are_read_at_once_all_get_their_summary(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_feed, "SUMMARIES_AT_ONCE", 2)
    async with open_chat() as harness:
        console = await harness.console(OLGA)
        begin = trio.current_time()
        chats = []
        for owner_id in range(11, 18):
            owner = await harness.person(User(owner_id, Role.USER, firstname="V"), frozenset())
            chats.append(await written(harness, "hi", owner))
        await trio.sleep(0.6)
        assert len(console.recorder.got(ChatSummary)) <= 6
        await trio.sleep(2)
        assert {summary.chat.uuid for summary in console.recorder.got(ChatSummary)} == set(chats)
        assert trio.current_time() > begin


async def test_a_console_is_closed_if_too_many_chats_change_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_feed, "SUMMARIES_DUE", 2)
    async with open_chat() as harness:
        extended, strict = await harness.console(OLGA), await harness.console(PETR, profile=Profile.STRICT)
        for owner_id in range(11, 18):
            owner = await harness.person(User(owner_id, Role.USER), frozenset())
            await written(harness, "hi", owner)
        await trio.sleep(1)
        assert (extended.recorder.closed, strict.recorder.closed) == (CloseCode.OVERLOADED, None)


async def test_what_changes_while_a_console_reads_its_snapshot_is_summarized_later(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as harness:
        chat = await written(harness, "before")
        other = await harness.console(PETR)
        whole = AsyncReader.summaries

        async def slowly(self: AsyncReader, chats: Sequence[UUID]) -> tuple[SummaryRecord, ...]:
            found = await whole(self, chats)
            await trio.sleep(2)
            return found

        monkeypatch.setattr(AsyncReader, "summaries", slowly)
        harness.nursery.start_soon(harness.console, OLGA)
        await trio.sleep(1)
        await harness.chats.perform(AddMessage(chat, ANNA, "after"))
        await trio.sleep(30)
        olga = next(view.session for view in harness.chats.consoles.views if view.session.user == OLGA)
        shown = [event for event in olga.events if isinstance(event, ChatSummary)]  # type: ignore[attr-defined]
        assert [event.last and event.last.text for event in shown] == ["before", "after"]
        assert last_summary(other).last == shown[-1].last


async def test_summaries_are_sent_when_storage_can_be_read_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = AsyncReader.summaries
    failures = [StorageUnavailable("as scripted"), RuntimeError("as scripted")]

    async def failing(self: AsyncReader, chats: Sequence[UUID]) -> tuple[SummaryRecord, ...]:
        if failures:
            raise failures.pop()
        return await whole(self, chats)

    async with open_chat() as harness:
        console = await harness.console(OLGA)
        monkeypatch.setattr(AsyncReader, "summaries", failing)
        await written(harness, "hi")
        await trio.sleep(1.5)
        assert console.recorder.got(ChatSummary) == []
        await trio.sleep(1)
        assert [shown.unread for shown in console.recorder.got(ChatSummary)] == [1]


async def test_a_damaged_chat_hides_no_summary_of_another(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = AsyncReader.summaries
    async with open_chat() as harness:
        damaged, sound = await written(harness, "hi"), await written(harness, "hello", BORIS)

        async def reading(self: AsyncReader, chats: Sequence[UUID]) -> tuple[SummaryRecord, ...]:
            if damaged in chats:
                raise StorageDamaged("as scripted")
            return await whole(self, chats)

        monkeypatch.setattr(AsyncReader, "summaries", reading)
        console = await harness.console(OLGA)
        assert [shown.chat.uuid for shown in console.recorder.got(ChatSummary)] == [sound]


async def test_the_timers_of_a_chat_show_in_its_summary(autojump_clock: MockClock) -> None:
    async with open_chat(Policy(answer_timeout=5)) as harness:
        chat = await written(harness, "hi")
        await harness.chats.perform(AcceptChat(chat, OLGA))
        console = await harness.console(OLGA)
        assert console.recorder.got(FeedReady) == [FeedReady(complete=True)]
        await trio.sleep(60)
        shown = last_summary(console)
        assert shown.chat.operator_user is None
        assert shown.last is not None
        assert (shown.last.role, shown.last.name, shown.last.type) == (None, "", MessageType.SYSTEM)
