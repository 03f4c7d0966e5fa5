"""The heartbeat of many sockets, without IO and in virtual time."""

from __future__ import annotations

from math import inf

import trio
import trio.testing

from actorchat.protocol import Frames
from actorchat.testing import admission_of
from actorchat.transports.heartbeat import beat
from actorchat.transports.ports import Limits
from actorchat.transports.session import Sessions, SocketSession
from tests.transports.test_outbox import ScriptedWire

PING = b"\x89\x00"


async def test_pings_are_sent_at_the_configured_interval(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire, sessions, limits = ScriptedWire(), Sessions(), Limits(ping_every=25, silence=1_000)
    wire.room = 1_000
    sessions.add(SocketSession(admission_of(1), wire, limits))
    with trio.move_on_after(110):
        await beat(sessions, limits)
    assert wire.taken == PING * 4


def silent_session(number: int = 1) -> SocketSession:
    wire = ScriptedWire()
    wire.room = 10_000
    return SocketSession(admission_of(number), wire, Limits())


async def test_time_in_which_the_process_was_stopped_is_not_silence(mock_clock: trio.testing.MockClock) -> None:
    sessions, session = Sessions(), silent_session()
    sessions.add(session)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat, sessions, Limits())
        await seconds_pass(mock_clock, 55)
        for _ in range(3):
            # After SIGSTOP or a paused container the peer's input is read a moment later.
            mock_clock.jump(62)
            await trio.testing.wait_all_tasks_blocked()
            assert not session.closed
            session.heard = True
            await seconds_pass(mock_clock, 55)
            assert not session.closed
        await seconds_pass(mock_clock, 8)
        assert session.closed, "the session is silent by now"
        nursery.cancel_scope.cancel()


async def test_a_peer_that_was_silent_before_a_stop_and_stays_so_is_closed(mock_clock: trio.testing.MockClock) -> None:
    sessions, session = Sessions(), silent_session()
    sessions.add(session)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat, sessions, Limits())
        await seconds_pass(mock_clock, 50)
        mock_clock.jump(62)
        await seconds_pass(mock_clock, 13)
        assert session.closed
        nursery.cancel_scope.cancel()


async def test_a_process_that_is_always_late_still_closes_silent_peers(mock_clock: trio.testing.MockClock) -> None:
    sessions, session = Sessions(), silent_session()
    sessions.add(session)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat, sessions, Limits())
        for _ in range(70):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(5)
        assert session.closed
        nursery.cancel_scope.cancel()


async def seconds_pass(clock: trio.testing.MockClock, seconds: int) -> None:
    for _ in range(seconds):
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(1)
    await trio.testing.wait_all_tasks_blocked()


async def test_checking_many_sockets_yields_to_other_tasks() -> None:
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


async def test_a_dead_peer_is_closed_while_its_input_waits_for_its_replay(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # Its input waits for the end of the replay, and the replay waits for the peer to read.
    wire, sessions = ScriptedWire(), Sessions()
    session = SocketSession(admission_of(1), wire, Limits())
    wire.room = 0
    session.push(Frames.of([b"x" * 200_000]))
    session.held = True
    assert session.paused
    sessions.add(session)
    with trio.move_on_after(140):
        await beat(sessions, Limits())
    assert session.closed
