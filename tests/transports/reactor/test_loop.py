"""The reactor: fairness between sockets, the cost of a socket, and sockets that end during an operation.

Most tests run the passes one by one, so that they measure fairness in passes and not in seconds.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress

import attrs
import pytest
import trio
import trio.testing

from actorchat.chat.ports import Session
from actorchat.protocol import CloseCode, Command, Frames, Malformed, UnknownType, close_frame
from actorchat.testing import RawPeer, RecordingApplication, admission_of
from actorchat.testing._raw_peer import frame_of
from actorchat.testing._transport_harness import until
from actorchat.transports.byte_stream import SocketByteStream
from actorchat.transports.ports import Admission, Limits, Receiver
from actorchat.transports.reactor import open_reactor_transport
from actorchat.transports.reactor.connection import Connection
from actorchat.transports.reactor.loop import READ, Budget
from actorchat.transports.request_head import Upgrade
from tests.transports.dialers import SocketDialer, open_sockets
from tests.transports.reactor.stepped_reactor import CLOSE, PING, SteppedReactor, open_stepped, say


async def test_a_flooding_socket_gets_one_turn_a_round() -> None:
    with open_stepped(Budget(turn_frames=5)) as stepped:
        flooding, *quiet = [await stepped.enter() for _ in range(20)]
        flooding.say(*range(100))
        for number, client in enumerate(quiet, 1_000):
            client.say(number)
        stepped.reactor.run_pass()
        assert sorted(stepped.commands_read) == [0, 1, 2, 3, 4, *range(1_000, 1_019)]
        stepped.reactor.run_pass()
        assert sorted(stepped.commands_read)[:11] == [*range(10), 1_000]


async def test_a_socket_with_buffered_and_new_input_gets_one_turn() -> None:
    with open_stepped(Budget(turn_frames=5, turn_bytes=12 * len(say(10)))) as stepped:
        client = await stepped.enter()
        client.say(*range(10, 60))
        stepped.reactor.run_pass()
        stepped.reactor.run_pass()
        assert stepped.commands_read == list(range(10, 20))


async def test_a_busy_reactor_lets_others_run_between_its_passes() -> None:
    with open_stepped(Budget(turn_frames=1)) as stepped:
        client = await stepped.enter()
        client.say(*range(100))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stepped.reactor.run)
            turns = 0
            while len(stepped.commands_read) < 100:
                await trio.lowlevel.checkpoint()
                turns += 1
            nursery.cancel_scope.cancel()
        assert turns >= 100


async def test_buffered_input_is_read_without_new_input() -> None:
    with open_stepped(Budget(turn_frames=7)) as stepped:
        client = await stepped.enter()
        client.say(*range(30))
        for _ in range(5):
            stepped.reactor.run_pass()
        assert stepped.commands_read == list(range(30))


async def test_a_pass_ends_after_its_time_and_the_next_continues_there() -> None:
    now = iter(range(1_000))
    with open_stepped(Budget(pass_seconds=3), lambda: float(next(now))) as stepped:
        for number, client in enumerate([await stepped.enter() for _ in range(9)]):
            client.say(number)
        for passes in range(1, 4):
            stepped.reactor.run_pass()
            assert len(stepped.commands_read) == 3 * passes
        assert sorted(stepped.commands_read) == list(range(9))


async def test_a_pass_ends_when_it_has_read_its_bytes() -> None:
    with open_stepped(Budget(pass_bytes=2 * len(say(0)))) as stepped:
        for number, client in enumerate([await stepped.enter() for _ in range(4)]):
            client.say(number)
        stepped.reactor.run_pass()
        assert len(stepped.commands_read) == 2
        stepped.reactor.run_pass()
        assert sorted(stepped.commands_read) == [0, 1, 2, 3]


async def test_a_socket_that_comes_late_in_a_long_round_waits_for_one_round_only() -> None:
    with open_stepped(Budget(pass_bytes=1, turn_frames=1)) as stepped:
        clients = [await stepped.enter() for _ in range(5)]
        for client in clients:
            client.say(0, 0, 0, 0)
        stepped.reactor.run_pass()
        late = await stepped.enter()
        late.say(7)
        passes = 0
        while 7 not in stepped.commands_read:
            stepped.reactor.run_pass()
            passes += 1
        assert passes <= 2 * len(clients) + 1


class Duel(RecordingApplication):
    """An application in which the first command of a socket closes the other one and opens a third."""

    def __init__(self, stepped: SteppedReactor) -> None:
        super().__init__()
        self.stepped = stepped

    async def join(self, session: Session, admission: Admission) -> Receiver:
        receiver = await super().join(session, admission)
        return Duellist(receiver.receive, receiver.malformed, receiver.leave, self, session)


@attrs.frozen
class Duellist:
    take: Callable[[Command | UnknownType], bool | None]
    malformed: Callable[[Malformed], None]
    leave: Callable[[], None]
    duel: Duel
    session: Session

    def receive(self, command: Command | UnknownType) -> bool | None:
        stepped = self.duel.stepped
        others = [client for client in stepped.clients if client.connection.session is not self.session]
        if len(others) == 1:
            others[0].connection.expired()
            stepped.open()
        return self.take(command)


async def test_a_socket_closed_in_the_batch_in_which_it_is_ready_gets_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = Connection.turn
    had_turns: list[bool] = []

    def seen(connection: Connection, ready: int) -> tuple[int, bool]:
        had_turns.append(connection.ended)
        return turn(connection, ready)

    monkeypatch.setattr(Connection, "turn", seen)
    with open_stepped() as stepped:
        stepped.application = Duel(stepped)
        duellists = [await stepped.enter(), await stepped.enter()]
        numbers = [client.connection.fileno() for client in duellists]
        for client in duellists:
            client.say(1)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [1]
        # The third socket has the descriptor of the closed one, and must not get its events.
        third = stepped.clients[2]
        assert third.connection.fileno() in numbers
        await third.join(stepped.application)
        third.say(3)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [1, 3]
        assert had_turns == [False, False]
        assert [client.connection.ended for client in stepped.clients].count(True) == 1


async def test_a_turn_that_raises_ends_that_socket_with_1011_and_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_stepped() as stepped:
        broken, whole = await stepped.enter(), await stepped.enter()

        def fail(*_: object, **__: object) -> None:
            raise RecursionError("planted")

        monkeypatch.setattr("actorchat.transports.reactor.connection.FrameReader.feed", fail)
        broken.say(1)
        stepped.reactor.run_pass()
        monkeypatch.undo()
        whole.say(2)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [2]
        assert broken.read()[2:4] == CloseCode.SERVER_FAILED.to_bytes(2)
        assert broken.peer.recv(1) == b"", "nothing follows"
        broken.peer.close()
        stepped.reactor.run_pass()
        assert stepped.ended == [broken.connection.session]
        assert stepped.application.left == [broken.connection.session]
    assert len(caplog.records) == 1


async def test_a_paused_socket_is_not_read_and_not_polled() -> None:
    with open_stepped() as stepped:
        stepped.application.takes = True
        client = await stepped.enter()
        client.say(*range(20))
        stepped.reactor.run_pass()
        client.say(20)
        stepped.reactor.run_pass()
        assert (len(stepped.commands_read), stepped.reactor.statistics().paused) == (8, 1)
        idle = stepped.reactor.statistics()
        stepped.reactor.run_pass()
        assert stepped.reactor.statistics().queued == idle.queued == 0
        for done in range(21):
            client.connection.session.operation_done()
            stepped.reactor.run_pass()
            stepped.reactor.run_pass()
            assert len(stepped.commands_read) == min(21, 9 + done)
        assert stepped.reactor.statistics().paused == 0


async def test_buffered_input_is_read_after_a_pause_without_new_input() -> None:
    with open_stepped() as stepped:
        stepped.application.takes = True
        client = await stepped.enter()
        client.say(*range(10))
        stepped.reactor.run_pass()
        assert len(stepped.commands_read) == 8
        client.connection.session.operation_done()
        stepped.reactor.run_pass()
        assert len(stepped.commands_read) == 9


async def test_input_after_a_protocol_error_is_ignored() -> None:
    with open_stepped() as stepped:
        client = await stepped.enter()
        session = client.connection.session
        while not session.buffered_bytes:
            session.push(Frames.of([b"x" * 10_000]))
        client.peer.sendall(b"\xff\xff")
        stepped.reactor.run_pass()
        client.say(1)
        stepped.reactor.run_pass()
        got = b""
        while data := client.peer.recv(65_536):
            got += data
            stepped.reactor.run_pass()
        assert (1002).to_bytes(2) in got[-100:], "the buffer is not flushed before the end"
        assert stepped.commands_read == []


async def test_a_slow_peer_is_written_to_when_it_reads_again() -> None:
    with open_stepped() as stepped:
        client = await stepped.enter()
        session = client.connection.session
        pushed = 0
        while session.buffered_bytes < 200_000:
            session.push(Frames.of([b"x" * 10_000]))
            pushed += 10_004
        got = 0
        while got < pushed:
            got += len(client.read())
            stepped.reactor.run_pass()
        assert (session.buffered_bytes, client.connection.interest) == (0, READ)


class Waiting(RecordingApplication):
    """An application whose joins wait for an event."""

    def __init__(self) -> None:
        super().__init__()
        self.go = trio.Event()
        self.gave_up = 0

    async def join(self, session: Session, admission: Admission) -> Receiver:
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.gave_up += 1
            raise
        return await super().join(session, admission)


async def test_during_a_join_pings_are_answered_and_commands_wait() -> None:
    with open_stepped() as stepped:
        application = Waiting()
        client = stepped.open()
        session = client.connection.session
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.join, application)
            await trio.testing.wait_all_tasks_blocked()
            client.peer.sendall(frame_of(PING, b"?") + say(1) + say(2))
            stepped.reactor.run_pass()
            assert client.read() == b"\x8a\x01?"
            session.heard = False
            assert session.paused, "the heartbeat would count it as silent"
            application.go.set()
        stepped.reactor.run_pass()
        assert application.texts == ["1", "2"]
        assert not session.paused


@pytest.mark.parametrize("way", ["close", "vanish", "break"])
async def test_a_peer_that_leaves_during_its_join_cancels_it(way: str) -> None:
    with open_stepped() as stepped, trio.fail_after(5):
        application = Waiting()
        client = stepped.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.join, application)
            await trio.testing.wait_all_tasks_blocked()
            if way == "vanish":
                client.peer.close()
            else:
                client.peer.sendall(frame_of(CLOSE, (1000).to_bytes(2)) if way == "close" else b"\xff\xff")
            stepped.reactor.run_pass()
        assert application.gave_up == 1
        assert application.sessions == []


async def test_a_peer_that_left_before_its_join_cancels_it() -> None:
    with open_stepped() as stepped, trio.fail_after(5):
        application = Waiting()
        client = stepped.open()
        waiting = client.connection.enter(application, admission_of(0))
        assert waiting is not None
        client.connection.expired()
        await waiting
        assert (application.gave_up, application.sessions) == (1, [])


@pytest.mark.parametrize("way", ["end", "break"])
async def test_a_session_whose_peer_left_while_it_joined_leaves(way: str) -> None:
    with open_stepped() as stepped:
        client = stepped.open()

        class Late(RecordingApplication):
            async def join(self, session: Session, admission: Admission) -> Receiver:
                receiver = await super().join(session, admission)
                # No checkpoint follows, so the join can't be cancelled.
                if way == "end":
                    client.connection.expired()
                else:
                    client.peer.sendall(b"\xff\xff")
                    stepped.reactor.run_pass()
                return receiver

        application = Late()
        await client.join(application)
        assert application.left == application.sessions == [client.connection.session]


class AtOnce(RecordingApplication):
    """An application whose joins are immediate, and push an event or raise."""

    def join(self, session: Session, admission: Admission) -> Receiver:  # type: ignore[override]  # at once
        if self.refuses:
            raise RuntimeError("planted by a test")
        session.push(Frames.of([b'"welcome"']))
        return self.receiver(session)


async def test_an_immediate_join_sends_its_events_with_the_handshake() -> None:
    with open_stepped() as stepped:
        application = AtOnce()
        client = stepped.open(b"101", say(1) + say(2))
        assert client.read() == b""
        assert client.connection.enter(application, admission_of(0)) is None
        assert client.read() == b"101" + Frames.of([b'"welcome"']).data
        stepped.reactor.run_pass()
        assert application.texts == ["1", "2"]


async def test_an_immediate_join_that_fails_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    with open_stepped() as stepped:
        application = AtOnce()
        application.refuses = True
        client = stepped.open(b"101")
        assert client.connection.enter(application, admission_of(0)) is None
        assert client.read() == b"101" + close_frame(CloseCode.SERVER_FAILED, "the server failed")
        assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_socket_that_can_not_be_registered_is_closed_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError("planted by a test")

    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    async with open_reactor_transport(RecordingApplication()) as transport:
        with theirs:
            monkeypatch.setattr(selectors.DefaultSelector, "register", full)
            with pytest.raises(OSError, match="planted"):
                transport.serve(
                    SocketByteStream(mine, transport.nursery), Upgrade(b"a" * 24, None, b""), admission_of(1)
                )
            monkeypatch.undo()
            assert theirs.recv(1) == b""
            assert transport.statistics().handles == 0


async def test_an_immediate_join_whose_peer_has_left_leaves() -> None:
    with open_stepped() as stepped:
        application = AtOnce()
        client = stepped.open(b"101")
        client.connection.expired()
        assert client.connection.enter(application, admission_of(0)) is None
        assert application.left == application.sessions == [client.connection.session]


async def test_a_socket_that_ended_before_its_join_does_not_join() -> None:
    with open_stepped() as stepped:
        client = stepped.open()
        client.connection.expired()
        await client.join(stepped.application)
        assert stepped.application.sessions == []


async def test_a_ping_that_came_with_the_handshake_is_answered_while_it_joins() -> None:
    with open_stepped() as stepped:
        client = stepped.open(received=frame_of(PING, b"?"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.join, Waiting())
            await trio.testing.wait_all_tasks_blocked()
            stepped.reactor.run_pass()
            assert client.read() == b"\x8a\x01?"
            nursery.cancel_scope.cancel()


async def test_the_close_of_a_peer_whose_join_failed_is_read_after_its_commands() -> None:
    with open_stepped() as stepped:
        application = AtOnce()
        application.refuses = True
        client = stepped.open()
        assert client.connection.enter(application, admission_of(0)) is None
        client.peer.sendall(say(1) + frame_of(CLOSE, CloseCode.SERVER_FAILED.to_bytes(2)))
        stepped.reactor.run_pass()
        assert client.connection.ended


async def test_the_close_of_a_peer_that_was_paused_and_too_slow_is_read() -> None:
    with open_stepped() as stepped:
        stepped.application.takes = True
        client = await stepped.enter()
        for numbers in (range(9), range(9, 10)):
            client.say(*numbers)
            stepped.reactor.run_pass()
        assert stepped.reactor.statistics().paused == 1
        session = client.connection.session
        while not session.closed:
            session.push(Frames.of([b"x" * 100_000]))
        while session.buffered_bytes:
            client.read()
            stepped.reactor.run_pass()
        client.peer.sendall(frame_of(CLOSE, CloseCode.OVERLOADED.to_bytes(2)))
        stepped.reactor.run_pass()
        assert client.connection.ended


async def test_the_end_of_a_socket_is_reported_once_and_wakes_waiters() -> None:
    with open_stepped() as stepped, trio.fail_after(5):
        client = await stepped.enter()
        session = client.connection.session
        while session.buffered_bytes <= Limits().outbox_low:
            session.push(Frames.of([b"x" * 10_000]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.wait_drained)
            await trio.testing.wait_all_tasks_blocked()
            client.connection.expired()
            client.connection.expired()
        assert stepped.ended == [session]


async def test_a_join_that_is_cancelled_from_outside_ends_the_socket() -> None:
    with open_stepped() as stepped:
        client = stepped.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.join, Waiting())
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert client.connection.ended
        assert stepped.ended == [client.connection.session]


async def test_a_socket_closed_by_both_sides_ends_whatever_the_peer_does() -> None:
    with open_stepped() as stepped:
        client = await stepped.enter()
        client.peer.sendall(frame_of(CLOSE, (1000).to_bytes(2)))
        stepped.reactor.run_pass()
        assert client.connection.ended
        assert client.read() == b"\x88\x02" + (1000).to_bytes(2)


async def test_a_reset_by_the_peer_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_stepped() as stepped:
        client = await stepped.enter()
        client.connection.session.push(Frames.of([b"{}"]))
        # Closing with unread data resets the connection.
        client.peer.close()
        stepped.reactor.run_pass()
        assert stepped.ended == stepped.application.left == [client.connection.session]
    assert not caplog.records


async def test_a_deadline_ends_a_socket_without_a_turn(mock_clock: trio.testing.MockClock) -> None:
    with open_stepped() as stepped:
        client = await stepped.enter()
        client.connection.session.close(CloseCode.DONE)
        client.connection.session.close(CloseCode.DRAINING)
        stepped.reactor.run_pass()
        mock_clock.jump(Limits().close_linger - 0.1)
        stepped.reactor.run_pass()
        assert stepped.ended == []
        mock_clock.jump(0.2)
        stepped.reactor.run_pass()
        assert stepped.ended == [client.connection.session]
        assert stepped.application.left == [client.connection.session]


async def test_the_earlier_deadline_counts_and_none_outlives_the_socket(
    mock_clock: trio.testing.MockClock,
) -> None:
    with open_stepped() as stepped:
        clients = [await stepped.enter() for _ in range(3)]
        for client, lingers in zip(clients, [(5.0, 2.0), (2.0, 5.0), (5.0, 2.0)], strict=True):
            for linger in lingers:
                client.connection.closing(linger)
        clients[2].connection.expired()
        mock_clock.jump(2.1)
        stepped.reactor.run_pass()
        assert all(client.connection.ended for client in clients)
        assert (stepped.reactor._expiring, stepped.reactor._ties) == ({}, {})


async def test_closing_the_reactor_ends_every_socket_and_leaves_every_room() -> None:
    with open_stepped() as stepped:
        clients = [await stepped.enter() for _ in range(5)]
    assert len(stepped.application.left) == len(clients)
    assert all(client.connection.ended for client in clients)
    assert stepped.reactor.statistics().handles == 0


async def connected(dialer: SocketDialer, number: int) -> RawPeer:
    dialer.verdicts.append(admission_of(number))
    peer = RawPeer(await dialer.connect())
    await peer.handshake()
    return peer


async def test_an_open_socket_costs_no_task() -> None:
    application = RecordingApplication()
    with trio.fail_after(20):
        async with open_sockets(application, Limits(), trio.current_time, transport="reactor") as dialer:
            peers = [await connected(dialer, 0)]
            await until(lambda: len(application.sessions) == 1, "it joins")
            before = trio.lowlevel.current_statistics().tasks_living
            peers += [await connected(dialer, number) for number in range(1, 20)]
            await until(lambda: len(application.sessions) == 20, "all join")
            await trio.testing.wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().tasks_living == before
            for peer in peers:
                await peer.vanish()
            await until(lambda: dialer.open_sockets == 0, "all are noticed")
            assert application.left
            assert len(application.left) == 20


async def test_sockets_that_come_and_go_at_once_leave_nothing_behind() -> None:
    application = RecordingApplication()
    with trio.fail_after(30):
        async with open_sockets(application, Limits(), trio.current_time, transport="reactor") as dialer:

            async def come_and_go(number: int) -> None:
                for turn in range(10):
                    dialer.verdicts.append(admission_of(number))
                    async with await dialer.connect() as stream:
                        peer = RawPeer(stream)
                        await peer.handshake(behind=say(turn) if number % 2 else b"")
                        for session in application.sessions[-3:]:
                            session.push(Frames.of([b"{}"]))
                        if number % 3 == 0:
                            await peer.vanish()
                        elif number % 3 == 1:
                            with suppress(trio.BrokenResourceError):
                                await peer.close()
                            await peer.read_to_end()

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(come_and_go, number)
            await until(lambda: dialer.open_sockets == 0, "every socket ends")
            assert sorted(map(id, application.left)) == sorted(map(id, application.sessions))


@pytest.mark.parametrize(("last", "reset"), [(say(1), True), (b"\xff\xff", False)])
async def test_only_a_peer_that_leaves_without_a_close_is_reset(last: bytes, reset: bool) -> None:
    application = RecordingApplication()
    with trio.fail_after(20):
        async with (
            open_sockets(application, Limits(), trio.current_time, transport="reactor") as dialer,
            dialer.dial(admission_of(1)) as peer,
        ):
            await until(lambda: bool(application.sessions), "it joins")
            await peer.stream.send_all(last)
            await peer.half_close()
            with suppress(trio.EndOfChannel):
                while True:
                    await peer.receive_frame()
            assert ([opcode for opcode, _ in peer.frames], peer.was_reset) == ([] if reset else [CLOSE], reset)
