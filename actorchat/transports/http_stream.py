"""Owns a connection that is handed to an HTTP server after its first head was read: the bytes are replayed.

Refuses to know HTTP. It looks like `trio.SocketStream` or `trio.SSLStream` as far as servers ask.
"""

from __future__ import annotations

import trio

__all__ = ["HttpStream", "TlsHttpStream"]


class HttpStream(trio.abc.HalfCloseableStream):
    """A plain connection; `socket` is its trio socket."""

    def __init__(self, stream: trio.SocketStream, replay: bytes) -> None:
        self.socket: trio.socket.SocketType = stream.socket
        self._stream = stream
        self._replay = replay

    @property
    def unread(self) -> bytes:
        """What is left to replay."""
        return self._replay

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._replay:
            data, self._replay = _cut(self._replay, max_bytes)
            await trio.lowlevel.checkpoint()
            return data
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class TlsHttpStream(trio.abc.Stream):
    """A connection over TLS whose handshake is done; `transport_stream` lies under it."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], replay: bytes) -> None:
        self.transport_stream: trio.SocketStream = stream.transport_stream
        self._stream = stream
        self._replay = replay

    async def do_handshake(self) -> None:
        """Do nothing: the head could not have been read before the handshake."""
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str | None:
        """What the handshake settled on; None and `http/1.1` are served."""
        protocol: str | None = self._stream.selected_alpn_protocol()
        return protocol

    @property
    def unread(self) -> bytes:
        """What is left to replay."""
        return self._replay

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._replay:
            data, self._replay = _cut(self._replay, max_bytes)
            await trio.lowlevel.checkpoint()
            return data
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _cut(data: bytes, max_bytes: int | None) -> tuple[bytes, bytes]:
    return (data, b"") if max_bytes is None else (data[:max_bytes], data[max_bytes:])
