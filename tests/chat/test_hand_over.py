"""The chats of an anonymous visitor become those of the signed-in one, in rooms and on consoles, whatever fails."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import ChatRefused
from actorchat.chat.model import ANONYMOUS_IDS, Identity, identity_of
from actorchat.chat.operations import AcceptChat, AddMessage, HandOver
from actorchat.protocol import (
    ChatSummary,
    ChatUpdated,
    GlobalUpdated,
    MarkMessageRead,
    MessageAdded,
    MessageNotAdded,
    MessageUpdated,
    OperatorUpdated,
    Profile,
    Role,
    User,
)
from actorchat.storage.store import Store
from actorchat.testing import CommitFault, FaultyStore
from tests.chat.harness import ChatHarness, open_chat
from tests.chat.people import ANNA, OLGA

GUEST = User(ANONYMOUS_IDS + 5, Role.USER)
HAND_OVER = HandOver(GUEST.id, ANNA, 50.0)


def ended(harness: ChatHarness) -> list[Identity]:
    """The users whose sockets are ended from now on."""
    found: list[Identity] = []
    harness.chats.people.on_sign_out = lambda user, issued: found.append(identity_of(user))
    return found


async def test_open_rooms_and_consoles_are_shown_the_new_owner(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve(GUEST)
        guest = await harness.join(chat, GUEST)
        guest.say("hello", "k")
        await harness.settle()
        room, strict = await harness.join(chat, OLGA), await harness.join(chat, OLGA, Profile.STRICT)
        console = await harness.console(OLGA)
        plain = await harness.console(OLGA, profile=Profile.STRICT)
        signed_out = ended(harness)
        for socket in (room, strict, console, plain):
            socket.recorder.take()
        await harness.chats.hand_over(HAND_OVER)
        await trio.sleep(1)
        assert signed_out == [identity_of(GUEST)]
        shown = [(event.chat.uuid, event.chat.owner_user) for event in room.recorder.got(ChatUpdated)]
        assert shown == [(chat, ANNA)]
        assert strict.recorder.events == []
        for desk in (console, plain):
            assert [event.chat.owner_user for event in desk.recorder.got(ChatUpdated)] == [ANNA]
            assert desk.recorder.got(GlobalUpdated) == []
        assert [event.chat.owner_user for event in console.recorder.got(ChatSummary)] == [ANNA]
        # What is sent again has the new author, live events have the new owner.
        late = await harness.join(chat, OLGA, after=-1)
        [message] = [event.message for event in late.recorder.got(MessageAdded)]
        assert (message.user, message.chat.owner_user) == (ANNA, ANNA)
        anna = await harness.join(chat, ANNA)
        late.receiver.receive(MarkMessageRead(message.id))
        anna.say("it is me")
        await harness.settle()
        assert [event.message.user for event in strict.recorder.got(MessageUpdated)] == [ANNA]
        assert [event.message.user for event in room.recorder.got(MessageAdded)] == [ANNA]


async def test_a_console_is_shown_chats_without_an_open_room(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chats = []
        for source in ("lk", "shop"):
            chat, _ = await harness.chats.reserve_chat(source, GUEST)
            await harness.chats.perform(AddMessage(chat.uuid, GUEST, "hello"))
            chats.append(chat.uuid)
        # The rooms are passivated.
        await trio.sleep(300)
        console = await harness.console(OLGA, frozenset({"lk", "shop"}))
        console.recorder.take()
        await harness.chats.hand_over(HAND_OVER)
        await trio.sleep(1)
        assert {event.chat.uuid for event in console.recorder.got(ChatUpdated)} == set(chats)
        for chat_uuid in chats:
            await harness.chats.perform(AddMessage(chat_uuid, ANNA, "me"))
        await trio.sleep(1)
        assert console.recorder.texts() == ["me", "me"]
        assert len(console.recorder.got(ChatUpdated)) == 2


async def test_a_message_of_the_old_identity_that_comes_too_late_is_refused(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve(GUEST)
        guest, room = await harness.join(chat, GUEST), await harness.join(chat, OLGA)
        guest.say("first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.chats.hand_over, HAND_OVER)
            await trio.lowlevel.checkpoint()
            guest.say("second", "k")
        await harness.settle()
        assert room.recorder.texts() in (["first"], ["first", "second"])
        guest.say("third", "l")
        await harness.settle()
        [refused, *_] = guest.recorder.got(MessageNotAdded)[::-1]
        assert (refused.code, refused.text) == ("not_participant", "third")
        page = await harness.chats.chat_reader.after(chat, Role.OPERATOR, after=-1, limit=9)
        assert page is not None
        assert {message.author for message in page.messages} == {ANNA}


async def test_two_open_chats_become_one_on_the_console(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        old, new = await harness.reserve(ANNA), await harness.reserve(GUEST)
        await harness.chats.perform(AddMessage(old, ANNA, "where is it?"))
        await harness.chats.perform(AcceptChat(old, OLGA))
        await harness.chats.perform(AddMessage(new, GUEST, "hello"))
        console, anna = await harness.console(OLGA), await harness.join(old, ANNA)
        await trio.sleep(1)
        console.recorder.take()
        await harness.chats.hand_over(HAND_OVER)
        await trio.sleep(1)
        shown = [(event.chat.uuid, event.chat.status.value) for event in console.recorder.got(ChatUpdated)]
        assert shown == [(old, "closed"), (new, "new")]
        assert [event.unread_chats for event in console.recorder.got(GlobalUpdated)] == [1]
        assert [event.open_chats for event in console.recorder.got(OperatorUpdated)][-1:] == [0]
        assert anna.recorder.texts() == ["The chat was closed: it continues in another chat."]
        assert await harness.reserve(ANNA) == new


@pytest.mark.parametrize("fault", list(CommitFault))
async def test_whatever_a_commit_does_all_chats_move_or_none(autojump_clock: MockClock, fault: CommitFault) -> None:
    faults: list[CommitFault | None] = []

    def faulty(store: Store) -> Store:
        return FaultyStore(store, iter(partial(next_fault, faults), object()))

    async with open_chat(faults=faulty) as harness:
        chats = [(await harness.chats.reserve_chat(source, GUEST))[0].uuid for source in ("lk", "shop")]
        for chat in chats:
            await harness.chats.perform(AddMessage(chat, GUEST, "hello"))
        console, signed_out = await harness.console(OLGA, frozenset({"lk", "shop"})), ended(harness)
        console.recorder.take()
        faults.append(fault)
        if fault is CommitFault.STORED:
            await harness.chats.hand_over(HAND_OVER)
        else:
            with pytest.raises(ChatRefused, match="storage_unavailable"):
                await harness.chats.hand_over(HAND_OVER)
            assert [(await harness.state(chat)).owner.id for chat in chats] == [GUEST.id, GUEST.id]
            assert signed_out == []
            await trio.sleep(60)
            await harness.chats.hand_over(HAND_OVER)
        # The same call again is the same again.
        await harness.chats.hand_over(HAND_OVER)
        await trio.sleep(1)
        assert [(await harness.state(chat)).owner for chat in chats] == [ANNA, ANNA]
        assert {event.chat.uuid for event in console.recorder.got(ChatUpdated)} == set(chats)
        assert signed_out == [identity_of(GUEST)]


def next_fault(faults: list[CommitFault | None]) -> CommitFault | None:
    return faults.pop() if faults else None
