"""Reads and writes the text protocol of NATS clients, without doing any IO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import attrs
import msgspec

__all__ = ["PING", "PONG", "Delivery", "NatsParser", "Pinged", "Ponged", "Problem", "ServerInfo", "connect", "publish"]

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"

_VERSION: Final = b"NATS/1.0"
_MOST_LINE: Final = 65_536
_MOST_MESSAGE: Final = 67_108_864
"""Bytes. A server can be set up for messages of 64 MiB at most."""


@attrs.frozen
class ServerInfo:
    """The server's `INFO`: sent when a connection opens, and again when it changes."""

    max_payload: int
    auth_required: bool
    tls_required: bool
    tls_available: bool
    has_headers: bool
    nonce: str


@attrs.frozen
class Delivery:
    """A message for the subscription `sid`. `status` is the code of a message without content, such as 503, else 0."""

    subject: str
    sid: str
    headers: Mapping[str, str]
    status: int
    body: bytes


@attrs.frozen
class Pinged:
    """The server asks for a `PONG`."""


@attrs.frozen
class Ponged:
    """The server answers a `PING`: it has read everything before it."""


@attrs.frozen
class Problem:
    """The server reports an error. After most of them it closes the connection."""

    text: str


Received: TypeAlias = ServerInfo | Delivery | Pinged | Ponged | Problem


class NatsParser:
    """Parses the bytes that a server sends."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer += data

    def __iter__(self) -> Iterator[Received]:
        """Yield every complete item. Raises ValueError if the bytes are not the protocol of NATS."""
        return self

    def __next__(self) -> Received:
        buffer = self._buffer
        while True:
            end = buffer.find(b"\r\n")
            if end < 0:
                if len(buffer) > _MOST_LINE:
                    raise ValueError("a line is too long")
                raise StopIteration
            operation, _, rest = bytes(buffer[:end]).partition(b" ")
            operation = operation.upper()
            if operation in (b"MSG", b"HMSG"):
                delivery = self._delivery(operation == b"HMSG", rest.split(), end + 2)
                if delivery is None:
                    raise StopIteration
                return delivery
            received = _control(operation, rest.strip())
            del buffer[: end + 2]
            if received is not None:
                return received

    def _delivery(self, with_headers: bool, arguments: list[bytes], start: int) -> Delivery | None:
        """The message whose content begins at `start`, None if a part of it is missing."""
        counts = 2 if with_headers else 1
        if len(arguments) not in (2 + counts, 3 + counts):
            raise ValueError("a message has another number of arguments")
        sizes = [int(each) for each in arguments[-counts:]]
        size, head = sizes[-1], sizes[0] if with_headers else 0
        if not 0 <= head <= size <= _MOST_MESSAGE:
            raise ValueError("a message has an impossible size")
        buffer = self._buffer
        if len(buffer) < start + size + 2:
            return None
        content = bytes(buffer[start : start + size])
        if buffer[start + size : start + size + 2] != b"\r\n":
            raise ValueError("a message is longer than it says")
        del buffer[: start + size + 2]
        status, headers = _headers(content[:head]) if head else (0, {})
        # Other programs may publish any bytes, so they must not end the connection.
        subject = arguments[0].decode(errors="replace")
        return Delivery(subject, arguments[1].decode(), headers, status, content[head:])


def _control(operation: bytes, rest: bytes) -> Received | None:
    """Parse a line without content. None if the line can be ignored."""
    match operation:
        case b"INFO":
            # Any: JSON of any shape.
            info: dict[str, Any] = msgspec.json.decode(rest, type=dict[str, Any])
            return ServerInfo(
                max_payload=int(info.get("max_payload") or 1_048_576),
                auth_required=bool(info.get("auth_required")),
                tls_required=bool(info.get("tls_required")),
                tls_available=bool(info.get("tls_available")),
                has_headers=bool(info.get("headers")),
                nonce=str(info.get("nonce") or ""),
            )
        case b"PING":
            return Pinged()
        case b"PONG":
            return Ponged()
        case b"-ERR":
            return Problem(rest.decode(errors="replace").strip("'"))
        case b"+OK":
            return None
        case _:
            raise ValueError("a line begins with no operation of the protocol")


def _headers(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.split(b"\r\n")
    if not first.startswith(_VERSION):
        raise ValueError("a message has headers of another version")
    status = first[len(_VERSION) :].split()
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode(errors="replace")] = value.strip().decode(errors="replace")
    return int(status[0]) if status and status[0].isdigit() else 0, headers


def connect(options: Mapping[str, object]) -> bytes:
    """The `CONNECT` line, with which a client begins."""
    return b"CONNECT " + msgspec.json.encode(options) + b"\r\n"


def publish(subject: str, reply: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A message that is to be answered at `reply`. No name or value may have a line break."""
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(body), body)
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    head = b"%b\r\n%b\r\n" % (_VERSION, lines.encode())
    sizes = (len(head), len(head) + len(body))
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), *sizes, head, body)
