"""A new profile is broadcast in the user's rooms, and for every chat of the user that is not closed."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.actors import open_system
from actorchat.chat.operations import AcceptChat, AddMessage, CloseChat
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.profile_refresh import ProfileRefresher, Renamed
from actorchat.protocol import (
    ChatUpdated,
    MessageAdded,
    OperatorUpdated,
    Profile,
    TypingUpdated,
    UpdateTyping,
    User,
    UserConnected,
)
from tests.chat.harness import Socket, open_chat
from tests.chat.people import ANNA, BORIS, OLGA, PETR

ANN = attrs.evolve(ANNA, firstname="Ann")
OLYA = attrs.evolve(OLGA, firstname="Olya")


def connected(socket: Socket) -> list[User]:
    return [event.user for event in socket.recorder.got(UserConnected)]


@pytest.mark.parametrize("profile", Profile)
async def test_a_room_shows_the_new_name_of_a_present_user(profile: Profile, autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA, profile)
        await harness.person(ANN, frozenset())
        await trio.sleep(1)
        assert connected(olga) == [ANNA, OLGA, ANN]
        assert connected(anna) == [ANNA, OLGA, ANN]
        # A socket that joins later gets the new name, also for a user whose socket has the old one.
        await harness.join(chat, ANNA)
        petr = await harness.join(chat, PETR)
        assert connected(petr) == [ANN, OLGA, PETR]
        await harness.person(ANN, frozenset())
        await trio.sleep(1)
        assert connected(anna) == [ANNA, OLGA, ANN, PETR]


async def test_a_name_that_is_already_shown_is_not_sent_again(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        # An uncertain commit can be read before its outcome is sent, so a socket may join with the new name first.
        anna = await harness.join(chat, ANN)
        await harness.person(ANN, frozenset())
        await trio.sleep(1)
        assert connected(anna) == [ANN]


async def test_a_room_that_the_renamed_user_has_left_gets_no_event(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        await harness.leave(anna)
        await trio.sleep(6)
        await harness.person(ANN, frozenset())
        await trio.sleep(1)
        assert connected(olga) == [ANNA, OLGA]


async def test_consoles_get_the_chats_of_a_renamed_user_again(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        console = await harness.console(OLGA)
        olga.recorder.take()
        console.recorder.take()
        before = await harness.state(chat)
        await harness.person(ANN, frozenset())
        await trio.sleep(1)
        for socket in (console, olga):
            [shown] = socket.recorder.got(ChatUpdated)
            assert shown.chat.owner_user == ANN
        # Lists keep their order, and the next message follows the change.
        state = await harness.state(chat)
        assert (state.last_activity, state.rev) == (before.last_activity, before.rev + 1)
        anna.say("me again")
        await trio.sleep(1)
        assert [event.message.user for event in console.recorder.got(MessageAdded)] == [ANN]


async def test_chats_that_are_closed_or_have_no_message_are_not_shown(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        closed, reserved = await harness.reserve(), await harness.reserve(BORIS)
        await harness.chats.perform(AddMessage(closed, ANNA, "hi"))
        await harness.chats.perform(CloseChat(closed, ANNA))
        console = await harness.console(OLGA)
        for user in (ANN, attrs.evolve(BORIS, firstname="Bob")):
            await harness.person(user, frozenset())
        await trio.sleep(1)
        assert console.recorder.got(ChatUpdated) == []
        assert (await harness.state(reserved)).rev == 0


async def test_the_chats_of_a_renamed_operator_show_the_new_name(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        mine, other = await harness.reserve(), await harness.reserve(BORIS)
        for chat, owner in ((mine, ANNA), (other, BORIS)):
            await harness.chats.perform(AddMessage(chat, owner, "hi"))
        await harness.chats.perform(AcceptChat(mine, OLGA))
        console = await harness.console(PETR)
        await trio.sleep(1)
        console.recorder.take()
        await harness.person(OLYA)
        await trio.sleep(1)
        [shown] = console.recorder.got(ChatUpdated)
        assert (shown.chat.uuid, shown.chat.operator_user) == (mine, OLYA)
        assert [event.user for event in console.recorder.got(OperatorUpdated)] == [OLYA]


async def test_typing_goes_on_under_the_new_name(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        anna.receiver.receive(UpdateTyping("h", stopped=False))
        await harness.person(ANN, frozenset())
        await trio.sleep(1)
        anna.receiver.receive(UpdateTyping("hi", stopped=False))
        await trio.sleep(10)
        typing = olga.recorder.got(TypingUpdated)
        assert [(event.user, event.stopped) for event in typing] == [(ANNA, False), (ANN, False), (ANN, True)]


async def test_a_refresh_that_storage_refuses_is_tried_again(autojump_clock: MockClock) -> None:
    shown: list[str] = []

    async def show(user: User) -> None:
        shown.append(user.firstname)
        if len(shown) < 3:
            raise StorageUnavailable

    async with open_system() as system:
        renames = system.spawn(lambda: ProfileRefresher(show))
        renames.signal(Renamed(ANN))
        await trio.sleep(0.5)
        # A later name replaces one that waits.
        renames.signal(Renamed(ANNA))
        await trio.sleep(10)
    assert shown == ["Ann", "Anna", "Anna"]
