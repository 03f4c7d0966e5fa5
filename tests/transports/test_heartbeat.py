"""The heartbeat of many sockets; no IO, and time is virtual."""

from __future__ import annotations

from math import inf

import trio
import trio.testing

from actorchat.testing import admission_of
from actorchat.transports.heartbeat import beat
from actorchat.transports.ports import Limits
from actorchat.transports.session import Sessions, SocketSession
from tests.transports.test_outbox import ScriptedWire

PING = b"\x89\x00"


async def test_a_peer_is_asked_for_a_sign_of_life_as_often_as_limits_say(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire, sessions, limits = ScriptedWire(), Sessions(), Limits(ping_every=25, silence=1_000)
    wire.room = 1_000
    sessions.add(SocketSession(admission_of(1), wire, limits))
    with trio.move_on_after(110):
        await beat(sessions, limits)
    assert wire.taken == PING * 4


async def test_a_look_at_many_sockets_lets_others_run_in_between() -> None:
    sessions, limits = Sessions(), Limits()
    for number in range(1_100):
        sessions.add(SocketSession(admission_of(number), ScriptedWire(), limits))
    seen = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat, sessions, limits)
        while 1_100 not in seen:
            await trio.lowlevel.checkpoint()
            seen.add(sum(session.ping_at != inf for session in sessions))
        nursery.cancel_scope.cancel()
    assert seen & {512, 1_024}
