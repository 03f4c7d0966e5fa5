"""Throttling in the reactor: the socket of a rate-limited client is read after all others, and rarely."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actorchat.chat.ports import Session
from actorchat.protocol import CloseCode, Command, Frames, Malformed, UnknownType, close_frame
from actorchat.testing import RecordingApplication
from actorchat.testing._raw_peer import frame_of
from actorchat.transports.ports import Admission, Limits, Receiver
from actorchat.transports.reactor.frames import FrameReader
from actorchat.transports.reactor.loop import Budget
from tests.transports.reactor.stepped_reactor import BINARY, CLOSE, PING, TEXT, open_stepped, say


class Refusing(RecordingApplication):
    """An application that refuses every command except those with the given texts."""

    def __init__(self, *accepted: str) -> None:
        super().__init__()
        self.accepted = accepted

    async def join(self, session: Session, admission: Admission) -> Receiver:
        receiver = await super().join(session, admission)
        return Refuser(receiver.receive, receiver.malformed, receiver.leave, self, session)


@attrs.frozen
class Refuser:
    take: Callable[[Command | UnknownType], bool | None]
    malformed: Callable[[Malformed], None]
    leave: Callable[[], None]
    application: Refusing
    session: Session

    def receive(self, command: Command | UnknownType) -> bool | None:
        self.take(command)
        text = self.application.texts[-1]
        if text in self.application.accepted:
            return None
        self.session.push(Frames.of([text.encode()]))
        return False


def answers(*numbers: int) -> bytes:
    return Frames.of([b"%d" % number for number in numbers]).data


async def test_a_rate_limited_client_is_throttled_and_then_read_in_one_turn(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing("10", "20", "30")
        client, other = await stepped.enter(), await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        assert client.read() == answers(0)
        for number in range(1, 4):
            client.say(number)
            other.say(10 * number)
            stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 10, 20, 30]
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 10, 20, 30, 1, 2, 3]
        assert client.read() == answers(1, 2, 3)


async def test_a_throttled_client_is_read_when_no_other_has_data(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing("10", "20")
        client, other = await stepped.enter(), await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        client.say(1)
        mock_clock.jump(1)
        for number in (10, 20):
            other.say(number)
            stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 10, 20]
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 10, 20, 1]


async def test_a_throttled_clients_turn_is_limited_by_the_budget(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1, throttled_frames=2)) as stepped:
        stepped.application = Refusing("10")
        client, other = await stepped.enter(), await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        client.say(1, 2, 3, 4, 5)
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1, 2]
        other.say(10)
        stepped.reactor.run_pass()
        stepped.reactor.run_pass()
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1, 2, 10, 3, 4, 5]


async def test_two_throttled_clients_take_turns(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1, throttled_frames=1)) as stepped:
        stepped.application = Refusing()
        clients = await stepped.enter(), await stepped.enter()
        for client in clients:
            client.say(0)
        stepped.reactor.run_pass()
        clients[0].say(1, 3)
        clients[1].say(2, 4)
        mock_clock.jump(1)
        commands_read = []
        for _ in range(4):
            stepped.reactor.run_pass()
            commands_read.append(stepped.commands_read[-1])
        assert commands_read == [1, 2, 3, 4]


async def test_of_many_overdue_throttled_clients_one_is_read_a_round(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing("10", "20")
        *clients, other = [await stepped.enter() for _ in range(4)]
        for client in clients:
            client.say(0)
        stepped.reactor.run_pass()
        for number, client in enumerate(clients, 1):
            client.say(number)
        mock_clock.jump(2)
        for number in (10, 20):
            other.say(number)
            stepped.reactor.run_pass()
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 0, 0, 10, 1, 20, 2, 3]


async def test_a_throttled_client_waits_a_bounded_time_for_other_operations(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        client.say(1)
        stepped.reactor.operations.in_flight = 1
        mock_clock.jump(1.9)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0]
        mock_clock.jump(0.1)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1]


async def test_a_throttled_client_is_read_though_others_send_all_the_time(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing("10")
        client, other = await stepped.enter(), await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        client.say(1)
        for _ in range(4):
            mock_clock.jump(0.5)
            other.say(10)
            stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 10, 10, 10, 10, 1]


@pytest.mark.parametrize("left_over", [False, True])
async def test_the_last_answer_wakes_the_reactor_for_a_throttled_client(
    autojump_clock: MockClock, left_over: bool
) -> None:
    with open_stepped(Budget(throttle_seconds=1, throttled_frames=2)) as stepped, trio.fail_after(10):
        stepped.application = Refusing()
        client = await stepped.enter()
        session = client.connection.session
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stepped.reactor.run)
            client.say(0)
            await trio.sleep(0.1)
            stepped.reactor.operations.in_flight = session._in_flight = 2
            client.say(1, 2, 3, 4)
            await trio.sleep(2 if left_over else 1)
            commands_read = [0, 1, 2] if left_over else [0]
            assert stepped.commands_read == commands_read
            passes = stepped.reactor.statistics().passes
            session.operation_done()
            await trio.testing.wait_all_tasks_blocked()
            assert (stepped.commands_read, stepped.reactor.statistics().passes) == (commands_read, passes)
            session.operation_done()
            await trio.testing.wait_all_tasks_blocked()
            assert stepped.commands_read == [0, 1, 2, 3, 4]
            nursery.cancel_scope.cancel()


async def test_a_rate_limited_client_is_throttled_after_several_turns_too(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1, turn_frames=2)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        client.peer.sendall(say(0) + say(1) + say(2)[:5])
        stepped.reactor.run_pass()
        stepped.reactor.run_pass()
        client.peer.sendall(say(2)[5:])
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1]
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1, 2]


async def test_answers_of_a_throttled_turn_are_sent_in_one_write(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        sent: list[bytes] = []

        def send(data: bytes) -> int:
            sent.append(data)
            return len(data)

        monkeypatch.setattr(client.connection.session.outbox, "_send", send)
        client.peer.sendall(say(1) + frame_of(PING, b"?") + say(2) + frame_of(CLOSE, (1000).to_bytes(2)))
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert sent == [answers(1) + b"\x8a\x01?" + answers(2) + close_frame(1000)]
        assert client.connection.ended


async def test_throttling_ends_when_the_client_is_not_refused_any_more(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing("1", "2")
        client = await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        client.say(1)
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        client.say(2)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1, 2]


async def test_throttled_input_is_read_though_an_operation_is_never_answered(autojump_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1, throttled_frames=1)) as stepped, trio.fail_after(10):
        stepped.application = Refusing()
        client = await stepped.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stepped.reactor.run)
            client.say(0)
            await trio.sleep(0.5)
            stepped.reactor.operations.in_flight = 1
            client.say(1, 2)
            await trio.sleep(2)
            assert stepped.commands_read == [0, 1]
            await trio.sleep(1)
            assert stepped.commands_read == [0, 1, 2]
            nursery.cancel_scope.cancel()


async def test_throttled_input_is_read_after_a_pause_without_other_answers(
    autojump_clock: MockClock,
) -> None:
    with open_stepped(Budget(throttle_seconds=1, throttled_frames=1)) as stepped, trio.fail_after(20):
        stepped.application = Refusing()
        client = await stepped.enter()
        session = client.connection.session
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stepped.reactor.run)
            client.say(0)
            await trio.sleep(0.5)
            stepped.reactor.operations.in_flight = 2
            client.say(1, 2)
            await trio.sleep(2)
            session._in_flight = Limits().operations_in_flight
            await trio.sleep(5)
            assert stepped.commands_read == [0, 1]
            session.operation_done()
            await trio.sleep(1.1)
            assert stepped.commands_read == [0, 1, 2]
            nursery.cancel_scope.cancel()


async def test_operations_are_not_counted_while_no_client_is_throttled(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing("1")
        client = await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        assert stepped.reactor.operations.on_none is not None
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert stepped.reactor.operations.on_none is None


async def test_throttling_ends_after_twice_its_time_without_other_events(autojump_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped, trio.fail_after(10):
        stepped.application = Refusing()
        client = await stepped.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stepped.reactor.run)
            client.say(0)
            await trio.sleep(0.5)
            client.say(1, 2)
            await trio.sleep(1.4)
            assert stepped.commands_read == [0]
            await trio.sleep(0.2)
            assert stepped.commands_read == [0, 1, 2]
            nursery.cancel_scope.cancel()


async def test_a_silent_throttled_client_is_read_at_once_when_it_sends(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        client.say(1)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1]


async def test_a_socket_that_ends_while_throttled_gets_no_turn(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing()
        client, other = await stepped.enter(), await stepped.enter()
        for each in (client, other):
            each.say(0)
        stepped.reactor.run_pass()
        client.say(1)
        client.connection.expired()
        other.say(2)
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert (stepped.commands_read, stepped.ended) == ([0, 0, 2], [client.connection.session])


async def test_a_socket_closed_while_throttled_is_read_until_its_close(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        client.connection.session.close(CloseCode.DRAINING)
        client.peer.sendall(frame_of(CLOSE, (1001).to_bytes(2)))
        stepped.reactor.run_pass()
        assert stepped.ended == [client.connection.session]


async def test_a_client_that_never_reads_its_refusals_is_closed_as_too_slow(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1, throttled_frames=50)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        session = client.connection.session
        while not session.buffered_bytes:
            session.push(Frames.of([b"x" * 10_000]))
        most = 0
        while not session.closed:
            assert len(stepped.commands_read) < 10_000
            client.say(*range(50))
            mock_clock.jump(1)
            stepped.reactor.run_pass()
            most = max(most, session.buffered_bytes)
        assert most <= Limits().outbox_bytes
        got = b""
        while data := client.read():
            got += data
            stepped.reactor.run_pass()
        assert close_frame(CloseCode.OVERLOADED, "too slow") in got[-100:]


async def test_throttled_input_waits_though_the_peer_reads_again(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1, throttled_frames=1)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        client.say(1, 2, 3)
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1]
        stepped.reactor.operations.in_flight = 1
        for _ in range(3):
            client.connection.want_write(lambda: None)
            stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1]
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1, 2]


async def test_throttled_input_is_read_in_a_quiet_moment_after_a_pause(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1, throttled_frames=1)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        session = client.connection.session
        client.say(0)
        stepped.reactor.run_pass()
        client.say(1, 2, 3)
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        session._in_flight = Limits().operations_in_flight
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1]
        stepped.reactor.operations.in_flight = 2
        session.operation_done()
        stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1]
        stepped.reactor.operations.in_flight = 0
        for _ in range(3):
            stepped.reactor.run_pass()
        assert stepped.commands_read == [0, 1, 2, 3]


async def test_the_peers_close_is_read_after_throttled_input(
    mock_clock: MockClock,
) -> None:
    with open_stepped(Budget(throttle_seconds=1, throttled_frames=1)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        session = client.connection.session
        client.say(0)
        stepped.reactor.run_pass()
        client.peer.sendall(say(1) + say(2) + frame_of(CLOSE, (1001).to_bytes(2)))
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        session._in_flight = Limits().operations_in_flight
        stepped.reactor.run_pass()
        stepped.reactor.operations.in_flight = 1
        session.close(CloseCode.DRAINING)
        for _ in range(3):
            stepped.reactor.run_pass()
        assert (stepped.commands_read, stepped.ended) == ([0, 1], [session])


async def test_a_client_throttled_again_goes_to_the_end_of_the_queue(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing()
        clients = await stepped.enter(), await stepped.enter()
        for number, client in enumerate(clients):
            stepped.reactor.throttle(client.connection, left_over=True)
            client.say(number)
        stepped.reactor.throttle(clients[0].connection, left_over=True)
        stepped.reactor.run_pass()
        stepped.reactor.run_pass()
        assert stepped.commands_read == [1, 0]


async def test_an_error_in_a_throttled_turn_sends_its_answers_and_1011(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Refusing()
        client = await stepped.enter()
        client.say(0)
        stepped.reactor.run_pass()
        client.read()
        feed = FrameReader.feed

        def fail(reader: FrameReader, data: bytearray, count: int, *, frames: int, messages: bool = True) -> None:
            feed(reader, data, count, frames=frames, messages=messages)
            raise RecursionError("planted")

        monkeypatch.setattr(FrameReader, "feed", fail)
        client.say(1)
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert client.read() == answers(1) + close_frame(CloseCode.SERVER_FAILED, "the server failed")
    assert len(caplog.records) == 1


class Raising(Refusing):
    """An application whose receivers answer at once, accept, refuse or raise, depending on the text."""

    async def join(self, session: Session, admission: Admission) -> Receiver:
        receiver = await RecordingApplication.join(self, session, admission)
        return Raiser(receiver.receive, receiver.malformed, receiver.leave, self, session)


@attrs.frozen
class Raiser(Refuser):
    def receive(self, command: Command | UnknownType) -> bool | None:
        self.take(command)
        match self.application.texts[-1]:
            case "1":
                return True
            case "2":
                self.session.operation_done()
                return True
            case "3":
                return None
            case "4":
                return False
            case _:
                raise RuntimeError("planted")


async def test_a_refusal_behind_operations_in_flight_throttles_the_next_input(mock_clock: MockClock) -> None:
    with open_stepped(Budget(throttle_seconds=1)) as stepped:
        stepped.application = Raising()
        client = await stepped.enter()
        client.say(1)
        stepped.reactor.run_pass()
        client.connection.session.operation_done(flooding=True)
        client.say(3)
        stepped.reactor.run_pass()
        client.say(3)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [1, 3]
        mock_clock.jump(1)
        stepped.reactor.run_pass()
        assert stepped.commands_read == [1, 3, 3]


@pytest.mark.parametrize(
    ("frame", "in_flight"),
    [
        (say(1), 1),
        (say(2), 0),
        (say(3), 0),
        (say(4), 0),
        (say(5), 0),
        (frame_of(TEXT, b"{"), 0),
        (frame_of(TEXT, b"\xff"), 0),
        (frame_of(BINARY, b""), 0),
    ],
    ids=["granted", "answered", "uncounted", "refused", "failed", "malformed", "no-text", "binary"],
)
async def test_only_what_was_granted_and_is_not_answered_is_in_flight(frame: bytes, in_flight: int) -> None:
    with open_stepped() as stepped:
        stepped.application = Raising()
        client = await stepped.enter()
        client.peer.sendall(frame)
        stepped.reactor.run_pass()
        assert stepped.reactor.operations.in_flight == in_flight
        client.connection.expired()
        assert stepped.reactor.operations.in_flight == in_flight
        if in_flight:
            client.connection.session.operation_done()
            assert stepped.reactor.operations.in_flight == 0
