"""The listener: routing of connections, refusals, limits and failures."""

from __future__ import annotations

import errno
import gc
import logging
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from actorchat.chat.ports import Session
from actorchat.protocol import CloseCode
from actorchat.testing import RawPeer, RecordingApplication, admission_of
from actorchat.testing._raw_peer import frame_of
from actorchat.testing._transport_harness import until
from actorchat.transports.kernel import KERNEL, Kernel
from actorchat.transports.listener import AuthorizeUpgrade, Listener, Rejection, bind
from actorchat.transports.ports import Admission, Limits, Receiver
from actorchat.transports.request_head import RequestHead
from tests.transports.dialers import OPENERS, SocketDialer, echo_http, open_sockets, read_all

BOTH = pytest.mark.parametrize("transport", OPENERS)


class AtOnce(RecordingApplication):
    """An application whose joins are immediate."""

    def join(self, session: Session, admission: Admission) -> Receiver:  # type: ignore[override]  # at once
        return self.receiver(session)


@asynccontextmanager
async def opened(transport: str, application: RecordingApplication | None = None) -> AsyncIterator[SocketDialer]:
    application = application or RecordingApplication()
    with trio.fail_after(20):
        async with open_sockets(application, Limits(), trio.current_time, transport=transport) as dialer:
            yield dialer


@asynccontextmanager
async def listening(dialer: SocketDialer, authorize: AuthorizeUpgrade) -> AsyncIterator[None]:
    """Inside the block, the dialer connects to another listener with that `authorize`."""
    dialer.listener.close()
    dialer.listener = Listener(
        await bind("127.0.0.1", 0), transport=dialer.transport, authorize=authorize, http=echo_http
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(dialer.listener.serve)
        yield
        dialer.listener.close()


def text_frame(number: int) -> bytes:
    return frame_of(1, b'{"type":"send_message","data":{"text":"%d"}}' % number)


async def answer_to(dialer: SocketDialer, sent: bytes) -> bytes:
    async with await dialer.connect() as stream:
        await stream.send_all(sent)
        return await read_all(stream)


@BOTH
async def test_a_request_without_an_upgrade_goes_to_http_with_its_head(transport: str) -> None:
    request = b"POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
    async with opened(transport) as dialer:
        assert (await answer_to(dialer, request)).endswith(request)


@BOTH
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 17_000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", b"400"),
    ],
)
async def test_a_bad_head_is_answered_and_closed(transport: str, sent: bytes, status: bytes) -> None:
    async with opened(transport) as dialer:
        answer = await answer_to(dialer, sent)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b'{"error":{"code":"bad_request"' in answer


@BOTH
async def test_an_old_websocket_version_is_refused_with_the_supported_one(transport: str) -> None:
    sent = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    async with opened(transport) as dialer:
        answer = await answer_to(dialer, sent)
    assert answer.startswith(b"HTTP/1.1 426")
    assert b"Sec-WebSocket-Version: 13\r\n" in answer


@BOTH
async def test_a_refused_client_gets_a_status_before_the_upgrade(transport: str) -> None:
    async with opened(transport) as dialer, await dialer.connect() as stream:
        dialer.verdicts.append(Rejection(status=403, body=b'{"error":{}}'))
        head = await RawPeer(stream).handshake()
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"Content-Type: application/json" in head


@BOTH
async def test_a_refused_browser_gets_a_close_after_the_upgrade(transport: str) -> None:
    async with opened(transport) as dialer, await dialer.connect() as stream:
        dialer.verdicts.append(Rejection(status=404, close_code=CloseCode.NO_SUCH_CHAT, reason="none"))
        peer = RawPeer(stream)
        head = await peer.handshake(subprotocols=("actorchat.v1", "bearer.x"))
        await peer.read_to_end()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert (peer.close_code, peer.close_reason, peer.was_reset) == (4404, "none", False)


