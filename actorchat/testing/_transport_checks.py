"""Checks that a transport keeps its promises: every implementation passes `check_transport`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from actorchat.protocol import CloseCode, Frames, UnknownType, UpdateTyping
from actorchat.testing._transport_harness import (
    OpenTransport,
    Peer,
    RecordingApplication,
    admission_of,
    close_follows,
    expect,
    fill,
    joined,
    opened,
    padded,
    send_commands,
    settled,
    until,
)
from actorchat.transports.ports import Limits

__all__ = ["TIMED_TRANSPORT_CHECKS", "TRANSPORT_CHECKS", "Check", "check_transport"]

_EVENT: Final = b'{"type":"event","data":%d}'


async def check_transport(open_transport: OpenTransport, *, timed: bool) -> None:
    """Run every check. `timed` adds those that wait for minutes; they need a virtual clock.

    Raises AssertionError, which names the broken promise. There is no timeout: wrap it in `trio.fail_after`.
    """
    for check in (*TRANSPORT_CHECKS, *(TIMED_TRANSPORT_CHECKS if timed else ())):
        await check(open_transport)


async def commands_arrive_decoded_and_in_order(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        await send_commands(peer, 20)
        await peer.send_text('{"type":"update_typing","data":{"text":"a","stopped":false}}')
        await peer.send_text('{"type":"from_the_future","data":{}}')
        await until(lambda: len(application.commands) == 22, "22 commands arrive")
        expect(application.texts == [str(number) for number in range(20)], "commands keep their order")
        expect(application.commands[20] == UpdateTyping("a", False), "a command is decoded")
        expect(application.commands[21] == UnknownType("from_the_future"), "an unknown type is passed on")


async def frames_reach_every_session_once_in_order(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with (
        opened(open_transport, application) as dialer,
        dialer.dial(admission_of(1)) as first,
        dialer.dial(admission_of(2)) as second,
    ):
        await joined(application, 2)
        for number in range(0, 100, 2):
            frames = Frames.of([_EVENT % number, _EVENT % (number + 1)])
            for session in application.sessions:
                session.push(frames)
        for peer in (first, second):
            got = [await peer.receive() for _ in range(100)]
            expect(got == [_EVENT % number for number in range(100)], "every frame once, in order")


async def a_slow_reader_loses_typing_first(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    limits = Limits(outbox_bytes=40_000, outbox_low=10)
    async with opened(open_transport, application, limits) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        filler = await fill(session)
        for _ in range(10):
            session.push(Frames.of([b'{"typing":"%s"}' % (b"t" * 2_000)], typing=True))
        for number in range(15):
            session.push(Frames.of([b'{"kept":%d,"x":"%s"}' % (number, b"x" * 2_000)]))
        for _ in range(filler):
            await peer.receive()
        got = [await peer.receive() for _ in range(15)]
        expect(not any(b"typing" in payload for payload in got), "typing is dropped first")
        expect(all(b'"kept":%d,' % place in payload for place, payload in enumerate(got)), "events stay")
        expect(not application.left, "the session stays open")


async def a_reader_that_overflows_its_outbox_is_closed_with_1013(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    limits = Limits(outbox_bytes=20_000)
    async with opened(open_transport, application, limits) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        pushed = await fill(session)
        for number in range(pushed, pushed + 100):
            session.push(Frames.of([padded(number)]))
            expect(session.buffered_bytes <= 20_000 + 127, "the bound is kept")
        everything = [padded(number) for number in range(pushed + 100)]
        await close_follows(peer, CloseCode.OVERLOADED, everything, whole=False)
        await until(lambda: application.left == [session], "the room is left")


async def nothing_follows_a_close(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        session.push(Frames.of([_EVENT % 0]))
        session.close(CloseCode.SIGNED_OUT, "bye")
        session.close(CloseCode.DONE)
        session.push(Frames.of([_EVENT % 1]))
        await close_follows(peer, CloseCode.SIGNED_OUT, [_EVENT % 0])


async def input_after_a_close_is_ignored(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        session.close(CloseCode.DONE)
        with suppress(trio.BrokenResourceError):
            await send_commands(peer, 3)
            await peer.send_binary(b"")
        await close_follows(peer, CloseCode.DONE, [])
        expect(not application.commands, "a closed session receives no commands")
        expect(not application.faults, "a closed session reports no malformed frames")


async def the_third_malformed_frame_in_a_row_closes_with_1008(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        await peer.send_text("not JSON")
        await peer.send_binary(b'{"type":"from_the_future","data":{}}')
        await peer.send_text('{"type":"from_the_future","data":{}}')
        await peer.send_text("[" * 3_000)
        await peer.send_text('{"type":"send_message","data":{"text":7}}')
        await until(lambda: len(application.faults) == 4, "each malformed frame is reported")
        await peer.send_binary(b"\0")
        await close_follows(peer, CloseCode.MALFORMED, [])
        expect(len(application.faults) == 5, "the last malformed frame is reported too")


async def malformed_typing_is_reported_and_never_closes(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        for _ in range(2):
            await peer.send_text("not JSON")
            for _ in range(3):
                await peer.send_text('{"type":"update_typing","data":{"text":null,"stopped":false}}')
        await peer.send_text('{"type":"update_typing","data":{"text":"\\ud83d","stopped":false}}')
        await until(lambda: application.commands == [UpdateTyping("\ufffd", False)], "a lone surrogate is replaced")
        expect(len(application.faults) == 8, "each malformed frame is reported")


async def text_that_is_not_utf8_closes_with_1007(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        await peer.send_text(b'{"type":"send_message","data":{"text":"\xff"}}')
        await close_follows(peer, CloseCode.NOT_UTF8, [])


async def over_64_kib_closes_with_1009(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        await peer.send_text('{"type":"from_the_future","data":"%s"}' % ("x" * 65_000))
        # 40,000 characters, but 80,000 bytes.
        await peer.send_text('{"type":"from_the_future","data":"%s"}' % ("\N{CYRILLIC SMALL LETTER IO}" * 40_000))
        await close_follows(peer, CloseCode.TOO_BIG, [])
        expect(application.commands == [UnknownType("from_the_future")], "a frame within the limit arrives")


async def reading_pauses_at_eight_operations_in_flight(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    application.takes = True
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        await send_commands(peer, 9)
        session = (await joined(application, 1))[0]
        await until(lambda: len(application.commands) >= 8, "eight operations are accepted")
        await settled()
        expect(len(application.commands) == 8, "the ninth operation waits")
        session.operation_done()
        await until(lambda: len(application.commands) == 9, "an answer lets one more operation in")
        for _ in range(8):
            session.operation_done()


async def a_paused_session_can_be_closed(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    application.takes = True
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        await send_commands(peer, 9)
        await until(lambda: len(application.commands) == 8, "eight operations are accepted")
        start = trio.current_time()
        application.sessions[0].close(CloseCode.DONE)
        await close_follows(peer, CloseCode.DONE, [])
        await until(lambda: dialer.open_sockets == 0, "the socket ends")
        expect(trio.current_time() - start < Limits().close_linger, "the socket ends before the linger time")


async def an_exception_closes_that_socket_only_with_1011(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with (
        opened(open_transport, application) as dialer,
        dialer.dial(admission_of(1)) as first,
        dialer.dial(admission_of(2)) as second,
    ):
        application.fails = True
        await send_commands(first, 1)
        await close_follows(first, CloseCode.SERVER_FAILED, [])
        application.fails = False
        await send_commands(second, 1)
        await until(lambda: len(application.commands) == 2, "the other socket stays open")


async def a_failing_join_closes_with_1011(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    application.refuses = True
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        await close_follows(peer, CloseCode.SERVER_FAILED, [])


async def a_peers_close_ends_the_session(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        await send_commands(peer, 1)
        await peer.close(CloseCode.DONE)
        await until(lambda: application.left == [session], "the room is left")
        expect(application.texts == ["0"], "a command before the Close is received")
        await until(lambda: dialer.open_sockets == 0, "the socket ends")


async def a_vanished_peer_ends_the_session(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        await fill(session)
        await peer.vanish()
        await until(lambda: application.left == [session], "the room is left")
        session.push(Frames.of([_EVENT % 1]))
        session.close(CloseCode.DONE)
        await session.wait_drained()
        await until(lambda: dialer.open_sockets == 0, "the socket ends")


async def both_sides_may_close_at_once(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        session.close(CloseCode.RESTARTING)
        await peer.close(CloseCode.DONE)
        with suppress(trio.EndOfChannel):
            await peer.receive()
        await until(lambda: dialer.open_sockets == 0, "the socket ends")
        expect(application.left == [session], "the room is left once")


async def replay_is_paced_by_the_reader(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    limits = Limits(outbox_low=100)
    async with opened(open_transport, application, limits) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        pushed = await fill(session)
        async with trio.open_nursery() as nursery:
            drained = trio.Event()

            async def wait() -> None:
                await session.wait_drained()
                drained.set()

            nursery.start_soon(wait)
            await settled()
            expect(not drained.is_set(), "wait_drained waits for a peer that does not read")
            for _ in range(pushed):
                await peer.receive()
        expect(session.buffered_bytes <= 100, "little is left in the buffer")


async def draining_closes_every_socket_with_1001(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with (
        opened(open_transport, application) as dialer,
        dialer.dial(admission_of(1)) as first,
        dialer.dial(admission_of(2)) as second,
        trio.open_nursery() as nursery,
    ):
        await joined(application, 2)
        nursery.start_soon(close_follows, first, CloseCode.DRAINING, [])
        nursery.start_soon(close_follows, second, CloseCode.DRAINING, [])
        await dialer.drain()
        expect(dialer.open_sockets == 0, "no socket is left")
        expect(len(application.left) == 2, "both sessions leave the room")
        async with dialer.dial(admission_of(3)) as late:
            await close_follows(late, CloseCode.DRAINING, [])


async def a_peer_that_answers_pings_stays(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        await joined(application, 1)
        with trio.move_on_after(600):
            await peer.receive()
        expect(not application.left, "a live peer is not closed")


async def a_silent_peer_is_closed_after_60_seconds(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        peer.answers_pings = peer.answers_close = False
        await joined(application, 1)
        start = trio.current_time()
        with suppress(trio.EndOfChannel):
            await peer.receive()
        expect(59 <= trio.current_time() - start <= 62, "a silent peer is closed after 60 s")
        expect(peer.close_code == CloseCode.SERVER_FAILED, "with 1011")
        await until(lambda: dialer.open_sockets == 0, "the socket ends")


async def a_paused_peer_is_not_silent(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    application.takes = True
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        peer.answers_pings = False
        await send_commands(peer, 8)
        with trio.move_on_after(300):
            await peer.receive()
        expect(not application.left, "it is this side that does not read")


async def a_peer_that_sends_during_a_slow_join_is_not_silent(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    application.join_seconds = 150.0
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        # Commands are read only once the peer has joined, and a pong would come after them.
        peer.answers_pings = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.receive)
            nursery.start_soon(send_commands, peer, 4)
            await trio.sleep(application.join_seconds + 1)
            await until(lambda: len(application.commands) == 4, "the commands are read once the peer has joined")
            nursery.cancel_scope.cancel()
        expect(not application.left, "it is this side that does not read")


async def a_peer_that_reads_nothing_for_30_seconds_is_closed_with_1013(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        await fill(session)
        start = trio.current_time()
        session.push(Frames.of([padded(0)] * 100))
        async with trio.open_nursery() as nursery:
            # The peer does not read, but it sends, so it is not silent.
            nursery.start_soon(_talk, peer)
            expect(not await session.wait_drained(), "wait_drained reports that the session is closed")
            expect(30 <= trio.current_time() - start <= 33, "the session is closed after 30 s")
            await until(lambda: dialer.open_sockets == 0, "the socket ends")
            nursery.cancel_scope.cancel()
        expect(trio.current_time() - start <= 33 + Limits().overflow_linger, "the socket ends, its Close read or not")


async def a_peer_that_reads_slowly_stays(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        session = (await joined(application, 1))[0]
        filler = await fill(session)
        session.push(Frames.of([padded(number) for number in range(500)]))
        for _ in range(10):
            await trio.sleep(25)
            for _ in range(40):
                await peer.receive()
        for _ in range(filler + 100):
            await peer.receive()
        expect(not application.left, "a slow reader is not closed")


async def _talk(peer: Peer) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            await peer.send_text('{"type":"from_the_future","data":{}}')
            await trio.sleep(5)


async def an_expired_token_closes_with_4401(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    admission = admission_of(1, expires_at=trio.current_time() + 90)
    async with (
        opened(open_transport, application, wall=trio.current_time) as dialer,
        dialer.dial(admission) as peer,
    ):
        start = trio.current_time()
        await close_follows(peer, CloseCode.NOT_AUTHENTICATED, [])
        expect(89 <= trio.current_time() - start <= 92, "the socket is closed within a second of the expiry")


async def an_unanswered_close_ends_after_the_linger(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    async with opened(open_transport, application) as dialer, dialer.dial(admission_of(1)) as peer:
        peer.answers_close = False
        session = (await joined(application, 1))[0]
        await fill(session)
        session.close(CloseCode.DONE)
        start = trio.current_time()
        await until(lambda: dialer.open_sockets == 0, "the socket ends")
        expect(trio.current_time() - start <= Limits().close_linger + 0.1, "the socket ends after the linger time")


async def an_overflowing_peer_is_reset_after_two_seconds(open_transport: OpenTransport) -> None:
    application = RecordingApplication()
    limits = Limits(outbox_bytes=20_000)
    async with opened(open_transport, application, limits) as dialer, dialer.dial(admission_of(1)):
        session = (await joined(application, 1))[0]
        await fill(session)
        start = trio.current_time()
        for number in range(100):
            session.push(Frames.of([padded(number)]))
        await until(lambda: dialer.open_sockets == 0, "the socket ends")
        expect(1.9 <= trio.current_time() - start <= 2.1, "the socket ends after two seconds")


Check = Callable[[OpenTransport], Awaitable[None]]

TRANSPORT_CHECKS: Final[Sequence[Check]] = (
    commands_arrive_decoded_and_in_order,
    frames_reach_every_session_once_in_order,
    a_slow_reader_loses_typing_first,
    a_reader_that_overflows_its_outbox_is_closed_with_1013,
    nothing_follows_a_close,
    input_after_a_close_is_ignored,
    the_third_malformed_frame_in_a_row_closes_with_1008,
    malformed_typing_is_reported_and_never_closes,
    text_that_is_not_utf8_closes_with_1007,
    over_64_kib_closes_with_1009,
    reading_pauses_at_eight_operations_in_flight,
    a_paused_session_can_be_closed,
    an_exception_closes_that_socket_only_with_1011,
    a_failing_join_closes_with_1011,
    a_peers_close_ends_the_session,
    a_vanished_peer_ends_the_session,
    both_sides_may_close_at_once,
    replay_is_paced_by_the_reader,
    draining_closes_every_socket_with_1001,
)
"""Checks that pass under any clock."""

TIMED_TRANSPORT_CHECKS: Final[Sequence[Check]] = (
    a_peer_that_answers_pings_stays,
    a_silent_peer_is_closed_after_60_seconds,
    a_paused_peer_is_not_silent,
    a_peer_that_sends_during_a_slow_join_is_not_silent,
    a_peer_that_reads_nothing_for_30_seconds_is_closed_with_1013,
    a_peer_that_reads_slowly_stays,
    an_expired_token_closes_with_4401,
    an_unanswered_close_ends_after_the_linger,
    an_overflowing_peer_is_reset_after_two_seconds,
)
"""Checks that wait for minutes: run them under a virtual clock."""
