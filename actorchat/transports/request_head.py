"""Owns the head of one HTTP/1.1 request: bounded in bytes and in time, read once, replayed to who serves it.

Refuses to know routes, tokens, and what a request is for.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import h11
import trio

__all__ = ["BadHead", "HeadReader", "RequestHead", "Upgrade", "read_head"]

_MAX_HEAD_BYTES: Final = 16_384
_MAX_SECONDS: Final = 10.0
_TOO_LARGE: Final = "the request's head is too large"


class BadHead(Exception):  # noqa: N818 - it is what was read, not a failure of this side
    """A request that is answered with `status` and not served."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@attrs.frozen
class Upgrade:
    """A websocket's opening handshake that was found good: the client's key, the subprotocol that answers it, if any.

    `rest` is what came behind the head.
    """

    key: bytes
    subprotocol: str | None
    rest: bytes

    @property
    def request(self) -> bytes:
        """The smallest request for it, as if the client had offered `subprotocol` alone."""
        lines = [
            b"GET / HTTP/1.1",
            b"Host: actorchat",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: " + self.key,
        ]
        if self.subprotocol is not None:
            lines.append(b"Sec-WebSocket-Protocol: " + self.subprotocol.encode("ascii"))
        return b"\r\n".join([*lines, b"", b""])


@attrs.frozen
class RequestHead:
    """One request's head: names of headers in lower case, `path` and `query` as sent, not decoded.

    `raw` is all that was read of the connection, the head first; `rest` is what of it lies beyond the head.
    """

    version: str
    method: str
    target: str
    path: str
    query: str
    headers: tuple[tuple[bytes, bytes], ...]
    raw: bytes
    rest: bytes

    def header(self, name: bytes) -> bytes | None:
        """The first header of that lower-case name, None if there is none."""
        return next((value for key, value in self.headers if key == name), None)

    def tokens(self, name: bytes) -> tuple[str, ...]:
        """The comma-separated parts of all headers of that lower-case name, in order."""
        values = b",".join(value for key, value in self.headers if key == name).decode("latin-1")
        return tuple(part for part in map(str.strip, values.split(",")) if part)

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The websocket subprotocols offered."""
        return self.tokens(b"sec-websocket-protocol")

    @property
    def is_websocket_upgrade(self) -> bool:
        """The client asks for a websocket, rightly or wrongly: `upgrade` tells."""
        return "websocket" in map(str.lower, self.tokens(b"upgrade"))

    def upgrade(self, subprotocol: str | None) -> Upgrade:
        """The handshake, to be answered with `subprotocol`. Raises BadHead 400 or 426 if it is none."""
        if self.version != "1.1":
            raise BadHead(400, "a websocket opens with HTTP/1.1")
        if self.header(b"transfer-encoding") is not None or (self.header(b"content-length") or b"0") != b"0":
            raise BadHead(400, "a websocket opens with a request without a body")
        if self.method != "GET" or "upgrade" not in map(str.lower, self.tokens(b"connection")):
            raise BadHead(400, "a websocket opens with GET and Connection: Upgrade")
        if self.header(b"sec-websocket-version") != b"13":
            raise BadHead(426, "only version 13 of the websocket protocol is spoken here")
        key = self.header(b"sec-websocket-key") or b""
        try:
            nonce = base64.b64decode(key, validate=True)
        except binascii.Error:
            nonce = b""
        if len(nonce) != 16:
            raise BadHead(400, "Sec-WebSocket-Key has to be 16 bytes in base64")
        return Upgrade(key, subprotocol, self.rest)


class HeadReader:
    """Reads one request's head, in whatever pieces it comes; at most `max_bytes` of it.

    What it refuses it refuses with BadHead: 400 for what is no HTTP/1.1, 431 for what is too large.
    """

    def __init__(self, max_bytes: int = _MAX_HEAD_BYTES) -> None:
        self._max_bytes = max_bytes
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=max_bytes)
        self._chunks: list[bytes] = []

    @property
    def begun(self) -> bool:
        """Something of a head has come."""
        return bool(self._chunks)

    def feed(self, data: bytes) -> RequestHead | None:
        """Take the next bytes, which are some; the head, once it is whole. Empty lines before it are ignored."""
        if not self._chunks:
            data = data.lstrip(b"\r\n")
            if not data:
                return None
        self._chunks.append(data)
        try:
            self._parser.receive_data(data)
            event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            detail = _TOO_LARGE if error.error_status_hint == 431 else str(error)
            raise BadHead(error.error_status_hint, detail) from None
        if isinstance(event, h11.Request):
            return _head(event, b"".join(self._chunks), self._parser.trailing_data[0], self._max_bytes)
        return None


async def read_head(
    receive: Callable[[], Awaitable[bytes]], reader: HeadReader | None = None, *, seconds: float = _MAX_SECONDS
) -> RequestHead | None:
    """Read one request's head, what `reader` has of it going before; None if the peer left without a word.

    Raises BadHead, also 408 if it has not come whole within `seconds`, however steadily it trickles.
    BrokenResourceError passes through.
    """
    reader = reader or HeadReader()
    with trio.move_on_after(seconds):
        while True:
            data = await receive()
            if not data:
                if reader.begun:
                    raise BadHead(400, "the request ended within its head")
                return None
            head = reader.feed(data)
            if head is not None:
                return head
    raise BadHead(408, "the request's head took too long")


def _head(request: h11.Request, raw: bytes, rest: bytes, max_bytes: int) -> RequestHead:
    if len(raw) - len(rest) > max_bytes:
        raise BadHead(431, _TOO_LARGE)
    target = request.target.decode("ascii")
    path, _, query = target.partition("?")
    headers = tuple((bytes(name), bytes(value)) for name, value in request.headers)
    version, method = request.http_version.decode("ascii"), request.method.decode("ascii")
    return RequestHead(version, method, target, path, query, headers, raw, rest)
