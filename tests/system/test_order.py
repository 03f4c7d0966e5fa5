"""A hundred users send at once in one room: all sockets, the history and resumes have the same order.

System messages for one role are in between: the other role sees a gap there, and the same order around it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle, islice, product
from pathlib import Path
from uuid import UUID

import attrs
import pytest
import trio
import trio_websocket

from actorchat import LimitSettings, LocalSocket, Server, Settings, open_server
from actorchat.protocol import (
    Event,
    MessageAdded,
    MessageType,
    Profile,
    Role,
    SendMessage,
    UnknownType,
    decode_event,
    encode_command,
)
from tests.system.clients import Http, open_http
from tests.system.server_process import SECRET, TRANSPORTS, token

SENDERS = 100
EACH = 3
NOTES = 12
"""The number of system messages, in turn for each role."""

EARLIER = 2
"""The number of messages before anybody connects."""

IDS = {Role.USER: 100, Role.OPERATOR: 1}
VISITOR, OPERATOR = (token(role, number) for role, number in IDS.items())
CAP = 60.0


@attrs.define(eq=False)
class Handle:
    """A socket, and the ids of the messages it received, in order."""

    role: Role
    send: Callable[[SendMessage], Awaitable[None]]
    next: Callable[[], Awaitable[Event | UnknownType]]
    seen: list[int] = attrs.Factory(list)

    async def read(self, enough: int, halfway: trio.Event | None = None) -> None:
        """Read until `enough` messages were received."""
        while len(self.seen) < enough:
            event = await self.next()
            if isinstance(event, MessageAdded):
                self.seen.append(event.message.id)
            if halfway is not None and len(self.seen) > enough / 2:
                halfway.set()


@attrs.frozen
class Place:
    """Where and how to open a socket."""

    over: str
    role: Role
    profile: Profile = Profile.EXTENDED
    feed: bool = False

    @asynccontextmanager
    async def open(self, server: Server, chat: UUID, after: int | None = None) -> AsyncIterator[Handle]:
        if self.over == "memory":
            async with await self._local(server, chat, after) as local:
                yield Handle(self.role, local.send, local.__anext__)
            return
        path = "/ws/operators" if self.feed else f"/ws/chats/{chat}"
        async with trio_websocket.open_websocket(
            "127.0.0.1",
            server.port,
            path if after is None else f"{path}?after={after}",
            use_ssl=False,
            subprotocols=[self.profile.value],
            extra_headers=[(b"Authorization", f"Bearer {token(self.role, IDS[self.role])}".encode())],
        ) as websocket:

            async def send(command: SendMessage) -> None:
                await websocket.send_message(encode_command(command).decode())

            async def receive() -> Event | UnknownType:
                return decode_event(await websocket.get_message())

            yield Handle(self.role, send, receive)

    async def _local(self, server: Server, chat: UUID, after: int | None) -> LocalSocket:
        number = IDS[self.role]
        if self.feed:
            return await server.connect_feed(number, sources=("lk",), profile=self.profile)
        if self.role is Role.USER:
            return await server.connect_visitor(source="lk", user=number, after=after, profile=self.profile)
        return await server.connect_operator(number, sources=("lk",), chat=chat, after=after, profile=self.profile)


ROOM_PLACES = tuple(islice(cycle(Place(*each) for each in product(("memory", "tcp"), Role, Profile)), SENDERS))
FEED_PLACES = tuple(Place(over, Role.OPERATOR, feed=True) for over in ("memory", "tcp"))
RESUMING = tuple(Place(over, role) for over, role in product(("memory", "tcp"), Role))


class Talk:
    """The room and all of its sockets, spread over the servers."""

    def __init__(self, servers: Sequence[Server], http: Http, chat: UUID) -> None:
        self.servers, self.http, self.chat = servers, http, chat
        self.halfway = trio.Event()
        self.resumed: list[Handle] = []

    async def run(self, room: list[Handle], feeds: list[Handle]) -> None:
        """Let all sockets send and read to the end; some join late and resume from the beginning."""
        standard = SENDERS * EACH
        async with trio.open_nursery() as nursery:
            for handle in (*room, *feeds):
                # The first event shows that the socket has joined.
                await handle.next()
            for place, server in zip(RESUMING, cycle(self.servers), strict=False):
                nursery.start_soon(self._join_late, place, server)
            for number, handle in enumerate(room):
                nursery.start_soon(handle.read, standard + NOTES // 2, self.halfway)
                nursery.start_soon(self._talk, handle, number)
            for handle in feeds:
                nursery.start_soon(handle.read, standard)
            nursery.start_soon(self._note)

    async def _talk(self, handle: Handle, number: int) -> None:
        for nth in range(EACH):
            await handle.send(SendMessage(f"{number}-{nth}"))

    async def _note(self) -> None:
        for _, role in zip(range(NOTES), cycle(Role), strict=False):
            await self.http.post(OPERATOR, self.chat, text=f"for {role}", type="system", type_role=role.value)

    async def _join_late(self, place: Place, server: Server) -> None:
        await self.halfway.wait()
        async with place.open(server, self.chat, after=-1) as handle:
            self.resumed.append(handle)
            await handle.read(EARLIER + SENDERS * EACH + NOTES // 2)

    async def backwards(self, token: str) -> list[int]:
        """The ids of the whole history, read from its end in pages of various sizes."""
        ids: list[int] = []
        query, more = "limit=41", True
        while more:
            page, more = await self.http.page(token, self.chat, query)
            ids = [*(message.id for message in page), *ids]
            query = f"before={page[0].message_index}&limit=41"
        return ids


@pytest.fixture(
    params=[*product(("memory://", None), TRANSPORTS, [1]), ("postgresql", "reactor", 1), ("postgresql", "reactor", 2)],
    ids=lambda param: f"{param[0] or 'sqlite'}-{param[1]}-{param[2]}",
)
async def servers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Server, ...]]:
    storage, transport, count = request.param
    if storage == "postgresql":
        storage = request.getfixturevalue("new_postgres")()
    limits = LimitSettings(messages_per_second=0)
    settings = Settings(storage=storage, port=0, secret=SECRET, limits=limits, transport=transport)
    async with AsyncExitStack() as stack:
        nodes = [attrs.evolve(settings, data=tmp_path / str(number)) for number in range(count)]
        yield tuple([await stack.enter_async_context(open_server(node)) for node in nodes])


@pytest.mark.slow
async def test_a_hundred_senders_are_seen_in_one_order_everywhere(servers: tuple[Server, ...]) -> None:
    with trio.fail_after(CAP):
        async with open_http(servers[0].url) as http, AsyncExitStack() as stack:
            chat = await http.reserve(VISITOR)
            await http.post(VISITOR, chat, text="first")
            await http.post(OPERATOR, chat, text="second")
            room, feeds = [
                [
                    await stack.enter_async_context(place.open(server, chat))
                    for place, server in zip(places, cycle(spread), strict=False)
                ]
                # Each kind of place is on each server.
                for places, spread in (
                    (ROOM_PLACES, [each for each in servers for _ in range(8)]),
                    (FEED_PLACES, servers),
                )
            ]
            talk = Talk(servers, http, chat)
            await talk.run(room, feeds)
            stored = {Role.USER: await http.history(VISITOR, chat, limit=37)}
            stored[Role.OPERATOR] = await http.history(OPERATOR, chat, limit=37)
            history = {role: [message.id for message in messages] for role, messages in stored.items()}
            assert await talk.backwards(VISITOR) == history[Role.USER]
            assert await talk.backwards(OPERATOR) == history[Role.OPERATOR]
            middle = stored[Role.OPERATOR][SENDERS].message_index
            for (place, after), server in zip(product(RESUMING, (-1, middle)), cycle(servers), strict=False):
                missed = [message.id for message in stored[place.role] if message.message_index > after]
                async with place.open(server, chat, after=after) as handle:
                    await handle.read(len(missed))
                assert handle.seen == missed
    standard = [message.id for message in stored[Role.USER] if message.type is MessageType.STANDARD]
    assert [message.id for message in stored[Role.OPERATOR] if message.type is MessageType.STANDARD] == standard
    indexes = {message.message_index for messages in stored.values() for message in messages}
    assert indexes == set(range(EARLIER + SENDERS * EACH + NOTES))
    for handle in room:
        assert handle.seen == history[handle.role][EARLIER:]
    for handle in feeds:
        assert handle.seen == standard[EARLIER:]
    for handle in talk.resumed:
        assert handle.seen == history[handle.role]
    assert len(talk.resumed) == len(RESUMING)
