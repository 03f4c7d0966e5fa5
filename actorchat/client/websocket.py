"""Opens a websocket, runs a function on it, closes it, and reports how it ended."""

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
from actorchat.client.failure_messages import explain_failure, flatten, parse_error_body
from actorchat.client.server_urls import ServerAddress
from actorchat.protocol.profiles import Profile

CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 75.0
"""A socket that receives nothing for this long is considered lost; the server pings every 25 s."""
CLOSE_SECONDS: Final = 1.0
"""How long to wait for the answer to a close frame, even when cancelled."""
MAX_EVENT_BYTES: Final = 2**22
MAX_RETRY_AFTER: Final = 300.0

Dial = Callable[[str, int, ssl.SSLContext | None], Awaitable[trio.abc.Stream]]
"""Connects to (host, port), under TLS if a context is given; raises OSError."""

UseSocket = Callable[[WebSocketConnection], Awaitable[None]]


async def dial_tcp(host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
    """Connect over TCP, with TLS if a context is given. Raises OSError."""
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
    """The TLS context for connections to that server: None without TLS, the default context if ``tls`` is None."""
    return (tls or ssl.create_default_context()) if server.secure else None


@attrs.frozen
class Target:
    """The server to connect to and the token to use."""

    server: ServerAddress
    token: str
    dial: Dial
    tls: ssl.SSLContext | None


async def run_websocket(target: Target, resource: str, use_socket: UseSocket) -> Ending:
    """Open a websocket, call ``use_socket`` with it, close it, and return how it ended.

    Network and protocol errors are returned, not raised; exceptions of ``use_socket`` other than ConnectionClosed are
    raised. When cancelled, it closes the socket within a second.
    """
    try:
        with trio.fail_after(CONNECT_SECONDS):
            stream = _WatchedStream(await target.dial(target.server.host, target.server.port, target.tls))
    except trio.TooSlowError:
        return Unreachable(f"{target.server.authority} does not answer")
    except (OSError, trio.BrokenResourceError) as error:
        return Unreachable(f"cannot connect to {target.server.authority}: {explain_failure(error)}")
    ending: Ending = Unreachable(f"{target.server.authority} closed the connection before it answered")
    try:
        async with trio.open_nursery() as nursery:
            reader_nursery: trio.Nursery = await nursery.start(_open_shielded_nursery)
            try:
                connection = await _upgrade(reader_nursery, stream, target, resource)
                if connection is not None:
                    ending = await _use_and_close(connection, use_socket)
                elif stream.rejection is not None:
                    ending = Rejected(stream.rejection, None)
            finally:
                reader_nursery.cancel_scope.cancel()
    except* ConnectionRejected as group:
        rejection = next(error for error in flatten(group) if isinstance(error, ConnectionRejected))
        detail = parse_error_body(rejection.body).detail
        ending = Rejected(rejection.status_code, _retry_after(rejection), detail)
    except* (ProtocolError, h11.ProtocolError, HandshakeError, OSError) as group:
        ending = Unreachable(f"{target.server.authority} is not a websocket server: {flatten(group)[0]}")
    finally:
        await trio.aclose_forcefully(stream)
    return ending


async def _open_shielded_nursery(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    # The library's reader task runs here: it has to receive the answer to our close frame even when the caller is
    # cancelled. `_use_and_close` limits how long that takes.
    async with trio.open_nursery() as nursery:
        # If already cancelled, stop here: `start` would raise, and nobody could end the shielded nursery.
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
            # It is declared as SocketStream | SSLStream, but only send_all, receive_some and aclose are used.
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


async def _use_and_close(connection: WebSocketConnection, use_socket: UseSocket) -> Ending:
    if connection.subprotocol != Profile.EXTENDED.value:
        ending = Closed(1010, f"the server does not support {Profile.EXTENDED.value}")
        use_socket = _do_nothing
    else:
        ending = Closed(1000, "closed by this side")
    try:
        await use_socket(connection)
    except* ConnectionClosed:
        reason = connection.closed
        ending = Closed(1006, "") if reason is None else Closed(reason.code, reason.reason or "")
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await connection.aclose()
    return ending


async def _do_nothing(_: WebSocketConnection) -> None:
    await trio.lowlevel.checkpoint()


def _retry_after(rejection: ConnectionRejected) -> float | None:
    for name, value in rejection.headers or ():
        if name.lower() == b"retry-after" and value.isdigit():
            return min(float(value), MAX_RETRY_AFTER)
    return None


class _WatchedStream(trio.abc.Stream):
    """A stream that ends when the peer is silent for too long, and cancels the upgrade when the peer closes it.

    trio-websocket alone would wait until its timeout for an answer on a closed connection, and would never return
    from a rejection whose body ends with the connection.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._head = b""
        self.upgrading: trio.CancelScope | None = None

    @property
    def rejection(self) -> int | None:
        """The HTTP status with which the server refused the upgrade, None if there is none."""
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
