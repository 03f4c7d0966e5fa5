"""Sockets that don't read: no other socket waits for them, they cost little memory, and they catch up by resuming."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import count
from uuid import UUID

import attrs
import psutil  # type: ignore[import-untyped] # it ships no types
import pytest
import trio

from actorchat.protocol import CloseCode, Message, MessageAdded, Profile, Role, SendMessage, UserConnected
from tests.system.clients import Http, Socket, connect, open_http, open_socket
from tests.system.server_process import TRANSPORTS, ServerProcess, server_process, token

READERS = 44
STUCK = 5
WINDOW = 8
TEXT = "🐌" * 3_900
"""A text of 15.6 KB, four bytes a character."""

OUTBOX_BYTES = 2**20
OVERFLOW_LINGER = 2.0
BEFORE_OVERFLOW = OUTBOX_BYTES // (4 * len(TEXT))
"""The number of messages that fit into a session's outbox."""

MESSAGES = 120
"""1.8 MiB for each socket: more than its outbox and the kernel's buffers can hold."""

MANY_MESSAGES = 1_600
"""24 MiB."""

MEMORY_BYTES = 12 * 2**20
STALLED = 40
STALLED_BYTES = 256 * 2**10
"""The memory that a peer may cost if it requests a long history and reads nothing."""

LONG_MESSAGES = 100
"""1.6 MiB."""

CAP = 180.0


@pytest.fixture(scope="module")
def ids() -> Iterator[int]:
    return count(100)


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("slow") / "data", request.param) as server:
        yield server
        assert "Traceback" not in server.log


@attrs.define(eq=False)
class Speaker:
    """The visitor, who sends each message after the last answer. No outbox is full before `overflow_at`."""

    socket: Socket
    count: int
    overflow_at: float = 0.0
    _window: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(WINDOW))

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answers)
            for number in range(self.count):
                await self._window.acquire()
                if number == BEFORE_OVERFLOW:
                    self.overflow_at = trio.current_time()
                await self.socket.send(SendMessage(text_of(number)))

    async def last_words_to(self, socket: Socket) -> list[str]:
        """Read from a stalled socket at last: whole messages, then the Close."""
        in_time = trio.current_time() < self.overflow_at + OVERFLOW_LINGER / 2
        texts = [message.text async for message in messages(socket, self.count)]
        assert len(texts) < self.count
        if in_time:
            assert socket.peer.close_code == CloseCode.OVERLOADED
        else:
            # A client that reads too late may find a reset instead.
            assert socket.peer.close_code in (CloseCode.OVERLOADED, 1006)
        return texts

    async def _answers(self) -> None:
        async for message in messages(self.socket, self.count):
            assert message.text == text_of(message.message_index)
            self._window.release()


@pytest.fixture
def visitor_id(ids: Iterator[int]) -> int:
    """A visitor of this run of the test: its chat is new when the test is run again after a failure."""
    return next(ids)


def text_of(number: int) -> str:
    return f"{number} {TEXT}"


async def messages(socket: Socket, count: int, first: int = 0) -> AsyncIterator[Message]:
    """Read `count` messages, or fewer if the socket ends, and check that there is no gap and no duplicate."""
    upto = first + count
    while first < upto:
        try:
            event = await socket.next()
        except trio.EndOfChannel:
            return
        if isinstance(event, MessageAdded):
            assert event.message.message_index == first
            first += 1
            yield event.message


async def read_all(socket: Socket, count: int) -> None:
    assert len([message.id async for message in messages(socket, count)]) == count


class Crowd:
    """The sockets of one room. The stalled ones have read nothing since the handshake."""

    def __init__(self, server: ServerProcess, stack: AsyncExitStack, visitor: str, chat: UUID) -> None:
        self.server, self.stack, self.visitor, self.chat = server, stack, visitor, chat

    async def join(self, number: int, *, stuck: bool) -> Socket:
        profile = Profile.STRICT if number % 3 == 0 and not stuck else Profile.EXTENDED
        buffer = 4_096 if stuck else None
        who = token(Role.OPERATOR, number)
        opening = open_socket(self.server.port, f"/ws/chats/{self.chat}", who, profile, receive_buffer=buffer)
        return await self.stack.enter_async_context(opening)

    async def gather(self, readers: int) -> tuple[Socket, list[Socket], list[Socket]]:
        """Open the visitor's socket, reading ones and stalled ones in the room."""
        opening = open_socket(self.server.port, f"/ws/chats/{self.chat}", self.visitor)
        visitor = await self.stack.enter_async_context(opening)
        reading = [await self.join(1 + number, stuck=False) for number in range(readers)]
        stuck = [await self.join(1_001 + number, stuck=True) for number in range(STUCK)]
        here = 0
        while here < 1 + readers + STUCK:
            here += isinstance(await visitor.next(), UserConnected)
        return visitor, reading, stuck


