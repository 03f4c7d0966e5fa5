"""An operator can read a room without being announced there."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from actorchat.chat.commands import RoomReceiver
from actorchat.chat.operations import AddMessage
from actorchat.protocol import (
    ChatSummary,
    ErrorEvent,
    MarkMessageDelivered,
    MarkMessageRead,
    MessageAdded,
    Ping,
    Pong,
    SendMessage,
    UpdateTyping,
    UserConnected,
)
from tests.chat.harness import ChatHarness, RecordingSession, open_chat
from tests.chat.people import ANNA, OLGA, PETR


async def read_quietly(
    harness: ChatHarness, chat: object, after: int | None = None
) -> tuple[RecordingSession, RoomReceiver]:
    recorder = RecordingSession(OLGA)
    receiver = await harness.chats.joining.room(recorder, chat, after, quiet=True)  # type: ignore[arg-type]
    return recorder, receiver


async def test_a_quiet_reader_is_a_viewer_and_not_present(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, petr = await harness.join(chat, ANNA), await harness.console(PETR)
        anna.say("hi")
        await trio.sleep(1)
        anna.recorder.take()
        olga, receiver = await read_quietly(harness, chat)
        await trio.sleep(1)
        assert petr.recorder.got(ChatSummary)[-1].viewers == (OLGA,)
        assert olga.take() == [UserConnected(ANNA)]
        anna.say("still there?")
        await trio.sleep(1)
        assert olga.texts() == ["still there?"]
        receiver.leave()
        await trio.sleep(10)
        assert petr.recorder.got(ChatSummary)[-1].viewers == ()
        assert anna.recorder.types() == ["message_added"]


async def test_a_quiet_reader_in_an_empty_room_gets_the_replay_only(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        olga, receiver = await read_quietly(harness, chat, after=-1)
        assert olga.types() == ["message_added", "receipts", "receipts", "chat_updated"]
        receiver.leave()


async def test_a_quiet_reader_marks_nothing_and_shows_no_typing(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        olga, receiver = await read_quietly(harness, chat)
        anna.say("hi")
        await trio.sleep(1)
        message_id = olga.got(MessageAdded)[0].message.id
        olga.take()
        anna.recorder.take()
        for command in (MarkMessageRead(message_id), MarkMessageDelivered(message_id), UpdateTyping("x", False)):
            assert receiver.receive(command) is False
        assert {event.code for event in olga.take() if isinstance(event, ErrorEvent)} == {"not_allowed"}
        receiver.receive(Ping(1))
        assert olga.take() == [Pong(1)]
        await trio.sleep(1)
        assert anna.recorder.take() == []
        # Writing is no longer reading quietly, but the operator decides that.
        receiver.receive(SendMessage("hello"))
        await trio.sleep(1)
        assert anna.recorder.texts() == ["hello"]
        receiver.leave()


async def test_a_room_stays_open_for_a_quiet_reader(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        olga, receiver = await read_quietly(harness, chat)
        await trio.sleep(600)
        await harness.chats.perform(AddMessage(chat, ANNA, "later"))
        await trio.sleep(1)
        assert olga.texts() == ["later"]
        receiver.leave()
        # And a second socket of the same operator that is not quiet is announced as always.
        anna = await harness.join(chat, ANNA)
        anna.recorder.take()
        await harness.join(chat, OLGA)
        assert anna.recorder.take() == [UserConnected(OLGA)]
