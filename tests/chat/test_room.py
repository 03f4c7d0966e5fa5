"""Room sockets: order, receipts, presence, typing, resume and refusals."""

from __future__ import annotations

import gc
import json
import weakref
from uuid import uuid4

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import ChatRefused, Limits
from actorchat.chat.model import Policy
from actorchat.chat.operations import AcceptChat, AddMessage, CloseChat, ReopenChat, TransferChat
from actorchat.chat.room_state import TAIL
from actorchat.protocol import (
    ChatStatus,
    ChatUpdated,
    ErrorEvent,
    Frames,
    MarkMessageDelivered,
    MarkMessageRead,
    MessageAdded,
    MessageNotAdded,
    MessageType,
    Profile,
    Receipts,
    Role,
    SendMessage,
    TypingUpdated,
    UnknownType,
    UpdateTyping,
    UserConnected,
    UserDisconnected,
)
from tests.chat.harness import ChatHarness, RecordingSession, Socket, open_chat
from tests.chat.people import ANNA, BORIS, OLGA, PETR


async def test_everybody_in_the_room_gets_each_message_once_in_index_order() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        for number in range(20):
            (anna if number % 3 else olga).say(str(number))
        await harness.settle()
        assert anna.recorder.indexes() == olga.recorder.indexes() == list(range(20))
        assert anna.recorder.texts() == olga.recorder.texts()


async def test_only_the_sending_users_sockets_see_the_client_id() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, tab, olga = [await harness.join(chat, user) for user in (ANNA, ANNA, OLGA)]
        strict = await harness.join(chat, ANNA, Profile.STRICT)
        anna.say("hi", "k1")
        await harness.settle()
        seen = [socket.recorder.got(MessageAdded)[0].client_id for socket in (anna, tab, olga, strict)]
        assert seen == ["k1", "k1", None, None]


async def test_a_repeated_client_id_is_answered_to_that_socket_alone() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, tab = await harness.join(chat, ANNA), await harness.join(chat, ANNA)
        anna.say("hi", "k1")
        await harness.settle()
        anna.say("hi", "k1")
        anna.say("other", "k1")
        await harness.settle()
        assert anna.recorder.indexes() == [0, 0]
        assert tab.recorder.indexes() == [0]
        assert [each.code for each in anna.recorder.got(MessageNotAdded)] == ["conflict"]
        assert anna.recorder.done == 3


async def test_a_refused_message_says_why_to_its_sender_alone() -> None:
    async with open_chat(limits=Limits(messages_per_second=0, text_length=5)) as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        anna.say("", "k0")
        anna.say("too long", "k1")
        await harness.settle()
        refusals = anna.recorder.got(MessageNotAdded)
        assert [(each.code, each.text, each.client_id) for each in refusals] == [
            ("empty", "", "k0"),
            ("too_long", "too long", "k1"),
        ]
        assert all(each.chat_id == chat and not each.retryable for each in refusals)
        assert olga.recorder.got(MessageNotAdded) == []


async def test_over_the_rate_messages_are_refused_with_a_time_to_wait() -> None:
    async with open_chat(limits=Limits(messages_per_second=1, burst=2)) as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        for number in range(3):
            anna.say(str(number))
        await harness.settle()
        (refusal,) = anna.recorder.got(MessageNotAdded)
        assert (refusal.code, refusal.retryable) == ("rate_limited", True)
        assert refusal.retry_after is not None
        assert 0 < refusal.retry_after <= 1


async def test_a_rate_limited_client_is_refused_without_asking_the_room(
    mock_clock: MockClock,
) -> None:
    async with open_chat(limits=Limits(messages_per_second=0.5, burst=1)) as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        anna.say("taken")
        anna.say("refused by the room")
        await harness.settle()
        mock_clock.jump(1.5)
        anna.say("refused at once")
        refusals = anna.recorder.got(MessageNotAdded)
        assert [each.text for each in refusals] == ["refused by the room", "refused at once"]
        assert refusals[1].retry_after == pytest.approx(0.5)
        mock_clock.jump(0.5)
        anna.say("taken again")
        await harness.settle()
        assert anna.recorder.texts() == ["taken", "taken again"]
        assert anna.recorder.done == 3