@pytest.mark.slow
async def test_stalled_sockets_do_not_delay_others_and_catch_up(server: ServerProcess, visitor_id: int) -> None:
    who = token(Role.USER, visitor_id)
    with trio.fail_after(CAP):
        async with open_http(server.url) as http, AsyncExitStack() as stack:
            chat = await http.reserve(who)
            visitor, reading, stuck = await Crowd(server, stack, who, chat).gather(READERS)
            speaker = Speaker(visitor, MESSAGES)
            # The other sockets get everything while five are stalled.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speaker.run)
                for socket in reading:
                    nursery.start_soon(read_all, socket, MESSAGES)
            got = [await speaker.last_words_to(socket) for socket in stuck]
            for number, texts in enumerate(got):
                target = f"/ws/chats/{chat}?after={len(texts) - 1}"
                async with open_socket(server.port, target, token(Role.OPERATOR, 1_001 + number)) as again:
                    missed = messages(again, MESSAGES - len(texts), len(texts))
                    texts += [message.text async for message in missed]
                assert texts == [text_of(index) for index in range(MESSAGES)]


@pytest.mark.slow
async def test_unread_events_of_stalled_sockets_are_bounded(server: ServerProcess, ids: Iterator[int]) -> None:
    process = psutil.Process(server.pid)
    with trio.fail_after(CAP):
        async with open_http(server.url) as http, AsyncExitStack() as stack:
            # The first messages let the server's memory grow to what it needs anyway.
            first = token(Role.USER, next(ids))
            target = f"/ws/chats/{await http.reserve(first)}"
            await Speaker(await stack.enter_async_context(open_socket(server.port, target, first)), MANY_MESSAGES).run()
            who = token(Role.USER, next(ids))
            chat = await http.reserve(who)
            visitor, _, stuck = await Crowd(server, stack, who, chat).gather(0)
            before = process.memory_info().rss
            await Speaker(visitor, MANY_MESSAGES).run()
            assert process.memory_info().rss - before < MEMORY_BYTES
            for socket in stuck:
                assert await socket.gone() in (CloseCode.OVERLOADED, 1006)


async def long_chat(http: Http, number: int) -> UUID:
    visitor = token(Role.USER, number)
    chat = await http.reserve(visitor)
    for index in range(LONG_MESSAGES):
        await http.post(visitor, chat, text=text_of(index))
    return chat


async def grown_by(process: psutil.Process, before: int) -> int:
    """The bytes by which the server has grown, once that does not change any more."""
    grown, still = -1, 0
    while still < 5:
        await trio.sleep(0.1)
        now = process.memory_info().rss - before
        still = still + 1 if now == grown else 0
        grown = now
    return grown


@pytest.mark.slow
async def test_a_stalled_reader_of_a_replay_costs_little(server: ServerProcess, visitor_id: int) -> None:
    process = psutil.Process(server.pid)
    with trio.fail_after(CAP):
        async with open_http(server.url) as http, AsyncExitStack() as stack:
            chat = await long_chat(http, visitor_id)
            before = process.memory_info().rss
            for number in range(STALLED):
                target = f"/ws/chats/{chat}?after=-1"
                await stack.enter_async_context(open_socket(server.port, target, token(Role.OPERATOR, 2_000 + number)))
            assert await grown_by(process, before) < STALLED * STALLED_BYTES
            # Nothing is encoded for sockets that leave.
            await stack.aclose()
            assert await grown_by(process, before) < STALLED * STALLED_BYTES


@pytest.mark.slow
async def test_a_stalled_reader_of_http_answers_costs_little(server: ServerProcess, visitor_id: int) -> None:
    process = psutil.Process(server.pid)
    with trio.fail_after(CAP):
        async with open_http(server.url) as http, AsyncExitStack() as stack:
            chat = await long_chat(http, visitor_id)

            async def stall() -> None:
                for number in range(STALLED):
                    stream = await stack.enter_async_context(await connect(server.port))
                    who = token(Role.OPERATOR, 2_000 + number)
                    head = (
                        f"GET /api/chats/{chat}/messages?limit=200 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {who}"
                    )
                    await stream.send_all(20 * f"{head}\r\n\r\n".encode())

            await stall()
            # With the first readers the server also grows by what it keeps for later: code, caches and free memory.
            before = process.memory_info().rss
            before += await grown_by(process, before)
            await stall()
            assert await grown_by(process, before) < STALLED * STALLED_BYTES
            await stack.aclose()
            assert await grown_by(process, before) < STALLED * STALLED_BYTES
