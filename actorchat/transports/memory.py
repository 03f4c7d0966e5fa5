"""Connects clients to sessions within one process, without a network, for tests and embedding programs.

It uses no file descriptors and only Trio's clock, so it works with a virtual clock. Limits, backpressure, malformed
input and closing behave as on the other transports.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from actorchat.protocol import CloseCode, Command, Event, UnknownType, decode_event, encode_command
from actorchat.transports.heartbeat import beat
from actorchat.transports.ports import Admission, Application, Limits
from actorchat.transports.session import Sessions, SocketSession

__all__ = ["MemoryConnection", "MemoryTransport", "open_memory_transport"]

_BUFFER_BYTES: Final = 65_536
_ABNORMAL: Final = 1006
_OPCODE: Final = 0x0F
_TEXT: Final = 0x01
_CLOSE: Final = 0x08
_PING: Final = 0x09


@attrs.frozen
class _Text:
    payload: bytes | str


@attrs.frozen
class _Binary:
    payload: bytes


@attrs.frozen
class _Close:
    code: int
    reason: str


class _MemoryByteStream:
    """Simulates kernel and network with a bounded buffer for each direction. It is the `Wire` of the outbox."""

    def __init__(self, admission: Admission, limits: Limits, buffer_bytes: int) -> None:
        self.session: SocketSession = SocketSession(admission, self, limits)
        self.session.on_resume = self.pump
        self.scope: trio.CancelScope = trio.CancelScope()
        self.ended: trio.Event = trio.Event()
        self.answers_pings = True
        self.close_code: int | None = None
        self.close_reason: str = ""
        # To the client: complete payloads, and the first bytes of an incomplete frame.
        self.payloads: deque[bytes] = deque()
        self._unread = 0
        self._partial = bytearray()
        self._arrived = trio.Event()
        self._flush: Callable[[], None] | None = None
        # To the server.
        self._inbound: deque[_Text | _Binary | _Close] = deque()
        self._inbound_bytes = 0
        self._inbound_freed = trio.Event()
        self._pumping = False
        self._buffer_bytes = buffer_bytes

    # Methods for the outbox.

    def send(self, data: bytes | memoryview, /) -> int:
        if self.ended.is_set():
            raise BrokenPipeError("the connection has ended")
        # While the client has nothing to read, a frame that is larger than the buffer must still get through.
        free = self._buffer_bytes - (self._unread + len(self._partial) if self.payloads else 0)
        if free <= 0:
            raise BlockingIOError
        self._partial += data[:free]
        self._parse()
        return min(free, len(data))

    def want_write(self, flush: Callable[[], None]) -> None:
        self._flush = flush

    def closing(self, linger: float) -> None:
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + linger)

    # Methods for the session.

    def pump(self) -> None:
        """Deliver input until the session pauses."""
        if self._pumping:
            return
        self._pumping = True
        session = self.session
        while self._inbound and session.receiver is not None and not session.paused:
            item = self._inbound.popleft()
            match item:
                case _Text(payload):
                    self._inbound_bytes -= len(payload)
                    session.received(payload)
                case _Binary(payload):
                    self._inbound_bytes -= len(payload)
                    session.received_binary()
                case _Close(code, reason):
                    session.close(code, reason)
                    if self.close_code is None:
                        self.close_code, self.close_reason = code, reason
                    self.end()
        self._pumping = False
        self._inbound_freed.set()
        self._inbound_freed = trio.Event()

    def end(self) -> None:
        """End both directions. The client can still read what has arrived."""
        if self.close_code is None:
            self.close_code = _ABNORMAL
        self.ended.set()
        self._wake_reader()

    # Methods for the client.

    async def deliver(self, item: _Text | _Binary | _Close) -> None:
        """Queue `item` for the server. Waits while the buffer is full. Raises BrokenResourceError after the end."""
        await trio.lowlevel.checkpoint()
        while self._inbound_bytes >= self._buffer_bytes and not self.ended.is_set():
            await self._inbound_freed.wait()
        if self.ended.is_set():
            raise trio.BrokenResourceError(f"the connection was closed with {self.close_code}")
        if not isinstance(item, _Close):
            self._inbound_bytes += len(item.payload)
            self.session.heard = True
        self._inbound.append(item)
        self.pump()

    async def next_payload(self) -> bytes:
        """Return the next text message. Raises EndOfChannel after the last."""
        await trio.lowlevel.checkpoint()
        while not self.payloads:
            if self._flush is not None:
                self._flush_outbox()
            elif self.close_code is not None:
                raise trio.EndOfChannel
            else:
                await self._arrived.wait()
        payload = self.payloads.popleft()
        self._unread -= len(payload)
        self._flush_outbox()
        return payload

    def _flush_outbox(self) -> None:
        flush, self._flush = self._flush, None
        if flush is not None:
            flush()

    def _parse(self) -> None:
        while (frame := _take_frame(self._partial)) is not None:
            opcode, payload = frame
            if opcode == _TEXT:
                self.payloads.append(payload)
                self._unread += len(payload)
            elif opcode == _PING:
                self.session.heard = self.answers_pings or self.session.heard
            elif opcode == _CLOSE and self.close_code is None:
                self.close_code = int.from_bytes(payload[:2]) if payload else CloseCode.DONE
                self.close_reason = payload[2:].decode()
                self.end()
        self._wake_reader()

    def _wake_reader(self) -> None:
        self._arrived.set()
        self._arrived = trio.Event()


class MemoryConnection(trio.abc.AsyncResource):
    """The client's end of a connection. Iterating yields decoded events until it ends; `close_code` then says why.

    Pings are answered automatically. A client that does not iterate is a slow reader.
    """

    def __init__(self, stream: _MemoryByteStream, linger: float) -> None:
        self._stream = stream
        self._linger = linger

    @property
    def close_code(self) -> int | None:
        """The close code, None while the connection is open; 1006 if it ended without a close frame."""
        return self._stream.close_code

    @property
    def close_reason(self) -> str:
        return self._stream.close_reason

    async def send(self, command: Command) -> None:
        """Send a command. Waits while the server does not read. Raises BrokenResourceError after the end."""
        await self._stream.deliver(_Text(encode_command(command)))

    async def send_text(self, raw: bytes | str) -> None:
        """Send any bytes as one text message, valid or not."""
        await self._stream.deliver(_Text(raw))

    async def send_binary(self, raw: bytes) -> None:
        """Send a binary message, which the protocol does not allow."""
        await self._stream.deliver(_Binary(raw))

    async def receive_payload(self) -> bytes:
        """Return the JSON of the next event. Raises EndOfChannel after the last."""
        return await self._stream.next_payload()

    def __aiter__(self) -> AsyncIterator[Event | UnknownType]:
        return self

    async def __anext__(self) -> Event | UnknownType:
        try:
            return decode_event(await self._stream.next_payload())
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def answer_pings(self, yes: bool) -> None:
        """Whether to answer pings from now on."""
        self._stream.answers_pings = yes

    def abort(self) -> None:
        """End the connection without a close frame."""
        self._stream.session.lost()
        self._stream.end()

    async def wait_ended(self) -> None:
        """Wait until the connection has ended for both sides."""
        await self._stream.ended.wait()

    async def aclose(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """Close after the server has read everything that was sent, or when `Limits.close_linger` has passed."""
        with trio.move_on_after(self._linger):
            try:
                await self._stream.deliver(_Close(code, reason))
                await self._stream.ended.wait()
            except trio.BrokenResourceError:
                return
        self.abort()


class MemoryTransport:
    """Opens connections to `application` without a network."""

    def __init__(self, application: Application, limits: Limits, nursery: trio.Nursery) -> None:
        self.sessions: Sessions = Sessions()
        self._application = application
        self._limits = limits
        self._nursery = nursery

    def connect(self, admission: Admission, *, buffer_bytes: int = _BUFFER_BYTES) -> MemoryConnection:
        """Open a connection. `buffer_bytes` is the size of the buffer for each direction."""
        stream = _MemoryByteStream(admission, self._limits, buffer_bytes)
        self.sessions.expect(stream.session)
        self.sessions.add(stream.session)
        self._nursery.start_soon(self._serve, stream, admission)
        return MemoryConnection(stream, self._limits.close_linger)

    async def drain(self, code: int = CloseCode.DRAINING, reason: str = "draining") -> None:
        """Close all connections with `code`, also those opened later, and return when the last has ended."""
        await self.sessions.drain(code, reason)

    async def _serve(self, stream: _MemoryByteStream, admission: Admission) -> None:
        session = stream.session
        try:
            with stream.scope:
                try:
                    session.held = True
                    joined = self._application.join(session, admission)
                    session.attach(await joined if isinstance(joined, Awaitable) else joined)
                    stream.pump()
                except Exception as error:
                    session.fail(error)
                await stream.ended.wait()
        finally:
            session.leave()
            self.sessions.discard(session)
            session.lost()
            stream.end()


@asynccontextmanager
async def open_memory_transport(
    application: Application, *, limits: Limits | None = None, wall: Callable[[], float] = time.time
) -> AsyncIterator[MemoryTransport]:
    """Run a transport with its heartbeat. Leaving the block ends open connections without a close frame: drain first.

    `wall` returns epoch seconds, for the expiry of sessions.
    """
    limits = limits or Limits()
    async with trio.open_nursery() as nursery:
        transport = MemoryTransport(application, limits, nursery)
        nursery.start_soon(beat, transport.sessions, limits, wall)
        try:
            yield transport
        finally:
            nursery.cancel_scope.cancel()


def _take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Remove the first complete frame from `buffer`, and return its opcode and payload; None if there is none."""
    if len(buffer) < 2:
        return None
    length, start = buffer[1], 2
    if length == 126:
        length, start = int.from_bytes(buffer[2:4]), 4
    elif length == 127:
        length, start = int.from_bytes(buffer[2:10]), 10
    if len(buffer) < start + length:
        return None
    opcode = buffer[0] & _OPCODE
    payload = bytes(buffer[start : start + length])
    del buffer[: start + length]
    return opcode, payload
