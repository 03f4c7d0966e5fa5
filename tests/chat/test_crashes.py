"""A crash of a room between accepting and broadcasting an operation loses nothing for its sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import ChatRefused, Limits, StorageUnavailable
from actorchat.chat.broadcast import Broadcast
from actorchat.chat.encoding import Encoder
from actorchat.chat.model import Stage
from actorchat.chat.operations import AcceptChat, AddMessage
from actorchat.chat.operator_directory import Directory
from actorchat.chat.publisher import PendingReplies, Publisher
from actorchat.chat.room import Room
from actorchat.protocol import (
    GlobalUpdated,
    MessageAdded,
    MessageNotAdded,
    OperatorUpdated,
    Profile,
    Role,
    UpdateTyping,
    User,
    UserDisconnected,
)
from tests.chat.harness import ChatHarness, RecordingSession, open_chat
from tests.chat.people import ANNA, BORIS, OLGA, PETR


class PlantedError(Exception):
    """A crash that a test has planted."""


def plant(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    nth: int,
    *,
    times: int = 1,
    error: type[Exception] = PlantedError,
) -> list[int]:
    """Make the nth call of `owner.name`, and the `times - 1` calls after it, raise. Returns a list of calls."""
    whole: Callable[..., Any] = getattr(owner, name)
    calls: list[int] = []

    def planted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if nth <= len(calls) < nth + times:
            raise error
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, planted)
    return calls


PLACES = [
    (PendingReplies, "settle"),
    (Publisher, "publish"),
    (Broadcast, "_encode"),
    (Encoder, "added"),
    (Room, "_take"),
]


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("nth", [1, 2, 5])
@pytest.mark.parametrize(("owner", "name"), PLACES)
async def test_every_session_gets_everything_once_in_order_despite_a_crash(
    owner: type, name: str, nth: int, times: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    # The first crash hits the publisher in the journal's step, the next ones the room that recovers.
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        console = await harness.console(PETR)
        await harness.settle()
        calls = plant(monkeypatch, owner, name, nth, times=times)
        for number in range(12):
            (anna if number % 2 else olga).say(str(number), f"k{number}")
            await trio.sleep(0.3)
        assert len(calls) >= nth
        stored = [message.text for message in await history(harness, chat)]
        refused = [event.text for socket in (anna, olga) for event in socket.recorder.got(MessageNotAdded)]
        assert sorted(stored + refused, key=int) == [str(number) for number in range(12)]
        for socket in (anna, olga, console):
            assert socket.recorder.texts() == stored
        assert anna.recorder.done == olga.recorder.done == 6


async def history(harness: ChatHarness, chat: UUID) -> Any:
    page = await harness.chats.chat_reader.newest(chat, Role.OPERATOR, before=None, limit=200)
    assert page is not None
    return page.messages


async def test_sessions_stay_joined_and_other_rooms_undisturbed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        chat, other = await harness.reserve(), await harness.reserve(BORIS)
        anna, boris = await harness.join(chat, ANNA), await harness.join(other, BORIS)
        plant(monkeypatch, Publisher, "publish", 1, times=2)
        anna.say("one")
        await trio.sleep(1)
        assert anna.recorder.texts() == ["one"]
        boris.say("undisturbed")
        anna.say("two")
        await trio.sleep(1)
        assert anna.recorder.texts() == ["one", "two"]
        assert boris.recorder.texts() == ["undisturbed"]
        assert anna.recorder.closed is None


async def test_a_crashed_room_alone_restarts_from_storage_with_its_sessions_still_joined(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    visitors = [User(id=100 + number, role=Role.USER) for number in range(5)]
    async with open_chat() as harness:
        for visitor in visitors:
            await harness.person(visitor, frozenset())
        chats = [await harness.reserve(visitor) for visitor in visitors]
        sockets = [await harness.join(chat, visitor) for chat, visitor in zip(chats, visitors, strict=True)]
        olga, console = await harness.join(chats[0], OLGA), await harness.console(PETR)
        for number, socket in enumerate(sockets):
            socket.say(f"before {number}")
        await trio.sleep(1)
        everyone = [*sockets, olga, console]
        undisturbed = [len(socket.recorder.payloads) for socket in sockets[1:]]

        plant(monkeypatch, Publisher, "publish", 1, times=2)
        sockets[0].say("crash")
        await trio.sleep(0.2)
        assert [len(socket.recorder.payloads) for socket in sockets[1:]] == undisturbed
        for number, socket in enumerate(sockets):
            socket.say(f"after {number}")
        await trio.sleep(10)

        restarts = {row.name: row.restarts for row in harness.system.tree() if row.actor == "Room"}
        assert restarts == {str(chat): int(chat == chats[0]) for chat in chats}
        assert [socket.recorder.closed for socket in everyone] == [None] * len(everyone)
        stored = [message.text for message in await history(harness, chats[0])]
        assert stored == ["before 0", "crash", "after 0"]
        assert sockets[0].recorder.texts() == olga.recorder.texts() == stored
        assert [socket.recorder.texts() for socket in sockets[1:]] == [
            [f"before {number}", f"after {number}"] for number in range(1, 5)
        ]
        assert sorted(console.recorder.texts()) == sorted(
            [*stored, *(f"{when} {number}" for when in ("before", "after") for number in range(1, 5))]
        )


async def test_a_room_that_is_given_up_closes_its_sockets_and_can_be_reopened(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        plant(monkeypatch, Publisher, "publish", 1, times=30)
        anna.say("one")
        await trio.sleep(120)
        assert anna.recorder.closed == 1011
        monkeypatch.undo()
        await harness.leave(anna)
        back = await harness.join(chat, ANNA, after=-1)
        back.say("two")
        await trio.sleep(1)
        assert back.recorder.texts() == ["one", "two"]


async def test_a_command_that_fails_closes_its_own_socket_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_chat(limits=Limits()) as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA, Profile.STRICT)
        plant(monkeypatch, Room, "_check", 1)
        anna.say("one")
        olga.say("two")
        await harness.settle()
        assert (anna.recorder.closed, olga.recorder.closed) == (1011, None)
        assert [event.message.text for event in olga.recorder.got(MessageAdded)] == ["two"]
        assert anna.recorder.done == 1


async def test_typing_that_fails_closes_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_chat() as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        plant(monkeypatch, Room, "_typing", 1)
        anna.receiver.receive(UpdateTyping("one", False))
        await harness.settle()
        anna.say("two")
        await harness.settle()
        assert (anna.recorder.closed, anna.recorder.texts()) == (None, ["two"])


async def test_an_operation_whose_refusal_fails_to_be_sent_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_chat(limits=Limits(text_length=3)) as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        plant(monkeypatch, RecordingSession, "push", 1)
        anna.say("too long")
        await harness.settle()
        assert (anna.recorder.done, anna.recorder.closed) == (1, 1011)


async def test_a_user_who_left_before_a_crash_is_still_reported_as_disconnected(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        await harness.leave(olga)
        plant(monkeypatch, Publisher, "publish", 1, times=2)
        anna.say("crash")
        await trio.sleep(10)
        assert [event.user.id for event in anna.recorder.got(UserDisconnected)] == [OLGA.id]


async def test_a_message_accepted_before_its_batch_crashed_is_not_refused(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        plant(monkeypatch, Room, "reply", 1)

        async def enter() -> None:
            with pytest.raises(StorageUnavailable):
                await harness.chats.joining.room(RecordingSession(OLGA), chat, None)

        async with trio.open_nursery() as nursery:
            anna.say("taken")
            nursery.start_soon(enter)
        await trio.sleep(1)
        assert anna.recorder.texts() == ["taken"]
        assert anna.recorder.got(MessageNotAdded) == []
        assert anna.recorder.done == 1


@pytest.mark.parametrize(("owner", "name"), [(PendingReplies, "settle"), (Publisher, "publish"), (Encoder, "added")])
async def test_an_operation_gets_its_decision_though_the_room_crashed(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        plant(monkeypatch, owner, name, 1, times=2)
        changed = await harness.chats.perform(AddMessage(chat, OLGA, "hello"))
        await trio.sleep(1)
        assert changed.chat.stage is Stage.OPEN
        assert anna.recorder.texts() == ["hello"]


async def test_an_operation_that_the_room_never_began_is_refused(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        plant(monkeypatch, Room, "receive", 1)
        with pytest.raises(ChatRefused) as refused:
            await harness.chats.perform(AcceptChat(chat, OLGA))
        assert refused.value.code == "overloaded"
        assert (await harness.state(chat)).stage is Stage.RESERVED


async def test_consoles_outlive_a_crash_of_the_directory(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        olga = await harness.console(OLGA)
        chat = await harness.reserve()
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await trio.sleep(1)
        plant(monkeypatch, Directory, "_send_updates", 1)
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        await trio.sleep(120)
        assert olga.recorder.got(GlobalUpdated)[-1].unread_chats == 1
        state = await harness.state(chat)
        assert (state.stage, state.operator) == (Stage.OPEN, OLGA)
        assert [each.is_online for each in olga.recorder.got(OperatorUpdated) if each.user == OLGA][-1]


async def test_a_request_to_a_room_that_is_given_up_is_answered(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        # It raises in the journal's step, in the running room and after five restarts; then the room is given up.
        plant(monkeypatch, PendingReplies, "settle", 1, times=7)
        with trio.fail_after(300):
            changed = await harness.chats.perform(AcceptChat(chat, OLGA))
            assert changed.chat.operator == OLGA
            monkeypatch.undo()
            await harness.chats.drain()


async def test_a_room_that_was_given_up_reads_storage_before_anyone_joins(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        # A session stays in the room state, so the address outlives the room's actor.
        anna = await harness.join(chat, ANNA)
        for owner, name in ((Publisher, "publish"), (Room, "_announce")):
            plant(monkeypatch, owner, name, 1, times=50)
        await harness.chats.perform(AddMessage(chat, ANNA, "not announced"))
        await trio.sleep(30)
        assert anna.recorder.closed is not None
        monkeypatch.undo()
        with pytest.raises(trio.WouldBlock):
            harness.chats.joining.room_nowait(RecordingSession(OLGA), chat, None)
        await harness.join(chat, OLGA)
        assert harness.chats.chat_nowait(chat) == await harness.state(chat)
        petr = harness.chats.joining.room_nowait(RecordingSession(PETR), chat, None)
        petr.leave()


async def test_a_directory_that_crashes_while_storage_is_away_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        olga = await harness.console(OLGA)
        await trio.sleep(1)
        away = plant(monkeypatch, type(harness.chats.chat_reader), "operators", 1, times=20, error=StorageUnavailable)
        plant(monkeypatch, Directory, "_send_updates", 1)
        chat = await harness.reserve()
        await harness.chats.perform(AddMessage(chat, ANNA, "hi"))
        await trio.sleep(120)
        assert len(away) > 20
        assert olga.recorder.got(GlobalUpdated)[-1].unread_chats == 1


async def test_an_operator_who_connects_while_the_directory_crashes_is_online(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        plant(monkeypatch, Directory, "_console_joined", 1)
        await harness.console(OLGA)
        await trio.sleep(5)
        (olga,) = [each for each in await harness.chats.chat_reader.operators(None) if each.person.user == OLGA]
        assert olga.person.online