@BOTH
async def test_an_error_in_authorize_affects_one_connection(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(transport) as dialer:
        async with await dialer.connect() as stream:
            assert (await RawPeer(stream).handshake()).startswith(b"HTTP/1.1 500 ")
        dialer.verdicts.append(admission_of(1))
        async with await dialer.connect() as stream:
            assert (await RawPeer(stream).handshake()).startswith(b"HTTP/1.1 101 ")
    assert len([record for record in caplog.records if record.name.startswith("actorchat")]) == 1


async def test_a_client_that_is_admitted_at_once_needs_no_task(caplog: pytest.LogCaptureFixture) -> None:
    application = AtOnce()
    verdicts: list[Admission | Rejection] = [admission_of(number) for number in range(3)]

    def authorize(head: RequestHead, peer: str) -> Admission | Rejection:
        return verdicts.pop(0)

    async with opened("reactor", application) as dialer, listening(dialer, authorize):
        before = trio.lowlevel.current_statistics().tasks_living
        streams = [await dialer.connect() for _ in range(3)]
        for number, stream in enumerate(streams):
            await RawPeer(stream).handshake(behind=text_frame(number))
        await until(lambda: sorted(application.texts) == ["0", "1", "2"], "all are read")
        assert trio.lowlevel.current_statistics().tasks_living == before
        verdicts.append(Rejection(status=403))
        async with await dialer.connect() as stream:
            assert (await RawPeer(stream).handshake()).startswith(b"HTTP/1.1 403 ")
        assert not caplog.records
        async with await dialer.connect() as stream:
            assert (await RawPeer(stream).handshake()).startswith(b"HTTP/1.1 500 ")
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        for stream in streams:
            await stream.aclose()


@pytest.mark.skipif(not hasattr(socket, "TCP_DEFER_ACCEPT"), reason="only Linux can put off accepting")
async def test_a_connection_is_not_accepted_before_it_has_sent_data() -> None:
    async with opened("reactor") as dialer, await dialer.connect() as stream:
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert dialer.listener.unfinished == 0
        await stream.send_all(b"G")
        await until(lambda: dialer.listener.unfinished == 1, "the connection is accepted")


@BOTH
async def test_a_slow_head_gets_408(transport: str, mock_clock: trio.testing.MockClock) -> None:
    async with (
        open_sockets(RecordingApplication(), Limits(), trio.current_time, transport=transport) as dialer,
        await dialer.connect() as stream,
    ):
        await stream.send_all(b"GET / HTTP/1.1\r\nHo")
        while not dialer.listener.unfinished:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10.1)
        assert (await read_all(stream)).startswith(b"HTTP/1.1 408")


@asynccontextmanager
async def crowded(
    dialer: SocketDialer,
    *,
    max_unfinished: int = 1,
    max_connections: int | None = None,
    close_idle: Callable[[], bool] = lambda: False,
    authorize: AuthorizeUpgrade | None = None,
    kernel: Kernel = KERNEL,
) -> AsyncIterator[Listener]:
    """Inside the block, the dialer connects to a listener with these limits."""
    dialer.listener.close()
    listener = dialer.listener = Listener(
        await bind("127.0.0.1", 0),
        transport=dialer.transport,
        authorize=authorize or dialer.authorize,
        http=echo_http,
        max_unfinished=max_unfinished,
        max_connections=max_connections,
        close_idle=close_idle,
        kernel=kernel,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.serve)
        yield listener
        nursery.cancel_scope.cancel()


HALF = b"GET / HTTP/1.1\r\nHo"
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def silent(dialer: SocketDialer, address: str = "127.0.0.1") -> trio.SocketStream:
    """An accepted connection from `address` with half a request head."""
    stream = await trio.open_tcp_stream("127.0.0.1", dialer.listener.port, local_address=address)
    await stream.send_all(HALF)
    await trio.testing.wait_all_tasks_blocked(0.01)
    return stream


async def is_cut(stream: trio.SocketStream) -> bool:
    """Whether the connection is reset within a second."""
    with trio.move_on_after(1):
        try:
            return not await stream.receive_some()
        except trio.BrokenResourceError:
            return True
    return False


