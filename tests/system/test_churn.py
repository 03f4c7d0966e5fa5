"""A server does not grow while sockets join and leave at a steady rate.

One test counts the live objects of a server in this process. The other measures the memory of one in a process of its
own; `pytest tests/system/test_churn.py -s --churn-seconds=3600` runs it for an hour and prints the progress.
"""

from __future__ import annotations

import gc
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from uuid import UUID

import attrs
import psutil  # type: ignore[import-untyped] # it ships no types
import pytest
import trio

import actorchat
from actorchat.protocol import MessageAdded, Role, SendMessage, UpdateTyping
from actorchat.server.serving import Server, open_server
from actorchat.server.settings import LimitSettings, Settings
from actorchat.testing import RawPeer
from tests.server.server_under_test import SECRET, operator
from tests.system.clients import Socket, open_http, open_socket
from tests.system.server_process import TRANSPORTS, ServerProcess, server_process, token

ROOMS = 20
AT_ONCE = 10


async def come_and_go(server: Server, chats: list[UUID], random: Random, joins: int) -> None:
    """An operator's sockets, each of which is in some room for a moment."""
    # One token for all sockets, because the server caches thousands of tokens.
    protocols = ("actorchat.v1.ext", f"bearer.{operator()}")

    async def visits(count: int) -> None:
        for _ in range(count):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                peer = RawPeer(stream)
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
    """The number of Python objects once the server has noticed that every socket is gone."""
    with trio.fail_after(30):
        while server.statistics().websockets:  # noqa: ASYNC110 - what is looked at has no event to wait for
            await trio.sleep(0.01)
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.slow
async def test_joins_and_leaves_at_a_steady_load_leave_no_objects_behind(request: pytest.FixtureRequest) -> None:
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
        # The first round pays for objects that are made once.
        await come_and_go(server, chats, random, max(joins // 3, 200))
        before = await alive(server)
        await come_and_go(server, chats, random, joins)
        assert await alive(server) - before < 2_000
        nursery.cancel_scope.cancel()


async def read_on(visitor: actorchat.LocalSocket) -> None:
    async for _ in visitor:
        pass


JOINS_PER_SECOND = 100
OPEN_AT_MOST = 300
LATE_SECONDS = 0.5
"""After a longer stall of the machine fewer sockets join: catching up would not be a steady load."""

QUIET_ROOMS = 100
"""Rooms without permanent sockets: they open and close with the short visits."""

OPERATORS = 50
STAY_SECONDS = 2.0
"""The longest visit in seconds; the average is half of it."""

WARM_UP_SECONDS = (3.0, 900.0)
"""Proportional to the run, because a room's tail of messages takes minutes to fill."""

MEMORY_BYTES = 4 * 2**20
"""The allowed growth from the first to the last third of the run. There are 6,000 joins a minute."""


@attrs.define(eq=False)
class House:
    """The rooms of a server, with permanent sockets that write in some of them, and short visits."""

    server: ServerProcess
    random: Random
    tokens: list[str]
    joins: int = 0
    messages: int = 0
    last_index: dict[UUID, int] = attrs.Factory(dict)
    _room_for_guests: trio.Semaphore = attrs.Factory(lambda: trio.Semaphore(OPEN_AT_MOST))

    async def furnish(self, nursery: trio.Nursery) -> None:
        """Make the rooms, and open the permanent sockets."""
        async with open_http(self.server.url) as http:
            for number in range(ROOMS + QUIET_ROOMS):
                visitor = token(Role.USER, 100 + number, ttl=7_200)
                chat = await http.reserve(visitor)
                self.last_index[chat] = (await http.post(visitor, chat, text="hello")).message_index
                if number < ROOMS:
                    await nursery.start(self._live, chat, visitor)

    async def _live(self, chat: UUID, visitor: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with (
            open_socket(self.server.port, f"/ws/chats/{chat}", visitor) as socket,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._write, socket)
            task_status.started()
            while True:
                event = await socket.next()
                # A permanent socket must not keep the frames that it has read.
                socket.peer.frames.clear()
                if isinstance(event, MessageAdded):
                    self.last_index[chat] = event.message.message_index
                    self.messages += 1

    async def _write(self, socket: Socket) -> None:
        for number in count():
            await socket.send(SendMessage("*" * self.random.randrange(1, 200), client_id=str(number)))
            await trio.sleep(1)

    async def receive_guests(self) -> None:
        """Let sockets join and leave at a steady rate, until cancelled."""
        due = trio.current_time()
        chats = list(self.last_index)
        async with trio.open_nursery() as nursery:
            while True:
                due = max(due + 1 / JOINS_PER_SECOND, trio.current_time() - LATE_SECONDS)
                await trio.sleep_until(due)
                await self._room_for_guests.acquire()
                nursery.start_soon(self._visit, self.random.choice(chats), self.random.choice(self.tokens))

    async def _visit(self, chat: UUID, guest: str) -> None:
        random = self.random
        target = f"/ws/chats/{chat}?after={self.last_index[chat] - 1}"
        try:
            async with open_socket(self.server.port, target, guest) as socket:
                await socket.next()
                self.joins += 1
                if random.random() < 0.2:
                    await socket.send(UpdateTyping("hm", stopped=False))
                with trio.move_on_after(random.uniform(0, STAY_SECONDS)):
                    while True:
                        await socket.next()
                if random.random() < 0.5:
                    await socket.peer.close()
                    await socket.peer.read_to_end()
        finally:
            self._room_for_guests.release()


@attrs.define
class Samples:
    """Samples of a process's memory over time."""

    process: psutil.Process
    bytes: list[int] = attrs.Factory(list)

    async def take(self, seconds: float, house: House) -> None:
        """Take two samples a second, and print one now and then."""
        start, joins, messages = trio.current_time(), house.joins, house.messages
        said = 0
        while (passed := trio.current_time() - start) < seconds:
            self.bytes.append(self.process.memory_info().rss)
            if passed * 20 >= seconds * (said + 1):
                said += 1
                self._say(passed, (house.joins - joins) / passed, (house.messages - messages) / passed)
            await trio.sleep(0.5)

    def _say(self, passed: float, joins: float, messages: float) -> None:
        size = f"{self.bytes[-1] / 2**20:.1f} MiB"
        print(f"{passed:.0f} s: {size}, {joins:.1f} joins/s, {messages:.1f} messages/s")  # noqa: T201 - progress of a long run

    def thirds(self) -> list[float]:
        size = len(self.bytes) // 3
        return [median(self.bytes[start * size : (start + 1) * size]) for start in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_joins_and_leaves_at_a_steady_load_need_no_more_memory_in_the_end(
    transport: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seconds = request.config.getoption("--churn-seconds", default=None) or 6.0
    low, high = WARM_UP_SECONDS
    warm_up = min(max(low, seconds / 4), high)
    tokens = [token(Role.OPERATOR, number, ttl=7_200) for number in range(1, OPERATORS + 1)]
    with server_process(tmp_path / "data", transport) as server, trio.fail_after(warm_up + seconds + 60):
        process = psutil.Process(server.pid)
        files = process.num_fds()
        house = House(server, Random(7), tokens)
        async with trio.open_nursery() as nursery:
            await house.furnish(nursery)
            nursery.start_soon(house.receive_guests)
            await trio.sleep(warm_up)
            samples = Samples(process)
            await samples.take(seconds, house)
            nursery.cancel_scope.cancel()
        first, _, last = samples.thirds()
        assert last - first < MEMORY_BYTES
        while process.num_fds() > files + 10:  # noqa: ASYNC110 - another process has no event to wait for
            await trio.sleep(0.05)
        assert "Traceback" not in server.log
