"""Owns the connection to the operators' feed: what happens in all chats of some sources.

Refuses to know who looks at it; it tells the server nothing.
"""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random, SystemRandom

import attrs
import trio
from trio_websocket import WebSocketConnection

from actorchat.client.backoff import Backoff
from actorchat.client.disconnect import Ending, Unreachable
from actorchat.client.reconnect import ConnectionState, Reconnector, run_beside
from actorchat.client.server_urls import ServerAddress
from actorchat.client.websocket import Dial, Target, attend, dial_tcp, tls_context
from actorchat.protocol.codec import UnknownType, decode_event
from actorchat.protocol.events import Event
from actorchat.protocol.validation import Malformed


@attrs.frozen
class SnapshotBegins:
    """A socket opened: operators, the counts and every chat that is not closed come anew, then live events.

    What was known before and does not come again is gone: chats closed meanwhile are not in a snapshot.
    """


FeedItem = Event | SnapshotBegins
"""What iterating a `FeedConnection` gives."""


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
    """Open the feed of an operator's ``sources`` (none: all theirs) and keep it open.

    Entering does not wait for the server. ``inbox`` bounds the events not yet read; when full the socket
    is not read either. The rest is as in `open_room`. Raises ValueError for an address that is none.
    """
    server = ServerAddress.parse(url)
    target = Target(server, token, dial, tls_context(server, tls))
    return _opened(FeedConnection(target, server.feed(sources), inbox, random or SystemRandom()))


@asynccontextmanager
async def _opened(feed: "FeedConnection") -> AsyncIterator["FeedConnection"]:
    async with run_beside(feed.run):
        yield feed


class FeedConnection:
    """One operator's feed; made by `open_feed`.

    Iterating gives `SnapshotBegins` for each socket, then its events in the server's order. It raises
    ConnectionEnded when the server ended it for good and stops after `aclose`. One task iterates at a time.
    """

    def __init__(self, target: Target, resource: str, inbox: int, random: Random) -> None:
        self._target = target
        self._resource = resource
        self._reconnector = Reconnector(Backoff(random))
        self._events_send, self._events = trio.open_memory_channel[FeedItem](inbox)
        self._verdict: Ending | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands: connecting, live, waiting to come back, or closed."""
        return self._reconnector.state

    @property
    def reason(self) -> str:
        """Why it is not live, in one line for people."""
        return self._reconnector.reason

    async def wait_live(self) -> None:
        """Wait for a live socket; raises ConnectionEnded, or ClosedResourceError after `aclose`."""
        await self._reconnector.wait_live()

    async def wait_state_change(self, seen: ConnectionState) -> ConnectionState:
        """Wait until `state` is another than ``seen``, and return it."""
        return await self._reconnector.wait_change(seen)

    async def aclose(self) -> None:
        """Close the socket and end the connection. Idempotent."""
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
        """Keep the feed open until it ends; for `open_feed` only."""
        try:
            with self._scope:
                await self._reconnector.run(self._attempt, self._lost)
        finally:
            self._reconnector.closed()
            self._events_send.close()
            self._ended.set()

    async def _attempt(self) -> Ending:
        ending = await attend(self._target, self._resource, self._read)
        verdict, self._verdict = self._verdict, None
        return verdict or ending

    async def _lost(self, _: Ending) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def _read(self, socket: WebSocketConnection) -> None:
        self._reconnector.live()
        await self._events_send.send(SnapshotBegins())
        while True:
            payload = await socket.get_message()
            try:
                event = decode_event(payload)
            except Malformed as error:
                self._verdict = Unreachable(f"the server sent what is no event: {error}")
                return
            if not isinstance(event, UnknownType):
                await self._events_send.send(event)
