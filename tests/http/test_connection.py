"""HTTP connections on Hypercorn's per-connection class, which is not a documented API."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from starlette.types import Receive, Scope, Send
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair

from actorchat.http.connection import (
    BODY_GRACE,
    KEEP_ALIVE_SECONDS,
    LINGER_SECONDS,
    PIPELINED_AT_ONCE,
    PIPELINED_PER_SECOND,
    SEND_SECONDS,
    STALLED_SECONDS,
    STARTS_PER_PASS,
    HttpServer,
    _GuardedStream,
)
from actorchat.server.settings import HttpSettings


class _Socket:
    family = socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        return ("192.0.2.7", 4711)

    def getsockname(self) -> tuple[str, int]:
        return ("192.0.2.1", 80)


class _Wire(trio.abc.HalfCloseableStream):
    """One end of a pair of memory streams, with the addresses of a socket."""

    def __init__(self, stream: trio.StapledStream[MemorySendStream, MemoryReceiveStream]) -> None:
        self.socket = _Socket()
        self.received = 0
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        self.received += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Stuck(_Wire):
    """A stream whose peer reads nothing."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep_forever()


class _Gone(_Wire):
    """A stream whose peer resets the connection after its requests."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError


class _Slow(_Wire):
    """A stream whose peer reads 16 KiB every 5 s."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for start in range(0, len(data), 16_384):
            await trio.sleep(5)
            await super().send_all(data[start : start + 16_384])


LARGE = 400_000


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers with path, client and body. `/deaf` does not read the body."""
    if scope["path"] == "/crash":
        await trio.sleep(1)
        raise RuntimeError("planned")
    if scope["path"] == "/slow":
        await trio.sleep(1)
    body = dict(scope["headers"])[b"host"] if scope["path"] == "/host" else b""
    more = scope["path"] != "/deaf"
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    text = f"{scope['http_version']} {scope['path']} {scope['client'][0]} ".encode() + body
    if scope["path"] == "/large":
        text += bytes(LARGE)
    length = (b"content-length", str(len(text)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    if scope["path"] == "/streamed":
        await _stream(text, receive, send)
    else:
        await send({"type": "http.response.body", "body": text})


async def _stream(text: bytes, receive: Receive, send: Send) -> None:
    """Send the body as Starlette's streamed responses do, which are cancelled when nothing is left to be sent."""
    async with trio.open_nursery() as nursery:

        async def cancel_at_the_end() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel_at_the_end)
        await send({"type": "http.response.body", "body": text, "more_body": True})
        await send({"type": "http.response.body"})


class _Client:
    def __init__(self, stream: trio.abc.Stream, wire: _Wire, keep_alive: float) -> None:
        self.wire = wire
        self.server = HttpServer(self._app, keep_alive=keep_alive)
        self.answered: list[str] = []
        self.handed_back: bytes | None = None
        self.send = stream.send_all
        self.leave = stream.aclose
        self._stream = stream

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.answered.append(scope["path"])
        await _echo(scope, receive, send)

    async def answer(self) -> bytes:
        """Read one answer with a Content-Length, or everything until the connection is closed."""
        data = b""
        while part := await self._stream.receive_some():
            data += bytes(part)
            head, end, body = data.partition(b"\r\n\r\n")
            if end and len(body) == int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
                break
        return data

    async def read_all(self) -> None:
        """Read and drop everything until the connection is closed."""
        while await self._stream.receive_some():
            pass

    async def is_closed(self) -> bool:
        return not await self._stream.receive_some()


@asynccontextmanager
async def connected(wire: type[_Wire] = _Wire, keep_alive: float = KEEP_ALIVE_SECONDS) -> AsyncIterator[_Client]:
    near, far = memory_stream_pair()
    client = _Client(near, wire(far), keep_alive)

    async def serve() -> None:
        client.handed_back = await client.server.serve(client.wire)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.fail_after(1000):
            yield client
        nursery.cancel_scope.cancel()


