"""Reads websocket frames: bytes in, whole messages out (RFC 6455, section 5).

A complete, unfragmented text frame is read here, because that has to be fast. wsproto judges every other frame.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from actorchat.protocol import CloseCode

__all__ = ["FrameReader", "Progress", "Sink"]

_TEXT_FINAL: Final = 0x81
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_SHORTEST: Final = 6
_NO_BYTES: Final = bytearray()


class Sink(Protocol):
    """Handles messages and control frames. No method blocks or raises."""

    def received(self, payload: bytes) -> bool:
        """Handle one whole text message, which may not be UTF-8. Returns False to stop reading for now."""

    def received_binary(self) -> bool:
        """Handle one whole binary message. Returns False to stop reading for now."""

    def answer_ping(self, frame: bytes) -> None:
        """Send the pong `frame`. A later one may replace it."""

    def answer_close(self, frame: bytes) -> None:
        """Answer the peer's Close with the Close `frame`."""

    def refuse(self, code: int, reason: str) -> None:
        """Close with `code`, because the peer broke the protocol."""


class Progress(Enum):
    """Why reading stopped."""

    WAITS = "the next frame is not whole yet"
    BOUND = "as many frames were taken as were asked for; more may be there"
    PAUSED = "the sink takes no more for now; more may be there"
    OVER = "a Close or a breach of the protocol came: nothing after it counts"


