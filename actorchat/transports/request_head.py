"""Reads and parses the head of an HTTP/1.1 request, with limits for its size and time."""

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


class BadHead(Exception):  # noqa: N818 - describes the request
    """The request is answered with `status` and the text `detail`, and not served."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@attrs.frozen
class Upgrade:
    """A valid opening handshake of a websocket.

    `key` is the client's, `subprotocol` the one that the server selected. `rest` has the bytes read after the head.
    """

    key: bytes
    subprotocol: str | None
    rest: bytes

    @property
    def request(self) -> bytes:
        """A minimal request head with the same key, which offers `subprotocol` alone."""
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
    """The head of a request. Header names are in lower case; `path` and `query` are not decoded.

    `raw` has all bytes read from the connection, and `rest` those of them that follow the head.
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
        """Return the first header with that lower-case name, None if there is none."""
        return next((value for key, value in self.headers if key == name), None)

    def tokens(self, name: bytes) -> tuple[str, ...]:
        """Return the comma-separated parts of all headers with that lower-case name, in order."""
        values = b",".join(value for key, value in self.headers if key == name).decode("latin-1")
        return tuple(part for part in map(str.strip, values.split(",")) if part)

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The websocket subprotocols offered."""
        return self.tokens(b"sec-websocket-protocol")

    @property
    def is_websocket_upgrade(self) -> bool:
        """Whether the client asks for a websocket. `upgrade` checks whether the request is valid."""
        return "websocket" in map(str.lower, self.tokens(b"upgrade"))

    def upgrade(self, subprotocol: str | None) -> Upgrade:
        """Validate the handshake and select `subprotocol` for it. Raises BadHead 400 or 426 if it is invalid."""
        if self.version != "1.1":
            raise BadHead(400, "a websocket upgrade needs HTTP/1.1")
        if self.header(b"transfer-encoding") is not None or (self.header(b"content-length") or b"0") != b"0":
            raise BadHead(400, "a websocket upgrade must not have a body")
        if self.method != "GET" or "upgrade" not in map(str.lower, self.tokens(b"connection")):
            raise BadHead(400, "a websocket upgrade needs the method GET and the header Connection: Upgrade")
        if self.header(b"sec-websocket-version") != b"13":
            raise BadHead(426, "only version 13 of the websocket protocol is supported")
        key = self.header(b"sec-websocket-key") or b""
        try:
            nonce = base64.b64decode(key, validate=True)
        except binascii.Error:
            nonce = b""
        if len(nonce) != 16:
            raise BadHead(400, "Sec-WebSocket-Key must be 16 bytes in base64")
        return Upgrade(key, subprotocol, self.rest)


class HeadReader:
    """Parses one request's head incrementally, up to `max_bytes`.

    Raises BadHead: 400 for bytes that are not HTTP/1.1, 431 for a head that is too large.
    """

    def __init__(self, max_bytes: int = _MAX_HEAD_BYTES) -> None:
        self._max_bytes = max_bytes
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=max_bytes)
        self._chunks: list[bytes] = []

    @property
    def begun(self) -> bool:
        """Whether the first bytes of the head have arrived."""
        return bool(self._chunks)

    def feed(self, data: bytes) -> RequestHead | None:
        """Parse the next bytes, and return the head once it is complete. Empty lines before it are ignored."""
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
    """Read one request's head, of which `reader` may have parsed a part. Returns None if the peer sends nothing at all.

    Raises BadHead; 408 if the head is not complete within `seconds`. BrokenResourceError passes through.
    """
    reader = reader or HeadReader()
    with trio.move_on_after(seconds):
        while True:
            data = await receive()
            if not data:
                if reader.begun:
                    raise BadHead(400, "the request's head is incomplete")
                return None
            head = reader.feed(data)
            if head is not None:
                return head
    raise BadHead(408, "the request's head did not arrive in time")


def _head(request: h11.Request, raw: bytes, rest: bytes, max_bytes: int) -> RequestHead:
    if len(raw) - len(rest) > max_bytes:
        raise BadHead(431, _TOO_LARGE)
    target = request.target.decode("ascii")
    path, _, query = target.partition("?")
    headers = tuple((bytes(name), bytes(value)) for name, value in request.headers)
    version, method = request.http_version.decode("ascii"), request.method.decode("ascii")
    return RequestHead(version, method, target, path, query, headers, raw, rest)