async def test_requests_follow_each_other_on_one_connection(autojump_clock: MockClock) -> None:
    async with connected() as client:
        for path in (b"/a", b"/b"):
            await client.send(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" % path)
            assert (await client.answer()).endswith(b"1.1 %s 192.0.2.7 hi" % path)
        assert len(client.server) == 1


async def test_pipelined_requests_are_answered_in_order(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n")
        answers = await client.answer()
        while answers.count(b"192.0.2.7") < 2:
            answers += await client.answer()
        assert answers.index(b"/a") < answers.index(b"/b")


@pytest.mark.parametrize("keep_alive", [KEEP_ALIVE_SECONDS, 5.0])
async def test_an_idle_connection_is_closed_after_keep_alive(autojump_clock: MockClock, keep_alive: float) -> None:
    async with connected(keep_alive=keep_alive) as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.answer()
        answered = trio.current_time()
        assert await client.is_closed()
        assert trio.current_time() - answered == keep_alive


@pytest.mark.parametrize("_", range(10), ids=lambda number: f"schedule {number}")
async def test_a_connection_is_closed_after_keep_alive_after_a_streamed_response(
    autojump_clock: MockClock, _: int
) -> None:
    async with connected() as client:
        await client.send(b"GET /streamed HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.answer()
        answered = trio.current_time()
        assert await client.is_closed()
        assert trio.current_time() - answered == KEEP_ALIVE_SECONDS


def test_an_idle_connection_outlives_the_60_seconds_of_common_proxies() -> None:
    assert KEEP_ALIVE_SECONDS > 60
    assert HttpSettings().keep_alive == KEEP_ALIVE_SECONDS


async def test_a_connection_ends_with_its_peer(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.answer()
        await trio.testing.wait_all_tasks_blocked()
        await client.leave()
        await trio.testing.wait_all_tasks_blocked()
        assert len(client.server) == 0
        assert trio.current_time() == 0


async def test_a_crash_closes_the_connection_without_details(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.send(b"GET /crash HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await client.answer()
        assert answer.startswith(b"HTTP/1.1 500")
        assert b"planned" not in answer
        assert await client.is_closed()


async def test_an_upgrade_to_http2_is_ignored(autojump_clock: MockClock) -> None:
    async with connected() as client:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
        assert (await client.answer()).startswith(b"HTTP/1.1 200")


UPGRADE = b"GET /ws?a=b HTTP/1.1\r\nhost: x\r\nupgrade: WebSocket\r\nconnection: upgrade\r\n\r\n"


@pytest.mark.parametrize("together", [False, True], ids=["after-the-answer", "pipelined"])
async def test_a_request_for_a_websocket_is_handed_back_after_the_answers_before(
    autojump_clock: MockClock, together: bool
) -> None:
    async with connected() as client:
        first = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
        await client.send(first + (UPGRADE + b"frames" if together else b""))
        assert (await client.answer()).endswith(b"1.1 /a 192.0.2.7 hi")
        if not together:
            await client.send(UPGRADE + b"frames")
        await trio.testing.wait_all_tasks_blocked()
        assert client.handed_back == UPGRADE + b"frames"
        assert len(client.server) == 0
        with trio.move_on_after(2 * KEEP_ALIVE_SECONDS):
            raise AssertionError(f"was not left open: {await client.is_closed()}")


@pytest.mark.parametrize(
    "framed",
    [
        b"Content-Length: %d\r\n\r\n%s" % (len(UPGRADE), UPGRADE),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(UPGRADE), UPGRADE),
    ],
    ids=["length", "chunked"],
)
async def test_a_body_is_never_parsed_as_an_upgrade_request(autojump_clock: MockClock, framed: bytes) -> None:
    async with connected() as client:
        head, _, body = framed.partition(b"\r\n\r\n")
        await client.send(b"POST /a HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.send(body)
        assert (await client.answer()).endswith(UPGRADE)
        await client.send(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"1.1 /b 192" in await client.answer()
        assert client.handed_back is None


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"GET /a HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000, b"431"),
        (b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n", b"400"),
    ],
    ids=["head-too-large", "bad-chunk"],
)
async def test_a_malformed_request_is_answered_in_the_error_format(
    autojump_clock: MockClock, bad: bytes, status: bytes
) -> None:
    async with connected() as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.answer()
        await client.send(bad)
        head, _, body = (await client.answer()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert body.startswith(b'{"error":{"code":"bad_request","detail":"')
        assert await client.is_closed()


async def test_two_lengths_of_one_body_are_refused_and_the_connection_closed(autojump_clock: MockClock) -> None:
    async with connected() as client:
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        both = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % (5 + len(smuggled))
        await client.send(b"POST /a HTTP/1.1\r\nHost: x\r\n" + both + b"0\r\n\r\n" + smuggled)
        head, _, body = (await client.answer()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert b"connection: close" in head.lower()
        assert b"both Content-Length and Transfer-Encoding" in body
        assert await client.is_closed()


@pytest.mark.parametrize("target", [b"http://chat.example/host", b"HTTPS://chat.example/host?a=b"])
async def test_a_target_in_absolute_form_names_host_and_path(autojump_clock: MockClock, target: bytes) -> None:
    async with connected() as client:
        await client.send(b"GET %s HTTP/1.1\r\nHost: other.example\r\n\r\n" % target)
        assert (await client.answer()).endswith(b"1.1 /host 192.0.2.7 chat.example")


async def test_empty_lines_before_a_request_are_ignored(autojump_clock: MockClock) -> None:
    async with connected() as client:
        first = b"\r\nPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi\r\n"
        await client.send(first + b"\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n")
        answers = await client.answer()
        while b"/b" not in answers:
            more = await client.answer()
            assert more, f"it was closed after {answers!r}"
            answers += more
        assert answers.count(b"HTTP/1.1 200") == 2
        for part in (b"\r", b"\n", b"\nGET /c HTTP/1.1\r\nHost: x\r\n\r\n"):
            await client.send(part)
        assert (await client.answer()).endswith(b"1.1 /c 192.0.2.7 ")


@pytest.mark.parametrize("path", [b"/deaf", b"/a"], ids=["unread", "read"])
async def test_a_close_with_an_unread_body_is_announced_with_connection_close(
    autojump_clock: MockClock, path: bytes
) -> None:
    async with connected() as client:
        await client.send(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nhi" % path)
        await trio.testing.wait_all_tasks_blocked()
        if path == b"/a":
            await client.send(b"ho")
        head, _, _ = (await client.answer()).partition(b"\r\n\r\n")
        assert (b"connection: close" in head.lower()) is (path == b"/deaf")


async def test_a_peer_that_is_still_sending_can_read_the_answer(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.send(b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(4):
            await client.send(b"x" * 10_000)
            await trio.testing.wait_all_tasks_blocked()
        assert b"/deaf" in await client.answer()
        assert await client.is_closed()


async def test_a_peer_that_goes_on_sending_is_cut_off(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.send(b"POST /deaf HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def send_on() -> None:
            while True:
                await client.send(b"1\r\nx\r\n")
                await trio.sleep(0.1)

        with pytest.raises(trio.BrokenResourceError):
            await send_on()
        assert trio.current_time() == pytest.approx(LINGER_SECONDS, abs=0.11)


async def test_input_that_is_not_http_is_answered_with_400_and_closed(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.send(b"\x16\x03\x01 not http\r\n\r\n")
        assert (await client.answer()).startswith(b"HTTP/1.1 400")
        assert await client.is_closed()


async def test_a_peer_that_reads_no_answer_is_cut_off(autojump_clock: MockClock) -> None:
    async with connected(_Stuck) as client:
        started = trio.current_time()
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await client.is_closed()
        assert trio.current_time() - started == SEND_SECONDS


async def test_abort_cuts_off_a_peer_that_reads_no_answer(autojump_clock: MockClock) -> None:
    async with connected(_Stuck) as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        client.server.abort()
        assert await client.is_closed()
        assert trio.current_time() == 0


async def test_the_connection_that_is_idle_for_longest_can_be_closed(autojump_clock: MockClock) -> None:
    async with connected() as client:
        assert not client.server.close_idle()
        await client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert not client.server.close_idle()
        assert (await client.answer()).startswith(b"HTTP/1.1 200")
        await trio.testing.wait_all_tasks_blocked()
        assert client.server.close_idle()
        assert await client.is_closed()
        assert not client.server.close_idle()
        assert trio.current_time() == 1


@pytest.mark.parametrize("wire", [_Wire, _Stuck], ids=["no-body", "answer-not-taken"])
async def test_a_connection_whose_peer_keeps_it_waiting_can_be_closed(
    autojump_clock: MockClock, wire: type[_Wire]
) -> None:
    async with connected(wire) as client:
        length = 2 if wire is _Wire else 0
        await client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
        await trio.testing.wait_all_tasks_blocked()
        assert not client.server.close_idle()
        await trio.sleep(STALLED_SECONDS)
        assert client.server.close_idle()
        assert await client.is_closed()
        assert not client.server.close_idle()
        await trio.testing.wait_all_tasks_blocked()
        assert len(client.server) == 0
        assert trio.current_time() == STALLED_SECONDS


async def test_draining_closes_idle_connections(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.answer()
        await client.server.drain()
        assert trio.current_time() == 0
        assert await client.is_closed()


async def test_draining_lets_a_request_be_answered_first(autojump_clock: MockClock) -> None:
    async with connected() as client, trio.open_nursery() as nursery:
        await client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nh")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(client.server.drain)
        await trio.testing.wait_all_tasks_blocked()
        await client.send(b"i")
        assert (await client.answer()).endswith(b"hi")
        assert await client.is_closed()


async def test_draining_sends_connection_close_with_the_answer(autojump_clock: MockClock) -> None:
    async with connected() as client, trio.open_nursery() as nursery:
        await client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(client.server.drain)
        assert b"connection: close" in (await client.answer()).lower()
        assert await client.is_closed()


async def test_draining_answers_one_of_several_pipelined_requests(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        await trio.testing.wait_all_tasks_blocked()
        await client.server.drain()
        assert trio.current_time() == pytest.approx(1)
        assert (await client.answer()).startswith(b"HTTP/1.1 200")
        assert await client.is_closed()


async def test_draining_does_not_wait_for_a_body_that_does_not_come(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nh")
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await client.server.drain()
        assert trio.current_time() - started == BODY_GRACE
        assert (await client.answer()).endswith(b"1.1 /a 192.0.2.7 h")
        assert await client.is_closed()


async def test_an_unread_body_does_not_keep_the_connection_open(autojump_clock: MockClock) -> None:
    async with connected() as client:
        head = b"POST /crash HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + b"1\r\nx\r\n" * 1000)
        assert (await client.answer()).startswith(b"HTTP/1.1 500")
        assert await client.is_closed()
        await trio.testing.wait_all_tasks_blocked()
        assert len(client.server) == 0


async def test_pipelined_requests_are_answered_at_a_bounded_rate(autojump_clock: MockClock) -> None:
    async with connected() as client, trio.open_nursery() as nursery:
        # Too many for one read, because requests that have not been read yet count as pipelined too.
        nursery.start_soon(client.send, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000)
        with trio.move_on_after(10):
            await client.read_all()
        assert 0.9 < len(client.answered) / (PIPELINED_AT_ONCE + 10 * PIPELINED_PER_SECOND) < 1.1
        nursery.cancel_scope.cancel()


async def test_requests_that_are_not_pipelined_are_never_slowed_down(autojump_clock: MockClock) -> None:
    async with connected() as client:
        for _ in range(500):
            await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.answer()
        assert trio.current_time() == 0


async def test_little_is_read_from_a_peer_that_reads_no_answers(autojump_clock: MockClock) -> None:
    async with connected(_Stuck) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000)
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < client.wire.received <= 16_384
        nursery.cancel_scope.cancel()


async def test_no_further_request_of_a_disconnected_peer_is_answered(autojump_clock: MockClock) -> None:
    async with connected(_Gone) as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        await trio.testing.wait_all_tasks_blocked()
        assert client.answered == ["/a"]
        assert len(client.server) == 0


async def test_a_slow_peer_gets_the_whole_answer(autojump_clock: MockClock) -> None:
    async with connected(_Slow) as client:
        await client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).endswith(bytes(LARGE))
        assert trio.current_time() > 2 * SEND_SECONDS


async def test_pipelined_requests_of_many_connections_start_a_few_at_a_time(autojump_clock: MockClock) -> None:
    begun: list[str] = []
    counts: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["path"])
        await _echo(scope, receive, send)

    server = HttpServer(app)
    pairs = [memory_stream_pair() for _ in range(50)]
    for near, _ in pairs:
        await near.send_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    async with trio.open_nursery() as nursery:
        for _, far in pairs:
            nursery.start_soon(server.serve, _Wire(far))
        while len(begun) < 50:
            before = len(begun)
            await trio.lowlevel.checkpoint()
            counts.append(len(begun) - before)
        nursery.cancel_scope.cancel()
    assert max(counts) <= STARTS_PER_PASS


async def test_more_is_read_at_once_while_a_large_body_arrives() -> None:
    asked: list[int | None] = []

    class Reads(_Wire):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            asked.append(max_bytes)
            return await super().receive_some(max_bytes)

    ours, theirs = memory_stream_pair()
    stream = _GuardedStream(Reads(theirs))
    for arrives in (False, True, False):
        if arrives:
            stream.pace.begin()
        await ours.send_all(b"x")
        assert await stream.receive_some(2**20) == b"x"
        stream.pace.end()
    assert asked == [16_384, 65_536, 16_384]
