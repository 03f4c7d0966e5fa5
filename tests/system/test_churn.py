"""Proves that sockets which come and go at a steady load leave a whole server as large as it was."""

from __future__ import annotations

import gc
from random import Random
from uuid import UUID

import pytest
import trio

import actorchat
from actorchat.protocol import SendMessage
from actorchat.server.serving import Server, open_server
from actorchat.server.settings import LimitSettings, Settings
from actorchat.testing import RawPeer
from tests.server.running import SECRET, operator

ROOMS = 20
AT_ONCE = 10


async def come_and_go(server: Server, chats: list[UUID], random: Random, joins: int) -> None:
    """An operator's sockets, each in some room for a moment."""

    async def visits(count: int) -> None:
        for _ in range(count):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                peer = RawPeer(stream)
                protocols = ("actorchat.v1.ext", f"bearer.{operator()}")
                head = await peer.handshake(f"/ws/chats/{random.choice(chats)}?after=-1", protocols)
                assert head.startswith(b"HTTP/1.1 101"), head
                if random.random() < 0.5:
                    await peer.receive_frame()
                    await peer.close()
                    await peer.read_to_end()
                else:
                    await peer.vanish()

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(visits, joins // AT_ONCE)


async def alive(server: Server) -> int:
    """How many Python objects there are when every socket has been noticed to be gone."""
    with trio.fail_after(30):
        while server.statistics().websockets:  # noqa: ASYNC110 - what is looked at has no event to wait for
            await trio.sleep(0.01)
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.slow
async def test_joins_and_leaves_at_a_steady_load_leave_no_memory_behind(request: pytest.FixtureRequest) -> None:
    joins = request.config.getoption("--churn-joins", default=None) or 600
    limits = LimitSettings(messages_per_second=0, visitors_per_minute=0)
    settings = Settings(port=0, storage="memory://", transport="reactor", secret=SECRET, limits=limits)
    random = Random(7)
    async with open_server(settings) as server, trio.open_nursery() as nursery:
        chats = []
        for number in range(ROOMS):
            visitor = await server.connect_visitor(source="lk", user=number + 100)
            await visitor.send(SendMessage("hello"))
            assert visitor.chat is not None
            chats.append(visitor.chat)
            nursery.start_soon(read_on, visitor)
        # The first of it pays for what is made once; then it is as it stays.
        await come_and_go(server, chats, random, max(joins // 3, 200))
        before = await alive(server)
        await come_and_go(server, chats, random, joins)
        assert await alive(server) - before < 2_000
        nursery.cancel_scope.cancel()


async def read_on(visitor: actorchat.LocalSocket) -> None:
    async for _ in visitor:
        pass