async def test_a_full_outbox_may_drop_typing_and_never_its_stop(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    droppable: list[tuple[str, bool]] = []
    push = RecordingSession.push

    def noted(self: RecordingSession, frames: Frames) -> None:
        droppable.extend((json.loads(payload)["type"], frames.typing) for payload in frames.payloads())
        push(self, frames)

    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, _, _ = await harness.join(chat, ANNA), await harness.join(chat, OLGA), await harness.console(PETR)
        anna.say("hello")
        await trio.sleep(1)
        monkeypatch.setattr(RecordingSession, "push", noted)
        anna.receiver.receive(UpdateTyping("h", False))
        await trio.sleep(10)
    typing = [may_drop for kind, may_drop in droppable if kind == "typing_updated"]
    assert typing == [True, True, False, False]


async def test_receive_distinguishes_refused_messages_accepted_ones_and_typing() -> None:
    async with open_chat(limits=Limits(messages_per_second=0.01, burst=1)) as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        receive = anna.receiver.receive
        accepted = [receive(SendMessage("taken")), receive(SendMessage("refused by the room"))]
        await harness.settle()
        at_once = [
            receive(SendMessage("refused")),
            receive(UnknownType("dance")),
            receive(UpdateTyping("typing", False)),
        ]
        assert (accepted, at_once) == ([True, True], [False, False, None])


async def test_the_rate_limit_applies_to_messages_only(mock_clock: MockClock) -> None:
    async with open_chat(limits=Limits(messages_per_second=0.5, burst=1)) as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        olga.say("mark me")
        for _ in range(2):
            anna.say("too many")
        await harness.settle()
        (message, _) = anna.recorder.got(MessageAdded)
        anna.receiver.receive(MarkMessageRead(message.message.id))
        await harness.settle()
        assert olga.recorder.got(Receipts)[-1].read == 0


async def test_a_draining_server_says_so_to_rate_limited_clients_too() -> None:
    async with open_chat(limits=Limits(messages_per_second=0.01, burst=1)) as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        for _ in range(2):
            anna.say("too many")
        await harness.settle()
        await harness.chats.drain()
        anna.say("too late")
        assert [each.code for each in anna.recorder.got(MessageNotAdded)] == ["rate_limited", "draining"]


async def test_another_operator_cannot_write_into_an_open_chat() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        olga, petr = await harness.join(chat, OLGA), await harness.join(chat, PETR)
        olga.say("mine")
        await harness.settle()
        petr.say("no, mine")
        await harness.settle()
        assert [each.code for each in petr.recorder.got(MessageNotAdded)] == ["not_owner"]
        assert olga.recorder.texts() == ["mine"]


async def test_system_messages_reach_only_their_role_live_in_history_and_on_resume() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        anna.say("hi")
        await harness.settle()
        note = AddMessage(chat, OLGA, "a note", type=MessageType.SYSTEM, type_role=Role.OPERATOR)
        await harness.chats.perform(note)
        await harness.settle()
        assert (anna.recorder.texts(), olga.recorder.texts()) == (["hi"], ["hi", "a note"])
        resumed = await harness.join(chat, ANNA, after=-1)
        assert resumed.recorder.texts() == ["hi"]
        page = await harness.chats.chat_reader.newest(chat, Role.USER, before=None, limit=50)
        assert page is not None
        assert [message.text for message in page.messages] == ["hi"]


async def messages_of(harness: ChatHarness, socket: Socket) -> list[int]:
    await harness.settle()
    return [event.message.id for event in socket.recorder.got(MessageAdded)]


async def test_a_mark_covers_all_earlier_messages_of_the_other_side_and_a_repeat_is_silent() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        strict = await harness.join(chat, ANNA, Profile.STRICT)
        for text in ("one", "two"):
            anna.say(text)
        olga.say("three")
        ids = await messages_of(harness, olga)
        for mark in (MarkMessageDelivered(ids[0]), MarkMessageRead(ids[1]), MarkMessageRead(ids[0])):
            olga.receiver.receive(mark)
            await harness.settle()
        assert strict.recorder.statuses() == [(0, "delivered"), (0, "read"), (1, "read")]
        receipts = [(each.role, each.delivered, each.read) for each in anna.recorder.got(Receipts)]
        assert receipts == [(Role.OPERATOR, 0, -1), (Role.OPERATOR, 1, 1)]


@pytest.mark.parametrize("which", ["own", "unknown", "foreign"])
async def test_a_mark_of_an_unmarkable_message_is_an_error_on_extended_sockets(which: str) -> None:
    async with open_chat() as harness:
        chat, other = await harness.reserve(), await harness.reserve(BORIS)
        anna, strict = await harness.join(chat, ANNA), await harness.join(chat, ANNA, Profile.STRICT)
        boris = await harness.join(other, BORIS)
        anna.say("hi")
        boris.say("elsewhere")
        ids = {
            "own": (await messages_of(harness, anna))[0],
            "unknown": 999,
            "foreign": (await messages_of(harness, boris))[0],
        }
        strict.recorder.take()
        for socket in (anna, strict):
            socket.receiver.receive(MarkMessageRead(ids[which]))
        await harness.settle()
        code = "not_markable" if which == "own" else "message_not_found"
        assert [each.code for each in anna.recorder.got(ErrorEvent)] == [code]
        assert strict.recorder.take() == []


async def test_receipts_for_messages_read_from_storage_come_in_index_order() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        strict = await harness.join(chat, ANNA, Profile.STRICT)
        count = TAIL * 3
        for number in range(count):
            anna.say(str(number))
        ids = await messages_of(harness, olga)
        strict.recorder.take()
        olga.receiver.receive(MarkMessageRead(ids[-1]))
        olga.say("answer")
        await harness.settle()
        assert strict.recorder.statuses() == [(index, "read") for index in range(count)]
        assert strict.recorder.types()[-1] == "message_added"
        anna.say("live again")
        await harness.settle()
        assert strict.recorder.texts() == ["answer", "live again"]


async def test_presence_events_follow_a_users_first_and_last_socket_with_grace(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        assert [each.user.id for each in anna.recorder.got(UserConnected)] == [ANNA.id]
        olga = await harness.join(chat, OLGA)
        second = await harness.join(chat, OLGA)
        assert [each.user.id for each in second.recorder.got(UserConnected)] == [ANNA.id, OLGA.id]
        assert [each.user.id for each in anna.recorder.got(UserConnected)] == [ANNA.id, OLGA.id]
        await harness.leave(olga)
        await trio.sleep(6)
        assert anna.recorder.got(UserDisconnected) == []
        await harness.leave(second)
        await trio.sleep(4)
        back = await harness.join(chat, OLGA)
        await trio.sleep(10)
        assert anna.recorder.got(UserDisconnected) == []
        await harness.leave(back)
        await trio.sleep(6)
        assert [each.user.id for each in anna.recorder.got(UserDisconnected)] == [OLGA.id]


async def test_typing_reaches_the_feed_with_its_text_and_the_other_role_without(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga, petr = await harness.join(chat, ANNA), await harness.join(chat, OLGA), await harness.console(PETR)
        anna.say("hi")
        await harness.settle()
        anna.receiver.receive(UpdateTyping("secr", stopped=False))
        anna.receiver.receive(UpdateTyping("secret", stopped=False))
        await trio.sleep(1)
        shown = [(each.text, each.stopped) for each in petr.recorder.got(TypingUpdated)]
        assert shown == [("secr", False), ("secret", False)]
        assert [each.text for each in olga.recorder.got(TypingUpdated)] == ["", ""]
        assert anna.recorder.got(TypingUpdated) == []
        await trio.sleep(7)
        assert [each.stopped for each in petr.recorder.got(TypingUpdated)] == [False, False, True]


@pytest.mark.parametrize("how", ["send", "leave", "close"])
async def test_typing_stops_when_the_user_does_something_else(how: str, autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, petr = await harness.join(chat, ANNA), await harness.console(PETR)
        anna.say("hi")
        await harness.settle()
        anna.receiver.receive(UpdateTyping("h", stopped=False))
        await trio.sleep(0.5)
        if how == "send":
            anna.say("hello")
        elif how == "leave":
            anna.scope.cancel()
        else:
            await harness.chats.perform(CloseChat(chat, OLGA))
        await trio.sleep(0.5)
        assert [each.stopped for each in petr.recorder.got(TypingUpdated)] == [False, True]


async def test_closing_sends_a_system_message_and_to_extended_sockets_the_chat() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, strict = await harness.join(chat, ANNA), await harness.join(chat, ANNA, Profile.STRICT)
        anna.say("hi")
        await harness.settle()
        await harness.chats.perform(CloseChat(chat, OLGA))
        await harness.settle()
        assert strict.recorder.got(MessageAdded)[-1].message.chat.status is ChatStatus.CLOSED
        assert strict.recorder.got(ChatUpdated) == []
        assert anna.recorder.got(ChatUpdated)[-1].chat.status is ChatStatus.CLOSED


@pytest.mark.parametrize("missed", [0, 5, TAIL + 50, 350])
async def test_resume_gives_missed_messages_then_receipts_and_the_chat_then_live(missed: int) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        for number in range(missed + 1):
            olga.say(str(number))
        await harness.settle()
        resumed = await harness.join(chat, ANNA, after=0)
        olga.say("live")
        await harness.settle()
        assert resumed.recorder.indexes() == list(range(1, missed + 2))
        kinds = [kind for kind in resumed.recorder.types() if kind != "message_added"]
        assert kinds == ["user_connected", "user_connected", "receipts", "receipts", "chat_updated"]
        assert resumed.recorder.types()[-1] == "message_added"
        assert anna.recorder.indexes() == list(range(missed + 2))


async def test_resume_in_a_talking_room_has_no_gap_and_no_duplicate(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        olga = await harness.join(chat, OLGA)
        for number in range(400):
            olga.say(f"before {number}")
        await harness.settle()

        async def talk() -> None:
            for number in range(200):
                olga.say(f"meanwhile {number}")
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            resumed = await harness.join(chat, ANNA, after=-1)
        await harness.settle()
        assert resumed.recorder.indexes() == list(range(600))


async def test_an_idle_room_sleeps_and_wakes_without_losing_anything(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("one")
        await harness.leave(anna)
        await trio.sleep(300)
        assert not any(str(chat) in str(info.name) for info in harness.system.tree())
        await harness.chats.perform(AcceptChat(chat, OLGA))
        again = await harness.join(chat, ANNA, after=-1)
        again.say("two")
        await harness.settle()
        assert again.recorder.texts() == ["one", "two"]


async def test_an_operation_on_a_chat_that_does_not_exist_is_refused() -> None:
    async with open_chat() as harness:
        with pytest.raises(ChatRefused) as refused:
            await harness.chats.perform(AcceptChat(uuid4(), OLGA))
        assert refused.value.code == "not_found"


async def test_a_draining_server_finishes_accepted_messages_and_refuses_new_ones() -> None:
    async with open_chat() as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        for number in range(50):
            anna.say(str(number))
        await harness.chats.drain()
        anna.say("too late")
        assert anna.recorder.indexes() == list(range(50))
        assert [each.code for each in anna.recorder.got(MessageNotAdded)] == ["draining"]


async def test_transfer_tells_each_role_in_its_own_system_message() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        olga.say("hi")
        await harness.settle()
        await harness.chats.perform(TransferChat(chat, OLGA, PETR.id))
        await harness.settle()
        for socket, role in ((anna, Role.USER), (olga, Role.OPERATOR)):
            message = socket.recorder.got(MessageAdded)[-1].message
            assert (message.type, message.type_role) == (MessageType.SYSTEM, role)
            assert message.chat.operator_user is not None
            assert message.chat.operator_user.id == PETR.id


async def test_a_full_operator_is_refused_a_further_chat() -> None:
    async with open_chat(policy=Policy(capacity=1)) as harness:
        first, second = await harness.reserve(), await harness.reserve(BORIS)
        await harness.chats.perform(AcceptChat(first, OLGA))
        with pytest.raises(ChatRefused) as refused:
            await harness.chats.perform(AcceptChat(second, OLGA))
        assert refused.value.code == "over_capacity"


async def test_a_new_name_is_shown_in_replays(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("hi")
        await harness.settle()
        await harness.person(attrs.evolve(ANNA, firstname="Anya"), frozenset())
        resumed = await harness.join(chat, ANNA, after=-1)
        message = resumed.recorder.got(MessageAdded)[0].message
        assert message.user is not None
        assert message.user.firstname == message.chat.owner_user.firstname == "Anya"


async def test_a_name_changed_during_a_commit_is_shown_in_the_replay(
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("hi")
        await harness.person(attrs.evolve(ANNA, firstname="Anya"), frozenset())
        await harness.settle()
        resumed = await harness.join(chat, ANNA, after=-1)
        message = resumed.recorder.got(MessageAdded)[0].message
        assert message.user is not None
        assert message.user.firstname == message.chat.owner_user.firstname == "Anya"


async def test_closing_and_reopening_a_chat_counts_against_the_rate_limit() -> None:
    async with open_chat(limits=Limits(messages_per_second=1, burst=4)) as harness:
        chat = await harness.reserve()
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        for operation in (CloseChat(chat, ANNA), ReopenChat(chat, ANNA), CloseChat(chat, ANNA)):
            await harness.chats.perform(operation)
        with pytest.raises(ChatRefused, match="rate_limited"):
            await harness.chats.perform(ReopenChat(chat, ANNA))


async def test_a_room_that_nobody_uses_is_freed_without_the_garbage_collector(autojump_clock: MockClock) -> None:
    gc.disable()
    try:
        async with open_chat() as harness:
            chat = await harness.reserve()
            await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
            room_state = weakref.ref(harness.chats._rooms.anchor(chat))
            await trio.sleep(300)
            assert room_state() is None
    finally:
        gc.enable()


async def test_many_senders_in_one_batch_each_see_their_own_client_ids_in_place() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, tab, olga = [await harness.join(chat, user) for user in (ANNA, ANNA, OLGA)]
        for number in range(6):
            (anna, olga)[number % 2].say(str(number), f"k{number}")
        await harness.settle()
        client_ids = [[event.client_id for event in each.recorder.got(MessageAdded)] for each in (anna, tab, olga)]
        assert client_ids[0] == client_ids[1] == ["k0", None, "k2", None, "k4", None]
        assert client_ids[2] == [None, "k1", None, "k3", None, "k5"]


async def test_only_an_open_room_is_joined_without_waiting(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        for after in (None, -1):
            with pytest.raises(trio.WouldBlock):
                harness.chats.joining.room_nowait(RecordingSession(OLGA), chat, after)
        with pytest.raises(trio.WouldBlock):
            harness.chats.chat_nowait(chat)
        anna = await harness.join(chat, ANNA)
        assert harness.chats.chat_nowait(chat) == await harness.state(chat)
        olga, strict = RecordingSession(OLGA), RecordingSession(PETR, Profile.STRICT)
        receivers = [
            harness.chats.joining.room_nowait(olga, chat, None),
            harness.chats.joining.room_nowait(strict, chat, 0),
        ]
        with pytest.raises(trio.WouldBlock):
            harness.chats.joining.room_nowait(RecordingSession(OLGA), chat, 0)
        anna.say("hello")
        await harness.settle()
        assert [event.user.id for event in olga.got(UserConnected)] == [ANNA.id, OLGA.id, PETR.id]
        assert olga.texts() == strict.texts() == ["hello"]
        for receiver in receivers:
            receiver.leave()