@BOTH
async def test_one_unfinished_request_too_many_closes_the_oldest(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(transport) as dialer, crowded(dialer, max_unfinished=2) as listener:
        peers = [await silent(dialer) for _ in range(3)]
        assert await is_cut(peers[0])
        assert listener.unfinished == 2
        assert (await answer_to(dialer, REQUEST)).startswith(b"HTTP/1.1 200")
        for peer in peers[1:]:
            await peer.send_all(REQUEST[len(HALF) :])
            assert (await read_all(peer)).startswith(b"HTTP/1.1 200")
        await until(lambda: listener.connections == 0, "all are gone")
        for peer in peers:
            await trio.aclose_forcefully(peer)
    (line,) = caplog.messages
    assert "3 connections from 1 addresses have sent no complete request (127.0.0.1 has 3)" in line


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
@BOTH
async def test_an_address_with_many_silent_peers_displaces_its_own(transport: str) -> None:
    async with opened(transport) as dialer, crowded(dialer, max_unfinished=4):
        alone = await silent(dialer, "127.0.0.7")
        many = [await silent(dialer) for _ in range(10)]
        await alone.send_all(REQUEST[len(HALF) :])
        assert (await read_all(alone)).startswith(b"HTTP/1.1 200")
        assert [await is_cut(peer) for peer in many[:5]] == [True] * 5
        for peer in (alone, *many):
            await trio.aclose_forcefully(peer)


@BOTH
async def test_a_peer_whose_bytes_the_server_has_not_read_is_not_closed(transport: str) -> None:
    waiting: list[int] = []
    kernel = attrs.evolve(KERNEL, has_unread=lambda sock: sock.getpeername()[1] in waiting)
    async with opened(transport) as dialer, crowded(dialer, kernel=kernel):
        quick = await silent(dialer)
        waiting.append(quick.socket.getsockname()[1])
        other = await silent(dialer)
        assert (await answer_to(dialer, REQUEST)).startswith(b"HTTP/1.1 200")
        assert await is_cut(other)
        await quick.send_all(REQUEST[len(HALF) :])
        assert (await read_all(quick)).startswith(b"HTTP/1.1 200")
        for peer in (quick, other):
            await trio.aclose_forcefully(peer)


@BOTH
async def test_while_too_many_upgrades_wait_for_access_others_get_503_and_http_is_served(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked, decide = trio.Event(), trio.Event()

    async def authorize(head: RequestHead, peer: str) -> Rejection:
        asked.set()
        await decide.wait()
        return Rejection(status=403)

    async with (
        opened(transport) as dialer,
        crowded(dialer, authorize=authorize) as listener,
        await dialer.connect() as first,
    ):
        await first.send_all(UPGRADE)
        await asked.wait()
        assert listener.unfinished == 0
        for _ in range(2):
            refusal = await answer_to(dialer, UPGRADE)
            assert refusal.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: " in refusal
        assert (await answer_to(dialer, REQUEST)).startswith(b"HTTP/1.1 200")
        decide.set()
        assert (await read_all(first)).startswith(b"HTTP/1.1 403")
        assert (await answer_to(dialer, UPGRADE)).startswith(b"HTTP/1.1 403")
    (line,) = caplog.messages
    assert "1 websocket upgrades wait" in line


@BOTH
async def test_with_no_descriptor_to_spare_newcomers_get_503_and_one_line_says_why(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        opened(transport) as dialer,
        crowded(dialer, max_connections=2) as listener,
        dialer.dial(admission_of(1)) as one,
        dialer.dial(admission_of(2)) as other,
    ):
        await until(lambda: listener.connections == 2, "both connections are open")
        for _ in range(3):
            answer = await answer_to(dialer, REQUEST)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: " in answer
            assert b'"overloaded"' in answer
        await one.vanish()
        await until(lambda: listener.connections == 1, "one is gone")
        assert (await answer_to(dialer, REQUEST)).startswith(b"HTTP/1.1 200")
        await other.send_text('{"type":"x","data":{}}')
    (line,) = caplog.messages
    assert line.startswith("2 connections are open, which is the limit")
    assert "ulimit -n" in line


@BOTH
async def test_an_idle_connection_is_closed_to_free_a_descriptor(transport: str) -> None:
    idle = [1]
    async with (
        opened(transport) as dialer,
        crowded(dialer, max_connections=2, close_idle=lambda: bool(idle.pop())) as listener,
        dialer.dial(admission_of(1)),
        dialer.dial(admission_of(2)),
    ):
        await until(lambda: listener.connections == 2, "both connections are open")
        assert (await answer_to(dialer, REQUEST)).startswith(b"HTTP/1.1 200")
    assert not idle


class Exhausted:
    """A listening socket whose first `accept` calls fail."""

    def __init__(self, real: socket.socket, *numbers: int) -> None:
        self.real = real
        self.numbers = list(numbers)
        self.fileno = real.fileno
        self.close = real.close
        self.getsockname = real.getsockname
        self.listen = real.listen

    def accept(self) -> tuple[socket.socket, object]:
        if self.numbers:
            raise OSError(self.numbers.pop(0), "planted")
        return self.real.accept()


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


@BOTH
@pytest.mark.parametrize("end", ["half-closed", "closed", "reset"])
@pytest.mark.parametrize("sent", [b"", UPGRADE[:60], UPGRADE], ids=["nothing", "half a head", "a head"])
async def test_a_client_that_goes_in_the_handshake_leaves_no_session_and_delays_nobody(
    transport: str, sent: bytes, end: str
) -> None:
    application = RecordingApplication()
    asked, decide = trio.Event(), trio.Event()

    async def authorize(head: RequestHead, peer: str) -> Admission:
        asked.set()
        await decide.wait()
        return admission_of(1)

    with trio.fail_after(20):
        async with (
            open_sockets(application, Limits(), trio.current_time, transport=transport) as dialer,
            trio.open_nursery() as nursery,
        ):
            sockets = await bind("127.0.0.1", 0)
            if hasattr(socket, "TCP_DEFER_ACCEPT"):
                sockets[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0)
            listener = Listener(sockets, transport=dialer.transport, authorize=authorize, http=echo_http)
            await nursery.start(listener.serve)
            stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
            await stream.send_all(sent)
            await until(lambda: listener.unfinished == 1 or asked.is_set(), "it is in the handshake")
            if end == "half-closed":
                await stream.send_eof()
            elif end == "reset":
                await RawPeer(stream).vanish()
            else:
                await stream.aclose()
            async with dialer.dial(admission_of(2)) as peer:
                await peer.send_text('{"type":"send_message","data":{"text":"undisturbed"}}')
                await until(lambda: application.texts == ["undisturbed"], "another one is served meanwhile")
            decide.set()
            await until(lambda: listener.unfinished == 0, "the handshake ends")
            await until(lambda: dialer.open_sockets == 0, "no socket is left")
            assert len(application.left) == len(application.sessions)
            await trio.aclose_forcefully(stream)
            listener.close()


@BOTH
async def test_running_out_of_descriptors_is_survived(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(transport) as dialer:
        (sock,) = await bind("127.0.0.1", 0)
        flaky = Exhausted(sock, errno.ECONNABORTED, errno.EMFILE, errno.EMFILE)
        listener = Listener(
            [flaky],  # type: ignore[list-item]  # has the methods that the listener uses
            transport=dialer.transport,
            authorize=dialer.authorize,
            http=echo_http,
        )
        dialer.listener = listener
        async with trio.open_nursery() as nursery:
            await nursery.start(listener.serve)
            with caplog.at_level(logging.WARNING):
                answer = await answer_to(dialer, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            listener.close()
    assert answer.startswith(b"HTTP/1.1 200")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "raise the limit for open files" in record.getMessage()


@BOTH
async def test_a_closed_listener_accepts_none_but_keeps_open_connections(transport: str) -> None:
    async with opened(transport) as dialer:
        port = dialer.listener.port
        async with dialer.dial(admission_of(1)) as peer:
            dialer.listener.close()
            with pytest.raises(OSError, match="failed"):
                await trio.open_tcp_stream("127.0.0.1", port)
            await peer.send_text('{"type":"x","data":{}}')
            assert dialer.open_sockets == 1


@BOTH
async def test_nothing_is_left_open(transport: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        async with opened(transport) as dialer:
            await answer_to(dialer, b"nonsense\r\n\r\n")
            await answer_to(dialer, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        gc.collect()


@BOTH
async def test_nobody_can_connect_before_connections_are_served(transport: str) -> None:
    async with opened(transport) as dialer:
        dialer.listener.close()
        sockets = await bind("127.0.0.1", 0)
        with pytest.raises(OSError, match=r"refused|failed"):
            await trio.open_tcp_stream("127.0.0.1", sockets[0].getsockname()[1])
        dialer.listener = Listener(sockets, transport=dialer.transport, authorize=dialer.authorize, http=echo_http)
        async with trio.open_nursery() as nursery:
            await nursery.start(dialer.listener.serve)
            assert (await answer_to(dialer, REQUEST)).startswith(b"HTTP/1.1 200")
            dialer.listener.close()


async def test_bind_uses_one_port_for_all_addresses() -> None:
    sockets = await bind("localhost", 0)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
    finally:
        for sock in sockets:
            sock.close()
