"""A server under mixed load stops at any moment in time, with status 0 and 1001 for every socket that reads.

`pytest tests/system --stop-moments=50` stops it 50 times; by default it is 3 times. Each prints the seed of its random
choices; `--stop-seed` repeats them.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from uuid import UUID

import attrs
import pytest
import trio

from actorchat.protocol import MessageAdded, Role, SendMessage
from tests.system.clients import Socket, connect, open_http, open_socket
from tests.system.server_process import TRANSPORTS, ServerProcess, server_process, token

MOMENTS = 3
CHATS = 4
READING = 2 * CHATS + 1
"""The number of sockets that read: a visitor and an operator in each chat, and a console."""

TALKED_SECONDS = 1.5
STOP_SECONDS = 10.0
CAP = 60.0
OPERATOR = token(Role.OPERATOR, 1)
TEXT = "ж" * 1_000

STORAGE = ("there", "locked for a second", "locked for good")
"""How another program uses the database while the server stops."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    moments: int | None = metafunc.config.getoption("--stop-moments", None)
    metafunc.parametrize("moment", range(moments or MOMENTS))


@attrs.define(eq=False)
class Load:
    """What the sockets that read received: `codes` are their close codes, `seen` the texts."""

    server: ServerProcess
    rng: random.Random
    nursery: trio.Nursery
    codes: Counter[int | None] = attrs.Factory(Counter)
    seen: set[str] = attrs.Factory(set)
    ended: trio.Event = attrs.Factory(trio.Event)
    answers: int = 0

    async def talk(self, name: str, who: str, target: str) -> None:
        """A socket that reads all the time and sends a message now and then."""
        async with self._socket(target, who) as socket:
            # The sending task may be in the middle of a frame.
            socket.peer.answers_close = False
            if "chats" in target:
                self.nursery.start_soon(self._say, socket, name)
            try:
                while True:
                    event = await socket.next()
                    if isinstance(event, MessageAdded):
                        self.seen.add(event.message.text)
            except trio.EndOfChannel:
                self.codes[socket.peer.close_code] += 1
                if self.codes.total() == READING:
                    self.ended.set()

    async def _say(self, socket: Socket, name: str) -> None:
        for number in range(1_000_000):
            try:
                await socket.send(SendMessage(f"{name} {number} {TEXT}", client_id=f"{name}-{number}"))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await trio.sleep(self.rng.uniform(0, 0.02))

    async def stall(self, chat: UUID) -> None:
        """A socket that requests a full replay and reads nothing."""
        async with self._socket(f"/ws/chats/{chat}?after=-1", OPERATOR, receive_buffer=4_096):
            await trio.sleep_forever()

    @asynccontextmanager
    async def _socket(self, target: str, who: str, receive_buffer: int | None = None) -> AsyncIterator[Socket]:
        async with open_socket(self.server.port, target, who, receive_buffer=receive_buffer) as socket:
            yield socket

    async def ask(self, chat: UUID) -> None:
        """An HTTP client that sends requests over one connection until it is closed."""
        async with await connect(self.server.port) as stream:
            while True:
                await stream.send_all(self._get(chat))
                if not await self._answer(stream):
                    return
                self.answers += 1

    async def _answer(self, stream: trio.SocketStream) -> bool:
        """Read an answer. Returns whether it was complete and another request may follow."""
        data = b""
        while True:
            try:
                part = await stream.receive_some()
            except trio.BrokenResourceError:
                return False
            if not part:
                return False
            data += bytes(part)
            head, end, body = data.partition(b"\r\n\r\n")
            if end and len(body) == int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
                return b"connection: close" not in head.lower()

    async def send_only(self, data: bytes, receive_buffer: int | None = None) -> None:
        """An HTTP client that sends these bytes and reads nothing."""
        async with await connect(self.server.port, receive_buffer=receive_buffer) as stream:
            await stream.send_all(data)
            await trio.sleep_forever()

    def _get(self, chat: UUID) -> bytes:
        path = f"/api/chats/{chat}/messages?limit=200"
        return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPERATOR}\r\n\r\n".encode()

    async def begin(self) -> None:
        """Run all kinds of clients at once."""
        chats: list[tuple[str, UUID]] = []
        async with open_http(self.server.url) as http:
            for number in range(CHATS):
                visitor = token(Role.USER, 100 + number)
                chats.append((visitor, await http.reserve(visitor)))
                for _ in range(20):
                    await http.post(visitor, chats[-1][1], text=TEXT)
        start = self.nursery.start_soon
        for number, (visitor, chat) in enumerate(chats):
            start(self.talk, f"visitor {number}", visitor, f"/ws/chats/{chat}")
            start(self.talk, f"operator {number}", OPERATOR, f"/ws/chats/{chat}")
            start(self.stall, chat)
            start(self.ask, chat)
            start(self.send_only, self._get(chat) * 30, 4_096)
        start(self.talk, "console", OPERATOR, "/ws/operators")
        start(self.send_only, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        start(self.send_only, b"GET / HTTP/1.1\r\nHo")
        start(self.send_only, b"POST /api/visitors HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")


def lock(database: Path) -> sqlite3.Connection:
    """Hold the database's write lock until the connection is closed."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=10)
    connection.execute("BEGIN IMMEDIATE")
    return connection


@pytest.mark.slow
async def test_a_stop_is_in_time_with_status_0_and_1001_for_every_socket_that_reads(
    tmp_path: Path, moment: int, request: pytest.FixtureRequest
) -> None:
    given: int | None = request.config.getoption("--stop-seed", None)
    seed = random.randrange(2**32) if given is None else given
    rng = random.Random(f"{seed}-{moment}")
    transport, storage = TRANSPORTS[moment % len(TRANSPORTS)], STORAGE[moment % len(STORAGE)]
    print(f"--stop-seed={seed}: moment {moment}, {transport}, storage {storage}")  # noqa: T201 - shown if it fails
    database = tmp_path / "data" / "actorchat.db"
    with trio.fail_after(CAP), server_process(tmp_path / "data", transport) as server:
        async with trio.open_nursery() as nursery:
            load = Load(server, rng, nursery)
            await load.begin()
            await trio.sleep(rng.uniform(0.2, TALKED_SECONDS))
            with closing(lock(database)) if storage != "there" else closing(sqlite3.connect(":memory:")) as locked:
                if rng.random() < 0.5:
                    await trio.sleep(rng.uniform(0, 3))
                begun = trio.current_time()
                nursery.start_soon(_unlock_after, 1.0 if storage == "locked for a second" else STOP_SECONDS, locked)
                status = await trio.to_thread.run_sync(server.stop)
                took = trio.current_time() - begun
            with trio.move_on_after(1):
                await load.ended.wait()
            nursery.cancel_scope.cancel()
        assert (status, load.codes) == (0, Counter({1001: READING})), server.log
        assert took < STOP_SECONDS
        assert load.answers
        assert "Traceback" not in server.log
    with closing(sqlite3.connect(database)) as connection:
        stored = {text for (text,) in connection.execute("SELECT text FROM messages")}
    assert load.seen <= stored


async def _unlock_after(seconds: float, locked: sqlite3.Connection) -> None:
    await trio.sleep(seconds)
    locked.close()
