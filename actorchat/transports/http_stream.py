"""Wraps a connection whose first bytes are already read, so that an HTTP server reads them again.

The wrappers have the attributes of `trio.SocketStream` and `trio.SSLStream` that HTTP servers use.
"""

from __future__ import annotations

import trio

__all__ = ["HttpStream", "TlsHttpStream"]


class HttpStream(trio.abc.HalfCloseableStream):
    """A plain TCP connection. `replay` is received before the bytes of `stream`."""

    def __init__(self, stream: trio.SocketStream, replay: bytes) -> None:
        self.socket: trio.socket.SocketType = stream.socket
        self._stream = stream
        self._replay = replay

    @property
    def unread(self) -> bytes:
        """The part of `replay` that has not been received yet."""
        return self._replay

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._replay:
            data, self._replay = _split(self._replay, max_bytes)
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
    """A TLS connection after its handshake. `replay` is received before the bytes of `stream`."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], replay: bytes) -> None:
        self.transport_stream: trio.SocketStream = stream.transport_stream
        self._stream = stream
        self._replay = replay

    async def do_handshake(self) -> None:
        """Do nothing: the handshake is done."""
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str | None:
        """The protocol that the handshake selected: None or `http/1.1`."""
        protocol: str | None = self._stream.selected_alpn_protocol()
        return protocol

    @property
    def unread(self) -> bytes:
        """The part of `replay` that has not been received yet."""
        return self._replay

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._replay:
            data, self._replay = _split(self._replay, max_bytes)
            await trio.lowlevel.checkpoint()
            return data
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _split(data: bytes, max_bytes: int | None) -> tuple[bytes, bytes]:
    return (data, b"") if max_bytes is None else (data[:max_bytes], data[max_bytes:])
