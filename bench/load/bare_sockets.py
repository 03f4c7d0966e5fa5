"""Opens websockets without a library, so that a benchmark's own client takes little of the time that it measures."""

from __future__ import annotations

import trio

from bench.load.generator import Socket

__all__ = ["drain", "open_bare_socket", "text_frame"]


async def open_bare_socket(port: int, socket: Socket) -> trio.SocketStream:
    """Open a websocket on the loopback interface. Raises RuntimeError if the server does not open it."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    headers = [f"{name}: {value}" for name, value in socket.headers]
    lines = [f"GET {socket.path} HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade", *headers]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
    await stream.send_all("\r\n".join(lines).encode())
    answer = bytes(await stream.receive_some(65_536))
    if not answer.startswith(b"HTTP/1.1 101"):
        raise RuntimeError(f"the server sent {answer[:300]!r} instead of a websocket")
    return stream


async def drain(stream: trio.SocketStream) -> None:
    """Read and forget everything, until the end."""
    async for _ in stream:
        pass


def text_frame(payload: bytes) -> bytes:
    """A frame of at most 125 bytes whose mask is zero."""
    return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload
