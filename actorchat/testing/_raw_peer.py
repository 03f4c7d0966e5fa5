"""A websocket client that sends raw frames, valid or not, over any stream."""

from __future__ import annotations

import base64
import os
import socket
import struct
from typing import Final

import trio

__all__ = ["RawPeer"]

_TEXT: Final = 0x1
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_FINAL: Final = 0x80
_MASKED: Final = 0x80
_ABNORMAL: Final = 1006


class RawPeer:
    """The client's end of `stream`. It reads only inside `receive`, `receive_frame` and `read_to_end`.

    Pings and Closes are answered only while it reads, unless `answers_pings` or `answers_close` is false.
    `close_code` is the code of the server's Close, or 1006 if the stream ended without one. `after_close` counts the
    bytes that arrived after the Close. `was_reset` is true if the stream was reset. `frames` are all frames received,
    as (opcode, payload).
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.close_code: int | None = None
        self.close_reason: str = ""
        self.after_close: int = 0
        self.was_reset: bool = False
        self.frames: list[tuple[int, bytes]] = []
        self.answers_pings = True
        self.answers_close = True
        self._buffer = bytearray()

    async def handshake(
        self,
        target: str = "/",
        subprotocols: tuple[str, ...] = (),
        behind: bytes = b"",
        *,
        host: str = "localhost",
        headers: tuple[str, ...] = (),
    ) -> bytes:
        """Request an upgrade, with further header lines, and with `behind` in the same packet.

        Returns the head of the response.
        """
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {host}",
            *headers,
            "Upgrade: websocket",
            "Connection: keep-alive, Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        ]
        if subprotocols:
            lines.append(f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}")
        await self.stream.send_all("\r\n".join([*lines, "", ""]).encode() + behind)
        while b"\r\n\r\n" not in self._buffer:
            data = await self.stream.receive_some(65_536)
            if not data:
                break
            self._buffer += data
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        return head

    async def send_text(self, raw: bytes | str) -> None:
        """Send one whole text message."""
        await self.send_frame(_TEXT, raw.encode() if isinstance(raw, str) else raw)

    async def send_binary(self, raw: bytes) -> None:
        """Send one whole binary message."""
        await self.send_frame(_BINARY, raw)

    async def send_fragments(self, parts: list[bytes], between: bytes = b"") -> None:
        """Send a text message in fragments, with the frames in `between` after each fragment but the last."""
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            await self.stream.send_all(frame_of(_TEXT if place == 0 else 0, part, final=last))
            if between and not last:
                await self.stream.send_all(between)

    async def send_frame(self, opcode: int, payload: bytes = b"") -> None:
        """Send one final, masked frame."""
        await self.stream.send_all(frame_of(opcode, payload))

    async def receive(self) -> bytes:
        """Return the next text message. Raises EndOfChannel when the socket has ended."""
        while True:
            opcode, payload = await self.receive_frame()
            if opcode == _TEXT:
                return payload
            if opcode == _PING and self.answers_pings:
                await self._try_send(_PONG, payload)
            if opcode == _CLOSE:
                await self._end(payload)
                raise trio.EndOfChannel

    async def receive_frame(self) -> tuple[int, bytes]:
        """Return the next frame of any type as (opcode, payload). Raises EndOfChannel when the stream has ended."""
        while (frame := self._cut()) is None:
            if not await self._fill():
                if self.close_code is None:
                    self.close_code = _ABNORMAL
                raise trio.EndOfChannel
        self.frames.append(frame)
        return frame

    async def close(self, code: int = 1000) -> None:
        """Send a Close, without waiting for the server's."""
        await self._try_send(_CLOSE, code.to_bytes(2))

    async def read_to_end(self) -> None:
        """Read until the socket has ended."""
        while self.close_code is None:
            try:
                await self.receive()
            except trio.EndOfChannel:
                return

    async def half_close(self) -> None:
        """End the sending direction; receiving goes on."""
        assert isinstance(self.stream, trio.abc.HalfCloseableStream)  # noqa: S101 - the caller's mistake
        await self.stream.send_eof()

    async def vanish(self) -> None:
        """Reset the connection; a stream that has no socket is closed instead. Does nothing if it has ended."""
        if isinstance(self.stream, trio.SocketStream) and self.stream.socket.fileno() != -1:
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self.stream)

    async def _end(self, payload: bytes) -> None:
        self.close_code = int.from_bytes(payload[:2]) if payload else 1005
        self.close_reason = payload[2:].decode()
        if self.answers_close:
            await self._try_send(_CLOSE, payload[:2])
            while await self._fill():
                pass
            self.after_close = len(self._buffer)
            await self.stream.aclose()

    async def _fill(self) -> bytes:
        try:
            data = bytes(await self.stream.receive_some(65_536))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.was_reset = True
            return b""
        self._buffer += data
        return data

    async def _try_send(self, opcode: int, payload: bytes) -> None:
        try:
            await self.send_frame(opcode, payload)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.was_reset = True

    def _cut(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1], 2
        if length == 126:
            length, start = int.from_bytes(buffer[2:4]), 4
        elif length == 127:
            length, start = int.from_bytes(buffer[2:10]), 10
        if len(buffer) < start + length:
            return None
        opcode = buffer[0] & 0x0F
        payload = bytes(buffer[start : start + length])
        del buffer[: start + length]
        return opcode, payload


def frame_of(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True) -> bytes:
    """Frame `payload` as a client does. No client may send a frame with `masked=False`."""
    length = len(payload)
    mask_bit = _MASKED if masked else 0
    first = opcode | (_FINAL if final else 0)
    if length < 126:
        head = bytes((first, mask_bit | length))
    elif length < 65_536:
        head = bytes((first, mask_bit | 126)) + length.to_bytes(2)
    else:
        head = bytes((first, mask_bit | 127)) + length.to_bytes(8)
    if not masked:
        return head + payload
    key = b"\x0f\xf0\x55\xaa"
    repeated = key * (length // 4 + 1)
    body = int.from_bytes(payload) ^ int.from_bytes(repeated[:length])
    return head + key + body.to_bytes(length)
