import msgspec
import pytest
import trio
from trio.testing import MockClock

from actorchat.client import (
    ConnectionEnded,
    FeedConnection,
    FeedItem,
    NoSuchChat,
    NotAllowed,
    SnapshotBegins,
    open_feed,
)
from actorchat.protocol.events import ChatUpdated, GlobalUpdated
from tests.client.scripted_server import CHAT, NoJitter, ScriptedServer, ServerSocket


async def read(feed: FeedConnection, count: int) -> list[FeedItem]:
    return [await anext(feed) for _ in range(count)]


def refusal_of(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def fault(status: int, detail: str) -> bytes:
    return refusal_of(status, msgspec.json.encode({"error": {"code": "x", "detail": detail, "path": ""}}))


async def test_every_socket_begins_with_a_snapshot(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def first(peer: ServerSocket) -> None:
        await peer.tell(GlobalUpdated(1), ChatUpdated(CHAT))
        await peer.close(1012)

    async def second(peer: ServerSocket) -> None:
        await peer.tell(GlobalUpdated(2))
        await trio.sleep(60)

    server = ScriptedServer(nursery, first, 503, second)
    feed = open_feed("ws://test/", token="t", sources=["lk", "shop"], random=NoJitter(), dial=server.dial)
    async with feed as connection:
        assert await read(connection, 5) == [
            SnapshotBegins(),
            GlobalUpdated(1),
            ChatUpdated(CHAT),
            SnapshotBegins(),
            GlobalUpdated(2),
        ]
    assert server.resources == ["/ws/operators?source=lk&source=shop"] * 3


async def test_a_forbidden_feed_is_a_typed_error(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with open_feed("ws://test", token="t", dial=ScriptedServer(nursery, 403).dial) as feed:
        with pytest.raises(NotAllowed):
            await anext(feed)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (fault(404, "there is no source 'shop'"), "there is no source 'shop' (404)"),
        (fault(404, ""), "no such chat or source (404)"),
        (refusal_of(404, b"<html>"), "no such chat or source (404)"),
    ],
)
async def test_a_refused_feed_names_the_fault_that_the_server_names(
    autojump_clock: MockClock, nursery: trio.Nursery, answer: bytes, said: str
) -> None:
    async with open_feed("ws://test", token="t", dial=ScriptedServer(nursery, answer).dial) as feed:
        with pytest.raises(NoSuchChat) as refused:
            await anext(feed)
    assert str(refused.value) == said


async def test_events_before_the_end_are_read_before_its_error(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def script(peer: ServerSocket) -> None:
        await peer.tell(GlobalUpdated(1))
        await peer.close(1000)

    async with open_feed("ws://test", token="t", dial=ScriptedServer(nursery, script).dial) as feed:
        assert await read(feed, 2) == [SnapshotBegins(), GlobalUpdated(1)]
        with pytest.raises(ConnectionEnded):
            await anext(feed)


async def test_closing_stops_the_iteration(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with open_feed("ws://test", token="t", dial=ScriptedServer(nursery, None).dial) as feed:
        await feed.aclose()
        assert [item async for item in feed] == []
