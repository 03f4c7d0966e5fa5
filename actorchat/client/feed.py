"""Connects to the operators' feed and stays connected."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random, SystemRandom

import attrs
import trio
from trio_websocket import WebSocketConnection

from actorchat.client.backoff import Backoff
from actorchat.client.disconnect import Ending, Unreachable
from actorchat.client.reconnect import ConnectionState, Reconnector, run_in_background
from actorchat.client.server_urls import ServerAddress
from actorchat.client.websocket import Dial, Target, dial_tcp, run_websocket, tls_context
from actorchat.protocol.codec import UnknownType, decode_event
from actorchat.protocol.events import Event
from actorchat.protocol.validation import Malformed


@attrs.frozen
class SnapshotBegins:
    """A socket was opened: a snapshot of operators, counters and unclosed chats follows, then live events.

    Discard everything received before it: chats that were closed meanwhile are not in the snapshot.
    """


FeedItem = Event | SnapshotBegins
"""An item of a `FeedConnection`."""


def open_feed(
    url: str,
    *,
    token: str,
    sources: Sequence[str] = (),
    inbox: int = 256,
    random: Random | None = None,
    dial: Dial = dial_tcp,
    tls: ssl.SSLContext | None = None,
) -> AbstractAsyncContextManager["FeedConnection"]:
    """Open the feed of these ``sources``, or of all the operator's sources if there are none, and keep it open.

    Entering the block does not wait for the server. ``inbox`` bounds the queue of received events; while it is full,
    nothing is read from the socket. The other arguments are as in `open_room`. Raises ValueError if ``url`` is not a
    valid address.
    """
    server = ServerAddress.parse(url)
    target = Target(server, token, dial, tls_context(server, tls))
    return _run(FeedConnection(target, server.feed(sources), inbox, random or SystemRandom()))


@asynccontextmanager
async def _run(feed: "FeedConnection") -> AsyncIterator["FeedConnection"]:
    async with run_in_background(feed.run):
        yield feed


class FeedConnection:
    """One operator's feed. Made by `open_feed`.

    Iterating yields `SnapshotBegins` for each socket, then its events in the server's order. The iteration raises
    ConnectionEnded if the server ends the feed for good, and stops after `aclose`. Only one task may iterate.
    """

    def __init__(self, target: Target, resource: str, inbox: int, random: Random) -> None:
        self._target = target
        self._resource = resource
        self._reconnector = Reconnector(Backoff(random))
        self._events_send, self._events = trio.open_memory_channel[FeedItem](inbox)
        self._protocol_error: Unreachable | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def state(self) -> ConnectionState:
        """The state of the connection: connecting, live, waiting to reconnect, or closed."""
        return self._reconnector.state

    @property
    def reason(self) -> str:
        """Why the connection is not live, in one line for users; ``""`` while it is."""
        return self._reconnector.reason

    async def wait_live(self) -> None:
        """Wait until the connection is live. Raises ConnectionEnded, or ClosedResourceError after `aclose`."""
        await self._reconnector.wait_live()

    async def wait_state_change(self, seen: ConnectionState) -> ConnectionState:
        """Wait until `state` differs from ``seen``, and return it."""
        return await self._reconnector.wait_state_change(seen)

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        self._scope.cancel()
        await self._ended.wait()

    def __aiter__(self) -> "FeedConnection":
        return self

    async def __anext__(self) -> FeedItem:
        try:
            return await self._events.receive()
        except trio.EndOfChannel:
            if self._reconnector.error is not None:
                raise self._reconnector.error from None
            raise StopAsyncIteration from None

    async def run(self) -> None:
        """Keep the feed open until it ends. Called by `open_feed`."""
        try:
            with self._scope:
                await self._reconnector.run(self._connect_once, self._on_socket_lost)
        finally:
            self._reconnector.set_closed()
            self._events_send.close()
            self._ended.set()

    async def _connect_once(self) -> Ending:
        ending = await run_websocket(self._target, self._resource, self._read)
        protocol_error, self._protocol_error = self._protocol_error, None
        return protocol_error or ending

    async def _on_socket_lost(self, _: Ending) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def _read(self, socket: WebSocketConnection) -> None:
        self._reconnector.set_live()
        await self._events_send.send(SnapshotBegins())
        while True:
            payload = await socket.get_message()
            try:
                event = decode_event(payload)
            except Malformed as error:
                self._protocol_error = Unreachable(f"the server sent an invalid event: {error}")
                return
            if not isinstance(event, UnknownType):
                await self._events_send.send(event)
