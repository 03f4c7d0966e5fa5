"""Websocket transports with peers that break rules, beyond the checks of `check_transport`."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil  # type: ignore[import-untyped] # it ships no types
import pytest
import trio
import trio.testing

from actorchat.protocol import CloseCode, Frames
from actorchat.testing import RawPeer, RecordingApplication, admission_of
from actorchat.testing._raw_peer import frame_of
from actorchat.testing._transport_harness import until
from actorchat.transports.ports import Limits
from actorchat.transports.request_head import RequestHead
from tests.transports.dialers import OPENERS, SocketDialer, open_sockets, read_all

pytestmark = pytest.mark.parametrize("transport", OPENERS)

COMMAND = b'{"type":"send_message","data":{"text":"%d"}}'
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@asynccontextmanager
async def dialed(
    transport: str, application: RecordingApplication, limits: Limits | None = None
) -> AsyncIterator[tuple[SocketDialer, RawPeer]]:
    with trio.fail_after(20):
        async with (
            open_sockets(application, limits or Limits(), trio.current_time, transport=transport) as dialer,
            dialer.dial(admission_of(1)) as peer,
        ):
            await until(lambda: bool(application.sessions), "the peer joins")
            yield dialer, peer


async def until_left(application: RecordingApplication) -> None:
    await until(lambda: len(application.left) == len(application.sessions), "everyone has left")


async def test_only_the_contracts_subprotocol_is_answered(transport: str) -> None:
    async with open_sockets(RecordingApplication(), Limits(), trio.current_time, transport=transport) as dialer:
        dialer.verdicts.append(admission_of(1))
        async with await dialer.connect() as stream:
            head = await RawPeer(stream).handshake(subprotocols=("bearer.x", "other", "actorchat.v1"))
    assert head.startswith(b"HTTP/1.1 101 ")
    lines = head.lower().split(b"\r\n")
    assert [line for line in lines if b"protocol:" in line] == [b"sec-websocket-protocol: actorchat.v1"]


async def test_frames_sent_with_the_head_are_not_lost(transport: str) -> None:
    application = RecordingApplication()
    async with open_sockets(application, Limits(), trio.current_time, transport=transport) as dialer:
        dialer.verdicts.append(admission_of(1))
        async with await dialer.connect() as stream:
            behind = frame_of(TEXT, COMMAND % 0) + frame_of(TEXT, COMMAND % 1)
            await RawPeer(stream).handshake(behind=behind)
            await until(lambda: application.texts == ["0", "1"], "both commands arrive")


async def test_fragments_with_pings_between_are_one_message(transport: str) -> None:
    application = RecordingApplication()
    async with dialed(transport, application) as (_, peer):
        text = '{"type":"send_message","data":{"text":"п"}}'.encode()
        middle = text.index("п".encode()) + 1
        await peer.send_fragments([text[:middle], b"", text[middle:]], between=frame_of(PING, b"?"))
        await peer.close()
        await peer.read_to_end()
        assert application.texts == ["п"]
        assert [frame for frame in peer.frames if frame[0] == PONG] == [(PONG, b"?")] * 2


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame_of(TEXT, b"x", masked=False), 1002),
        (frame_of(0, b"x"), 1002),
        (frame_of(3, b"x"), 1002),
        (frame_of(TEXT | 0x40, b"x"), 1002),
        (frame_of(PING, b"x" * 126), 1002),
        (frame_of(PING, b"x", final=False), 1002),
        (frame_of(CLOSE, b"x"), 1002),
        (frame_of(CLOSE, (1005).to_bytes(2)), 1002),
        (frame_of(CLOSE, (1000).to_bytes(2) + b"\xff"), 1007),
        (frame_of(TEXT, b"\xff"), 1007),
        (frame_of(TEXT, b"\xd0", final=False) + frame_of(0, b"\x00"), 1007),
        (frame_of(TEXT, b"\xd0"), 1007),
        (frame_of(TEXT, b"[", final=False) + frame_of(TEXT, b"]"), 1002),
        (frame_of(TEXT, b"x" * 65_537), 1009),
        (frame_of(BINARY, b"x" * 65_537), 1009),
        (frame_of(TEXT, b"x" * 40_000, final=False) + frame_of(0, b"x" * 40_000, final=False), 1009),
        (frame_of(TEXT, b"x" * 65_537) + frame_of(PING, b"?") + frame_of(TEXT, b"x" * 65_537), 1009),
        (b"\x81\xff" + (2**62).to_bytes(8) + b"\0" * 300_000, 1009),
    ],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else str(value),
)
async def test_broken_protocol_gets_its_code_and_nothing_more(
    transport: str, sent: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    application = RecordingApplication()
    with caplog.at_level(logging.WARNING, "actorchat"):
        async with dialed(transport, application) as (dialer, peer):
            await peer.stream.send_all(sent)
            with pytest.raises(trio.EndOfChannel):
                await peer.receive()
            await until_left(application)
            assert (peer.close_code, peer.after_close, application.commands) == (code, 0, [])
            assert not peer.was_reset
            await until(lambda: dialer.open_sockets == 0, "the socket ends")
    assert not caplog.records


async def test_an_ordinary_close_is_echoed_with_its_code(transport: str) -> None:
    application = RecordingApplication()
    async with dialed(transport, application) as (_, peer):
        await peer.send_frame(CLOSE, (4000).to_bytes(2) + b"mine")
        await peer.read_to_end()
        assert peer.close_code == 4000


async def test_a_half_closed_peer_ends_after_its_commands_were_read(transport: str) -> None:
    application = RecordingApplication()
    async with dialed(transport, application) as (_, peer):
        for number in range(3):
            await peer.send_text(COMMAND % number)
        await peer.half_close()
        await until_left(application)
        assert application.texts == ["0", "1", "2"]


async def test_a_peer_that_keeps_sending_after_a_close_still_reads_it(transport: str) -> None:
    application = RecordingApplication()
    async with dialed(transport, application) as (_, peer):
        peer.answers_close = False
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                try:
                    for _ in range(2_000):
                        await peer.send_text(b"not json" * 500)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return

            nursery.start_soon(flood)
            await peer.read_to_end()
            nursery.cancel_scope.cancel()
        assert peer.close_code == CloseCode.MALFORMED


async def test_pings_are_answered_after_waiting_frames_and_by_the_latest_pong(transport: str) -> None:
    application = RecordingApplication()
    async with dialed(transport, application) as (_, peer):
        session = application.sessions[0]
        pushed = 0
        while session.buffered_bytes < 5_000:
            session.push(Frames.of([b"x" * 1_000]))
            pushed += 1
        for number in range(50):
            await peer.send_frame(PING, b"%d" % number)
        await peer.send_text(COMMAND % 0)
        await until(lambda: bool(application.texts), "the command behind the pings arrives")
        session.close(CloseCode.DONE)
        await peer.read_to_end()
        assert [payload for opcode, payload in peer.frames if opcode == PONG] == [b"49"]
        assert len(peer.frames) == pushed + 2


async def test_a_slow_peer_is_reset_two_seconds_after_its_overflow(transport: str) -> None:
    clock_limits = Limits(outbox_bytes=20_000, overflow_linger=0.05)
    application = RecordingApplication()
    async with dialed(transport, application, clock_limits) as (dialer, peer):
        session = application.sessions[0]
        while session.buffered_bytes < 15_000:
            session.push(Frames.of([b"x" * 1_000]))
        session.push(Frames.of([b"x" * 10_000]))
        await until(lambda: dialer.open_sockets == 0, "the socket ends")
        with pytest.raises(trio.BrokenResourceError):
            await read_all(peer.stream)


async def test_a_slow_peer_needs_a_task_only_while_slow_and_none_in_the_reactor(transport: str) -> None:
    application = RecordingApplication()
    async with dialed(transport, application) as (dialer, peer):
        session = application.sessions[0]
        nursery = dialer.transport.nursery
        idle = len(nursery.child_tasks)
        pushed = 0
        while session.buffered_bytes < 2_000:
            session.push(Frames.of([b"x" * 1_000]))
            pushed += 1
        assert len(nursery.child_tasks) == idle + (0 if transport == "reactor" else 1)
        for _ in range(pushed):
            await peer.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert (session.buffered_bytes, len(nursery.child_tasks)) == (0, idle)


async def test_the_kernel_holds_little_for_a_slow_peer(transport: str) -> None:
    application = RecordingApplication()
    async with open_sockets(
        application, Limits(), trio.current_time, transport=transport, small_buffers=False
    ) as dialer:
        dialer.verdicts.append(admission_of(1))
        async with await trio.open_tcp_stream("127.0.0.1", dialer.listener.port) as stream:
            await RawPeer(stream).handshake()
            await until(lambda: bool(application.sessions), "the peer joins")
            session = application.sessions[0]
            taken = 0
            while not session.buffered_bytes:
                session.push(Frames.of([b"x" * 1_000]))
                taken += 1_000
    assert taken < 1_000_000


async def test_cancelling_the_server_leaves_no_descriptor(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    application = RecordingApplication()
    gc.collect()
    before = psutil.Process().num_fds()
    with caplog.at_level(logging.WARNING, "actorchat"):
        async with open_sockets(application, Limits(), trio.current_time, transport=transport) as dialer:
            dialer.verdicts.append(admission_of(1))
            async with await dialer.connect() as stream:
                await RawPeer(stream).handshake()
                await until(lambda: bool(application.sessions), "the peer joins")
                dialer.transport.nursery.cancel_scope.cancel()
    # Ask the kernel, because garbage collection would hide a descriptor that was not closed.
    assert psutil.Process().num_fds() == before
    assert application.left == application.sessions
    assert not caplog.records


async def test_an_exception_in_one_socket_is_logged_once(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    application = RecordingApplication()
    application.fails = True
    async with dialed(transport, application) as (_, peer):
        await peer.send_text(COMMAND % 0)
        await peer.read_to_end()
    (record,) = [record for record in caplog.records if record.name.startswith("actorchat")]
    assert record.exc_info is not None
    assert "planted" in str(record.exc_info[1])


async def test_the_request_head_is_not_kept_in_memory(transport: str) -> None:
    application = RecordingApplication()
    async with dialed(transport, application) as (dialer, _):
        head: RequestHead = dialer.heads[0]
        assert "bearer.secret" in head.subprotocols
        assert b"bearer" not in head.upgrade("actorchat.v1.ext").request
