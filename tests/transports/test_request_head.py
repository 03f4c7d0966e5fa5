"""Reading the head of a request in any pieces, within limits for bytes and time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actorchat.transports.request_head import BadHead, RequestHead, read_head

UPGRADE = (
    b"GET /ws/chats/1?after=-1&x=%20 HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: bearer.t\r\nSec-WebSocket-Protocol: actorchat.v1, x\r\n\r\n"
)


def chunks(*parts: bytes) -> Callable[[], Awaitable[bytes]]:
    waiting = list(parts)

    async def receive() -> bytes:
        await trio.lowlevel.checkpoint()
        return waiting.pop(0) if waiting else b""

    return receive


async def read(*parts: bytes) -> RequestHead:
    head = await read_head(chunks(*parts))
    assert head is not None
    return head


async def test_a_head_gives_method_path_query_and_headers() -> None:
    head = await read(UPGRADE)
    assert (head.method, head.path, head.query) == ("GET", "/ws/chats/1", "after=-1&x=%20")
    assert head.header(b"host") == b"a"
    assert head.subprotocols == ("bearer.t", "actorchat.v1", "x")
    assert head.is_websocket_upgrade


@given(st.lists(st.integers(1, len(UPGRADE)), max_size=8), st.binary(max_size=20))
async def test_a_head_is_the_same_in_any_pieces(cuts: list[int], beyond: bytes) -> None:
    whole = UPGRADE + beyond
    edges = [0, *sorted(cuts), len(whole)]
    head = await read(*[whole[a:b] for a, b in pairwise(edges) if a < b])
    assert head.headers == (await read(UPGRADE)).headers
    assert head.raw == UPGRADE + head.rest
    assert beyond.startswith(head.rest)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n bad\xff\0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 17_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 17_000 + b"\r\n\r\n", 431),
    ],
)
async def test_an_invalid_head_gets_its_status(sent: bytes, status: int) -> None:
    with pytest.raises(BadHead) as caught:
        await read_head(chunks(sent))
    assert caught.value.status == status


@pytest.mark.parametrize(
    "pieces", [(b"\r\n" + UPGRADE,), (b"\r", b"\n\r\n", UPGRADE), (b"\n" + UPGRADE[:9], UPGRADE[9:])]
)
async def test_empty_lines_before_a_head_are_ignored(pieces: tuple[bytes, ...]) -> None:
    assert (await read(*pieces)).raw == UPGRADE


async def test_a_peer_that_sends_nothing_gets_no_answer() -> None:
    assert await read_head(chunks()) is None


async def test_a_trickling_head_is_cut_off_after_ten_seconds(autojump_clock: trio.testing.MockClock) -> None:
    async def trickle() -> bytes:
        await trio.sleep(1)
        return b"G"

    with pytest.raises(BadHead) as caught:
        await read_head(trickle)
    assert (caught.value.status, trio.current_time()) == (408, 10)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"GET", b"POST", 400),
        (b"keep-alive, Upgrade", b"keep-alive", 400),
        (b"Version: 13", b"Version: 8", 426),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", 400),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"AAAA", 400),
        (b"Host: a", b"Host: a\r\nContent-Length: 5", 400),
        (b"Host: a", b"Host: a\r\nTransfer-Encoding: chunked", 400),
    ],
)
async def test_a_wrong_handshake_gets_its_status(old: bytes, new: bytes, status: int) -> None:
    head = await read(UPGRADE.replace(old, new))
    assert head.is_websocket_upgrade
    with pytest.raises(BadHead) as caught:
        head.upgrade(None)
    assert caught.value.status == status


async def test_a_plain_request_is_not_an_upgrade() -> None:
    assert not (await read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).is_websocket_upgrade
