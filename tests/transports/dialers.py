"""Opens each transport, and connects test clients to it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing

from actorchat.testing import RawPeer, RecordingApplication
from actorchat.testing._transport_harness import Dialer, Peer
from actorchat.transports.byte_stream import TrioByteStream
from actorchat.transports.http_stream import HttpStream, TlsHttpStream
from actorchat.transports.listener import Listener, Rejection, bind
from actorchat.transports.memory import MemoryConnection, MemoryTransport, open_memory_transport
from actorchat.transports.ports import Admission, Limits
from actorchat.transports.reactor import ReactorTransport, open_reactor_transport
from actorchat.transports.request_head import RequestHead, read_head
from actorchat.transports.websocket import WebsocketTransport, open_websocket_transport

SocketTransport = ReactorTransport | WebsocketTransport
OPENERS: dict[str, Callable[..., AbstractAsyncContextManager[SocketTransport]]] = {
    "reactor": open_reactor_transport,
    "trio-websocket": open_websocket_transport,
}
"""The socket transports by their names in the settings."""


class MemoryPeer:
    answers_close = True

    def __init__(self, connection: MemoryConnection) -> None:
        self.connection = connection
        self.send_text = connection.send_text
        self.send_binary = connection.send_binary
        self.receive = connection.receive_payload

    @property
    def answers_pings(self) -> bool:
        raise AttributeError("only set")

    @answers_pings.setter
    def answers_pings(self, yes: bool) -> None:
        self.connection.answer_pings(yes)

    @property
    def close_code(self) -> int | None:
        return self.connection.close_code

    async def close(self, code: int = 1000) -> None:
        await self.connection.aclose(code)

    async def vanish(self) -> None:
        self.connection.abort()


class MemoryDialer:
    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.drain = transport.drain

    @property
    def open_sockets(self) -> int:
        return len(self.transport.sessions)

    @asynccontextmanager
    async def dial(self, admission: Admission) -> AsyncIterator[Peer]:
        async with self.transport.connect(admission, buffer_bytes=4_096) as connection:
            yield MemoryPeer(connection)


@asynccontextmanager
async def open_memory(
    application: RecordingApplication, limits: Limits, wall: Callable[[], float]
) -> AsyncIterator[Dialer]:
    async with open_memory_transport(application, limits=limits, wall=wall) as transport:
        yield MemoryDialer(transport)


class StreamDialer:
    """Connects websockets over lockstep streams, which buffer nothing and allow virtual time."""

    def __init__(self, transport: WebsocketTransport) -> None:
        self.transport = transport
        self.drain = transport.drain

    @property
    def open_sockets(self) -> int:
        return len(self.transport.sessions)

    @asynccontextmanager
    async def dial(self, admission: Admission) -> AsyncIterator[RawPeer]:
        client, server = trio.testing.lockstep_stream_pair()
        peer = RawPeer(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, server, admission)
            await peer.handshake()
            yield peer
            await peer.vanish()

    async def _serve(self, stream: trio.abc.Stream, admission: Admission) -> None:
        line = TrioByteStream(stream, self.transport.nursery)
        head = await read_head(line.receive)
        assert head is not None
        await self.transport.serve(line, head.upgrade(None), admission)
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"the transport has closed it")


@asynccontextmanager
async def open_streams(
    application: RecordingApplication, limits: Limits, wall: Callable[[], float]
) -> AsyncIterator[Dialer]:
    async with open_websocket_transport(application, limits=limits, wall=wall) as transport:
        yield StreamDialer(transport)


class SocketDialer:
    """Connects websockets over loopback TCP, through the listener and with the smallest kernel buffers."""

    listener: Listener

    def __init__(self, transport: SocketTransport) -> None:
        self.transport = transport
        self.drain = transport.drain
        self.verdicts: list[Admission | Rejection] = []
        self.heads: list[RequestHead] = []

    @property
    def open_sockets(self) -> int:
        return len(self.transport.sessions)

    async def authorize(self, head: RequestHead, peer: str) -> Admission | Rejection:
        self.heads.append(head)
        return self.verdicts.pop(0)

    async def connect(self) -> trio.SocketStream:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        trio_socket = trio.socket.from_stdlib_socket(sock)
        await trio_socket.connect(("127.0.0.1", self.listener.port))
        return trio.SocketStream(trio_socket)

    @asynccontextmanager
    async def dial(self, admission: Admission) -> AsyncIterator[RawPeer]:
        self.verdicts.append(admission)
        async with await self.connect() as stream:
            peer = RawPeer(stream)
            await peer.handshake(subprotocols=("bearer.secret", admission.profile.value))
            yield peer
            await peer.vanish()


async def echo_http(stream: HttpStream | TlsHttpStream, head: RequestHead) -> bytes | None:
    """Answer a request with the bytes that were read from its stream."""
    data = await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
    return None


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read to the end of the stream."""
    data = b""
    while part := await stream.receive_some():
        data += part
    return data


@asynccontextmanager
async def open_sockets(
    application: RecordingApplication,
    limits: Limits,
    wall: Callable[[], float],
    *,
    transport: str = "trio-websocket",
    tls: ssl.SSLContext | None = None,
    small_buffers: bool = True,
) -> AsyncIterator[SocketDialer]:
    sockets = await bind("127.0.0.1", 0)
    for sock in sockets if small_buffers else ():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    async with (
        OPENERS[transport](application, limits=limits, wall=wall) as opened,
        trio.open_nursery() as nursery,
    ):
        dialer = SocketDialer(opened)
        listener = Listener(sockets, transport=opened, authorize=dialer.authorize, http=echo_http, tls=tls)
        dialer.listener = listener
        await nursery.start(listener.serve)
        yield dialer
        listener.close()
