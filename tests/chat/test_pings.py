"""A client can ask over its socket whether the connection works."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from actorchat.chat import Limits
from actorchat.protocol import ErrorEvent, Ping, Pong, Profile, SendMessage, UnknownType
from tests.chat.harness import open_chat
from tests.chat.people import ANNA, OLGA


async def test_a_ping_is_answered_with_its_number_in_a_room_and_on_the_feed(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        for socket in (await harness.join(await harness.reserve(), ANNA), await harness.console(OLGA)):
            socket.recorder.take()
            # False: the transport may throttle a client that sends many of them.
            assert socket.receiver.receive(Ping(7)) is False
            assert socket.receiver.receive(Ping(-1)) is False
            assert socket.recorder.take() == [Pong(7), Pong(-1)]


async def test_pings_are_not_counted_as_messages(autojump_clock: MockClock) -> None:
    async with open_chat(limits=Limits(messages_per_second=1, burst=1)) as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        for n in range(100):
            anna.receiver.receive(Ping(n))
        anna.say("hi")
        await harness.settle()
        assert anna.recorder.texts() == ["hi"]
        assert anna.recorder.done == 1


@pytest.mark.parametrize("feed", [False, True])
async def test_a_strict_socket_takes_no_ping(autojump_clock: MockClock, feed: bool) -> None:
    async with open_chat() as harness:
        if feed:
            socket = await harness.console(OLGA, profile=Profile.STRICT)
        else:
            socket = await harness.join(await harness.reserve(), ANNA, Profile.STRICT)
        socket.recorder.take()
        socket.receiver.receive(UnknownType("ping"))
        assert socket.recorder.take() == []


async def test_the_feed_takes_no_other_command(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        olga = await harness.console(OLGA)
        olga.recorder.take()
        olga.receiver.receive(SendMessage("hi"))
        assert olga.recorder.take() == [ErrorEvent("unknown_type", "this socket takes no 'send_message'", "type")]
