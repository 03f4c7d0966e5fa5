"""Websocket and HTTP clients for a server over TCP; they read only when a test asks them to."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import attrs
import httpx
import trio

from actorchat.protocol import (
    Chat,
    Command,
    Event,
    Message,
    MessageAdded,
    Profile,
    UnknownType,
    decode_entity,
    decode_event,
    encode_command,
)
from actorchat.testing import RawPeer

__all__ = ["Http", "Socket", "connect", "open_http", "open_socket"]


@attrs.frozen
class Socket:
    """A websocket with decoded events. Several tasks may send. It answers no pings: use it for under a minute."""

    peer: RawPeer
    _sending: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    async def send(self, command: Command) -> None:
        async with self._sending:
            await self.peer.send_text(encode_command(command))

    async def next(self) -> Event:
        """Return the next event. Raises EndOfChannel when the socket has ended, and sets `peer.close_code`."""
        event = decode_event(await self.peer.receive())
        assert not isinstance(event, UnknownType), f"the contract has no event {event.type!r}"
        return event

    async def until_message(self, text: str) -> list[Event]:
        """Return all events up to the message with that text."""
        events: list[Event] = []
        while not (events and isinstance(event := events[-1], MessageAdded) and event.message.text == text):
            events.append(await self.next())
        return events

    async def gone(self) -> int | None:
        """Read to the end of the socket and return its close code."""
        await self.peer.read_to_end()
        return self.peer.close_code


async def connect(port: int, *, receive_buffer: int | None = None) -> trio.SocketStream:
    """Connect to a port of this machine. The kernel buffers about `receive_buffer` unread bytes."""
    sock = trio.socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


@asynccontextmanager
async def open_socket(
    port: int,
    target: str,
    token: str,
    profile: Profile = Profile.EXTENDED,
    *,
    receive_buffer: int | None = None,
) -> AsyncIterator[Socket]:
    """Open a websocket at `target` as browsers do. At the end it is reset without a Close, if it is still open."""
    async with await connect(port, receive_buffer=receive_buffer) as stream:
        peer = RawPeer(stream)
        peer.answers_pings = False
        head = await peer.handshake(target, (f"bearer.{token}", profile.value))
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield Socket(peer)
        await peer.vanish()


@attrs.frozen
class _Visit:
    chat: Chat


@attrs.frozen
class _History:
    messages: list[Message]
    has_more: bool


@attrs.frozen
class Http:
    """The HTTP API of a server, as far as the tests need it."""

    client: httpx.AsyncClient

    async def reserve(self, token: str) -> UUID:
        """Reserve the visitor's chat at the source lk, and return its id."""
        answer = await self._call("POST", "/api/visitors", token, {"source": "lk"})
        return decode_entity(answer, _Visit).chat.uuid

    async def post(self, token: str, chat: UUID, **body: object) -> Message:
        return decode_entity(await self._call("POST", f"/api/chats/{chat}/messages", token, body), Message)

    async def chats(self, token: str) -> list[Chat]:
        return decode_entity(await self._call("GET", "/api/chats?limit=200", token), list[Chat])

    async def history(self, token: str, chat: UUID, *, limit: int = 200) -> list[Message]:
        """Read the whole history, page by page from its beginning."""
        messages: list[Message] = []
        more = True
        while more:
            after = messages[-1].message_index if messages else -1
            page, more = await self.page(token, chat, f"after={after}&limit={limit}")
            messages += page
        return messages

    async def page(self, token: str, chat: UUID, query: str) -> tuple[list[Message], bool]:
        """Read one page of the history. Also returns whether there is more."""
        page = decode_entity(await self._call("GET", f"/api/chats/{chat}/messages?{query}", token), _History)
        return page.messages, page.has_more

    async def _call(self, method: str, path: str, token: str, body: object = None) -> bytes:
        answer = await self.client.request(method, path, headers={"Authorization": f"Bearer {token}"}, json=body)
        assert answer.is_success, answer.text
        return answer.content


@asynccontextmanager
async def open_http(url: str) -> AsyncIterator[Http]:
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        yield Http(client)