class FrameReader:
    """Reads the frames of one connection. Keeps one incomplete frame: its header and at most `limit` bytes.

    A message over `limit` bytes is refused with 1009 as soon as its headers say so.
    """

    __slots__ = ("_limit", "_message", "_need", "_sink", "_size", "_unread", "_wsproto", "peer_closed", "progress")

    def __init__(self, sink: Sink, limit: int) -> None:
        self.progress: Progress = Progress.WAITS
        self.peer_closed: bool = False
        self._sink = sink
        self._limit = limit
        # Unread bytes, which begin with a frame. Reading continues once there are `_need` of them.
        self._unread: bytearray | None = None
        self._need = 0
        # The state, the text so far and the size so far of a fragmented message.
        self._wsproto: Connection | None = None
        self._message: bytearray | None = None
        self._size = 0

    def feed(self, data: bytearray, count: int, *, frames: int, messages: bool = True) -> Progress:
        """Add the first `count` bytes of `data`, which is only read, and read at most `frames` frames.

        Without `messages` only control frames are read; at the first frame of a message the result is PAUSED.
        """
        end, unread = count, self._unread
        if unread is not None:
            unread += memoryview(data)[:count]
            data, end = unread, len(unread)
            if end < self._need:
                return self.progress
        start = 0
        received = self._sink.received
        from_bytes = int.from_bytes
        plain = messages and self._wsproto is None
        progress = Progress.WAITS
        self._need = 0
        while start < end:
            if not frames:
                progress = Progress.BOUND
                break
            frames -= 1
            body = start + _SHORTEST
            if plain and body <= end and data[start] == _TEXT_FINAL:
                length = data[start + 1] - _MASKED
                if length == 126:
                    body += 2
                    length = (data[start + 2] << 8) | data[start + 3]
                    # A length in a longer form than necessary is left to wsproto, which refuses it.
                    stop = body + length if length > 125 else end + 1
                else:
                    stop = body + length if 0 <= length < 126 else end + 1
                if stop <= end:
                    mask = data[body - 4 : body] * ((length + 3) >> 2)
                    unmasked = from_bytes(data[body:stop], "little") ^ from_bytes(mask[:length], "little")
                    start = stop
                    if received(unmasked.to_bytes(length, "little")):
                        continue
                    progress = Progress.PAUSED
                    break
            taken = self._other(data, start, end, messages)
            start += taken
            progress = self.progress
            if not taken or progress is not Progress.WAITS:
                break
            plain = messages and self._wsproto is None
        self.progress = progress
        if progress is Progress.OVER or start == end:
            self._unread = None
        elif data is unread:
            del data[:start]
        else:
            self._unread = data[start:end]
        return progress

    def go_on(self, *, frames: int, messages: bool = True) -> Progress:
        """Read at most `frames` of the frames that were left."""
        return self.feed(_NO_BYTES, 0, frames=frames, messages=messages)

    def _other(self, data: bytearray, start: int, end: int, messages: bool) -> int:
        """Read the frame at `start` if it is complete. Returns the number of bytes read."""
        self.progress = Progress.WAITS
        control = bool(data[start] & _CONTROL)
        if not control and not messages:
            self.progress = Progress.PAUSED
            return 0
        header, length = _measured(data, start, end)
        size = length if control else self._size + length
        if size <= self._limit and end - start >= header + length:
            if not control:
                self._size = size
            self._judge(bytes(data[start : start + header + length]))
            return header + length
        known = min(end - start, header)
        if known > 1 and not _is_plain(data[start], data[start + 1], length):
            self._judge_header(bytes(data[start : start + known]))
        if self.progress is Progress.WAITS:
            if known < header:
                self._need = known + 1
            elif size <= self._limit:
                self._need = header + length
            else:
                self._refuse(CloseCode.TOO_BIG, f"a message holds {self._limit} bytes at most")
        return 0

    def _judge_header(self, known: bytes) -> None:
        """Refuse an incomplete frame if the header that is there already breaks the protocol."""
        protocol = Connection(ConnectionType.SERVER)
        protocol.receive_data(known)
        for event in protocol.events():
            if isinstance(event, CloseConnection):
                self._refuse(event.code, event.reason or "")

    def _judge(self, frame: bytes) -> None:
        protocol = self._wsproto or Connection(ConnectionType.SERVER)
        protocol.receive_data(frame)
        for event in protocol.events():
            if isinstance(event, TextMessage | BytesMessage):
                self._part(protocol, event)
            elif isinstance(event, Ping):
                self._sink.answer_ping(protocol.send(event.response()))
            elif isinstance(event, CloseConnection):
                if protocol.state is ConnectionState.REMOTE_CLOSING:
                    self.peer_closed = True
                    self.progress = Progress.OVER
                    self._sink.answer_close(protocol.send(event.response()))
                else:
                    # This is how wsproto reports that the frame breaks the protocol.
                    self._refuse(event.code, event.reason or "")

    def _part(self, protocol: Connection, event: TextMessage | BytesMessage) -> None:
        """Handle one frame of a message, which may be the only one."""
        if isinstance(event, TextMessage):
            if self._message is None:
                self._message = bytearray()
            self._message += event.data.encode()
        if not event.message_finished:
            self._wsproto = protocol
            return
        message, self._message = self._message, None
        self._wsproto = None
        self._size = 0
        more = self._sink.received_binary() if message is None else self._sink.received(bytes(message))
        if not more:
            self.progress = Progress.PAUSED

    def _refuse(self, code: int, reason: str) -> None:
        self._sink.refuse(code, reason)
        self.progress = Progress.OVER


def _measured(data: bytearray, start: int, end: int) -> tuple[int, int]:
    """The sizes of the header and the payload at `start`, as far as the bytes up to `end` show them."""
    if end - start < 2:
        return 2, 0
    second = data[start + 1]
    length = second & _LENGTH
    header = 2 + (4 if second & _MASKED else 0)
    if length < 126:
        return header, length
    width = 2 if length == 126 else 8
    if end - start < 2 + width:
        return header + width, 0
    return header + width, int.from_bytes(data[start + 2 : start + 2 + width])


def _is_plain(first: int, second: int, length: int) -> bool:
    """Whether the header may begin a plain text frame, which is read only when it is complete."""
    if first != _TEXT_FINAL or second < _MASKED:
        return False
    return length > 125 if second == _MASKED | 126 else second < _MASKED | 126
