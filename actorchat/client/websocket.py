"""Owns one websocket from dialling to its end, and says how it ended.

Refuses to know rooms, feeds and whether to come back.
"""

import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import h11
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.utilities import ProtocolError

from actorchat.client.disconnect import Closed, Ending, Rejected, Unreachable
from actorchat.client.failure_messages import explain_failure, leaves, read_fault
from actorchat.client.server_urls import ServerAddress
from actorchat.protocol.profiles import Profile

CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 75.0
"""The server pings every 25 s: a socket this long without a byte is dead."""
CLOSE_SECONDS: Final = 1.0
"""A close waits this long for its answer, also when it is cancelled."""
MAX_EVENT_BYTES: Final = 2**22
LONGEST_RETRY_AFTER: Final = 300.0

Dial = Callable[[str, int, ssl.SSLContext | None], Awaitable[trio.abc.Stream]]
"""Connects to (host, port), under TLS if a context is given; raises OSError."""

Converse = Callable[[WebSocketConnection], Awaitable[None]]


async def dial_tcp(host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
    """Connect over TCP; raises OSError."""
    if tls is None:
        return await trio.open_tcp_stream(host, port)
    stream = await trio.open_ssl_over_tcp_stream(host, port, ssl_context=tls, https_compatible=True)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise OSError(f"TLS: {error.__cause__ or error}") from error
    return stream


def tls_context(server: ServerAddress, tls: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """The context a connection to that server needs: None without TLS, the default one if none is given."""
    return (tls or ssl.create_default_context()) if server.secure else None


@attrs.frozen
class Target:
    """Where to connect and as whom."""

    server: ServerAddress
    token: str
    dial: Dial
    tls: ssl.SSLContext | None


async def attend(target: Target, resource: str, converse: Converse) -> Ending:
    """Open a websocket, run ``converse`` on it, and close it; the end of either is the end of both.

    Network and protocol errors become the returned ending; what ``converse`` raises beside
    ConnectionClosed passes. Cancelled, it closes the socket within a second and leaves nothing.
    """
    try:
        with trio.fail_after(CONNECT_SECONDS):
            stream = _WatchedStream(await target.dial(target.server.host, target.server.port, target.tls))
    except trio.TooSlowError:
        return Unreachable(f"{target.server.authority} does not answer")
    except (OSError, trio.BrokenResourceError) as error:
        return Unreachable(f"cannot connect to {target.server.authority}: {explain_failure(error)}")
    ending: Ending = Unreachable(f"{target.server.authority} hung up before it answered")
    try:
        async with trio.open_nursery() as nursery:
            reading: trio.Nursery = await nursery.start(_outlive_cancellation)
            try:
                connection = await _upgrade(reading, stream, target, resource)
                if connection is not None:
                    ending = await _hold(connection, converse)
                elif stream.rejection is not None:
                    ending = Rejected(stream.rejection, None)
            finally:
                reading.cancel_scope.cancel()
    except* ConnectionRejected as group:
        rejection = next(error for error in leaves(group) if isinstance(error, ConnectionRejected))
        detail = read_fault(rejection.body).detail
        ending = Rejected(rejection.status_code, _retry_after(rejection), detail)
    except* (ProtocolError, h11.ProtocolError, HandshakeError, OSError) as group:
        ending = Unreachable(f"{target.server.authority} speaks no websocket: {leaves(group)[0]}")
    finally:
        await trio.aclose_forcefully(stream)
    return ending


async def _outlive_cancellation(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    # A close needs its reader to see the answer, also when the rest is cancelled. `_hold` bounds it.
    async with trio.open_nursery() as nursery:
        # Cancelled before it started, a shielded task would belong to nobody who could end it.
        await trio.lowlevel.checkpoint_if_cancelled()
        nursery.cancel_scope.shield = True
        task_status.started(nursery)
        await trio.sleep_forever()


async def _upgrade(
    nursery: trio.Nursery, stream: "_WatchedStream", target: Target, resource: str
) -> WebSocketConnection | None:
    with trio.move_on_after(CONNECT_SECONDS) as opening:
        stream.upgrading = opening
        connection = await wrap_client_stream(
            nursery,
            # The declared type is narrower than what it uses: send_all, receive_some and aclose.
            stream,  # type: ignore[arg-type]
            target.server.authority,
            resource,
            subprotocols=[Profile.EXTENDED.value],
            extra_headers=[(b"Authorization", b"Bearer " + target.token.encode())],
            max_message_size=MAX_EVENT_BYTES,
        )
        stream.upgrading = None
        return connection
    stream.upgrading = None
    return None


async def _hold(connection: WebSocketConnection, converse: Converse) -> Ending:
    if connection.subprotocol != Profile.EXTENDED.value:
        ending = Closed(1010, f"the server does not speak {Profile.EXTENDED.value}")
        converse = _say_nothing
    else:
        ending = Closed(1000, "closed by this side")
    try:
        await converse(connection)
    except* ConnectionClosed:
        reason = connection.closed
        ending = Closed(1006, "") if reason is None else Closed(reason.code, reason.reason or "")
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await connection.aclose()
    return ending


async def _say_nothing(_: WebSocketConnection) -> None:
    await trio.lowlevel.checkpoint()


def _retry_after(rejection: ConnectionRejected) -> float | None:
    for name, value in rejection.headers or ():
        if name.lower() == b"retry-after" and value.isdigit():
            return min(float(value), LONGEST_RETRY_AFTER)
    return None


class _WatchedStream(trio.abc.Stream):
    """A stream that ends when its peer falls silent, and ends the upgrade when the peer hangs up in it.

    trio-websocket alone would wait out its time for an answer on a connection that is gone, and would
    never return from a rejection whose body only the end of the connection delimits.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._head = b""
        self.upgrading: trio.CancelScope | None = None

    @property
    def rejection(self) -> int | None:
        """The HTTP status that was answered instead of an upgrade, if one can be told."""
        parts = self._head.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or len(parts[1]) < 3 or not parts[1].isdigit():
            return None
        return None if parts[1] == b"101" else int(parts[1])

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        try:
            with trio.move_on_after(SILENCE_SECONDS):
                data = await self._stream.receive_some(max_bytes)
        finally:
            if not data and self.upgrading is not None:
                self.upgrading.cancel()
        if len(self._head) < 16:
            self._head += data[:16]
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()
