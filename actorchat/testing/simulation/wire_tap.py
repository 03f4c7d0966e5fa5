"""Parses both directions of every connection as the server reads and writes it, and passes the frames to a watch."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qs, urlsplit

import attrs
import msgspec

from actorchat.testing.simulation.feed_watch import FeedWatch
from actorchat.testing.simulation.model import Person
from actorchat.testing.simulation.network import Connection
from actorchat.testing.simulation.room_watch import RoomWatch
from actorchat.testing.simulation.socket_watch import Watch, Watcher
from actorchat.testing.simulation.tokens import claims_of
from actorchat.testing.simulation.wrong_frames import Fault

__all__ = ["Opening", "SocketTap"]

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8

_MOST: Final = 65_536

_decode: Final = msgspec.json.decode


@attrs.frozen
class Opening:
    """The path, profile and user of a websocket request."""

    who: Person
    extended: bool
    path: str
    query: dict[str, list[str]]
    sources: frozenset[str]
    issued: float

    @classmethod
    def parse(cls, head: str) -> Opening:
        lines = head.split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        target = urlsplit(lines[0].split(" ")[1])
        offered = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
        bearer = [name.removeprefix("bearer.") for name in offered if name.startswith("bearer.")]
        token = bearer[0] if bearer else headers["authorization"].removeprefix("Bearer ")
        claims = claims_of(token)
        return cls(
            who=(claims["role"], int(claims["sub"])),
            extended="actorchat.v1.ext" in offered,
            path=target.path,
            query=parse_qs(target.query),
            sources=frozenset(claims.get("src") or ()),
            issued=claims["iat"],
        )


class SocketTap:
    """The tap of one connection. Each frame goes to the connection's watch as soon as it is complete."""

    def __init__(self, watcher: Watcher, connection: Connection) -> None:
        self.connection = connection
        self.watch: Watch | None = None
        self.upgraded: bool = False
        self._watcher = watcher
        self._up, self._down = bytearray(), bytearray()
        self._is_http = False

    def accepted(self) -> None:
        self._watcher.log("accept", self.connection.number)

    def server_read(self, data: bytes) -> None:
        if self._is_http:
            return
        self._up += data
        if self.watch is None:
            head = _cut_head(self._up)
            if head is None:
                return
            if "upgrade: websocket" not in head.lower():
                self._is_http = True
                return
            opening = Opening.parse(head)
            self.watch = self._make_watch(opening)
            self.watch.issued = opening.issued
        for opcode, payload in _frames(self._up):
            if opcode == CLOSE:
                self.watch.over = True
            elif opcode in (TEXT, BINARY):
                self.watch.frame_read(payload, binary=opcode == BINARY)
        # The server may close the socket before it has read such a frame to its end.
        fault = _fault_of_part(self._up)
        if fault is not None:
            self.watch.faulty_part_read(fault)

    def server_wrote(self, data: bytes) -> None:
        watch = self.watch
        if self._is_http or watch is None:
            return
        self._down += data
        number = self.connection.number
        if not self.upgraded:
            head = _cut_head(self._down)
            if head is None:
                return
            if not head.startswith("HTTP/1.1 101"):
                self._is_http = True
                self._watcher.log("refused", number, head[:12])
                return
            self.upgraded = True
            self._watcher.watches.append(watch)
            watch.opened()
        for opcode, payload in _frames(self._down):
            if opcode == TEXT:
                self._watcher.log("told", number, payload.decode())
                if watch.code is not None:
                    watch.bad("after-close", "an event after the Close")
                watch.event_written(_decode(payload))
            elif opcode == CLOSE:
                watch.code = int.from_bytes(payload[:2]) if payload else 1005
                watch.over = True
                self._watcher.log("closes", number, watch.code)
                watch.closed(watch.code)

    def server_closed(self) -> None:
        self._watcher.log("ended", self.connection.number)
        if self.watch is not None:
            self.watch.over = True

    def _make_watch(self, opening: Opening) -> Watch:
        watcher, connection = self._watcher, self.connection
        chat = opening.path.removeprefix("/ws/chats/")
        if chat != opening.path:
            after = int(opening.query["after"][0]) if "after" in opening.query and opening.extended else None
            return RoomWatch(watcher, connection, opening.who, chat, extended=opening.extended, after=after)
        sources = frozenset(opening.query.get("source", opening.sources))
        return FeedWatch(watcher, connection, opening.who, sources, extended=opening.extended)


def _cut_head(buffer: bytearray) -> str | None:
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end].decode("latin-1")
    del buffer[: end + 4]
    return head


def _frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Remove every complete frame from the start of `buffer`, and yield it as (opcode, payload)."""
    while (head := _head(buffer)) is not None:
        opcode, begin, length = head
        if len(buffer) < begin + length:
            return
        payload = _payload(buffer, begin, length)
        del buffer[: begin + length]
        yield opcode, payload


def _head(buffer: bytearray) -> tuple[int, int, int] | None:
    """Return the opcode of the first frame in `buffer`, the offset of its payload and the payload's length."""
    if len(buffer) < 2:
        return None
    length, start = buffer[1] & 0x7F, 2
    if length >= 126:
        start = 4 if length == 126 else 10
        length = int.from_bytes(buffer[2:start])
    begin = start + (4 if buffer[1] & 0x80 else 0)
    return None if len(buffer) < begin else (buffer[0] & 0x0F, begin, length)


def _payload(buffer: bytearray, begin: int, length: int) -> bytes:
    payload = bytes(buffer[begin : begin + length])
    return _unmask(payload, bytes(buffer[begin - 4 : begin])) if buffer[1] & 0x80 else payload


def _fault_of_part(buffer: bytearray) -> Fault | None:
    """Return the fault of the incomplete frame in `buffer`, if it already has one."""
    head = _head(buffer)
    if head is None:
        return None
    opcode, begin, length = head
    if length > _MOST:
        return Fault.TOO_BIG
    if opcode == TEXT:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(_payload(buffer, begin, length))
        except UnicodeDecodeError:
            return Fault.NOT_UTF8
    return None


def _unmask(payload: bytes, mask: bytes) -> bytes:
    if not payload:
        return payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload))
