"""Sends frames to one peer in order and with a bound, and drops what does not fit.

It uses no sockets, tasks or clocks: a `Wire` takes the bytes and says when it can take more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from itertools import islice
from typing import Final, Protocol

import trio

from actorchat.protocol import CloseCode, Frames, close_frame
from actorchat.transports.ports import Limits

__all__ = ["Outbox", "Wire"]

# Small buffers are joined up to this size: one system call instead of many, and no large copies.
_JOIN_BYTES: Final = 65_536
_NO_CODE: Final = 1005
"""Stands for a Close without a code."""


class Wire(Protocol):
    """The connection that an outbox sends its bytes to."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Take the first bytes of `data` and say how many.

        Raises BlockingIOError for none now, any other OSError for never again.
        """

    def want_write(self, flush: Callable[[], None]) -> None:
        """Call `flush` once, when more can be taken; asking again before that changes nothing."""

    def closing(self, linger: float) -> None:
        """End within `linger` seconds: only what is queued will still be sent."""


class _Kind(IntEnum):
    EVENT = 0
    TYPING = 1
    PONG = 2
    CLOSE = 3


class _Entry:
    __slots__ = ("data", "ends", "kind")

    def __init__(self, data: bytes, ends: tuple[int, ...], kind: _Kind) -> None:
        self.data = data
        self.ends = ends
        self.kind = kind


class _Queue:
    """The entries that the wire did not take yet, in order. `sent` bytes of the first one were sent already."""

    __slots__ = ("bytes", "entries", "frames", "moved", "moved_at", "sent", "unbounded")

    def __init__(self) -> None:
        # Whether the wire has taken something since the last call of `Outbox.stuck_for`, and the time of that call.
        self.moved = True
        self.moved_at = 0.0
        self.entries: deque[_Entry] = deque()
        self.bytes = 0
        self.frames = 0
        self.sent = 0
        self.unbounded = False

    def append(self, entry: _Entry, sent: int = 0) -> None:
        """Add `entry` at the end. `sent` of its bytes were sent already; that is 0 unless the queue is empty."""
        self.entries.append(entry)
        self.bytes += len(entry.data) - sent
        self.frames += len(entry.ends)
        if sent:
            self.sent = sent

    def replace_pong(self, data: bytes) -> bool:
        """Replace a waiting pong by a newer one. Returns False if no pong waits."""
        for place, entry in enumerate(self.entries):
            if entry.kind is _Kind.PONG and not (place == 0 and self.sent):
                self.bytes += len(data) - len(entry.data)
                entry.data = data
                entry.ends = (len(data),)
                return True
        return False

    def drop(self, *, only_typing: bool) -> None:
        """Drop what waits, except the rest of a half-sent frame: without it the peer could not read on."""
        kept: deque[_Entry] = deque()
        for place, entry in enumerate(self.entries):
            if only_typing and entry.kind is not _Kind.TYPING:
                kept.append(entry)
            elif place == 0 and self.sent:
                end = next(end for end in entry.ends if end >= self.sent)
                if end > self.sent:
                    kept.append(_Entry(entry.data[:end], entry.ends[: entry.ends.index(end) + 1], entry.kind))
                else:
                    self.sent = 0
        self.entries = kept
        self.bytes = sum(len(entry.data) for entry in kept) - self.sent
        self.frames = sum(len(entry.ends) for entry in kept)

    def head(self) -> bytes | memoryview:
        """The bytes to send next: the rest of the first entry, or several small entries joined."""
        entries = self.entries
        first = memoryview(entries[0].data)[self.sent :] if self.sent else entries[0].data
        size = len(first)
        if len(entries) == 1 or size >= _JOIN_BYTES:
            return first
        parts = [first]
        for entry in islice(entries, 1, None):
            parts.append(entry.data)
            size += len(entry.data)
            if size >= _JOIN_BYTES:
                break
        return b"".join(parts)

    def took(self, count: int) -> None:
        """Remove `count` sent bytes from the front."""
        self.moved = True
        self.bytes -= count
        count += self.sent
        entries = self.entries
        while entries and count >= len(entries[0].data):
            gone = entries.popleft()
            count -= len(gone.data)
            self.frames -= len(gone.ends)
        self.sent = count


class Outbox:
    """Sends whole frames in the order of the calls, and nothing after a Close. No method blocks or raises.

    While nothing waits, a push is one `wire.send` of bytes that all recipients share. What the wire does not take
    waits here. Over the bound, waiting typing is dropped first. If that is not enough, everything is dropped and the
    peer is closed with 1013. Only the Close itself, and a single push onto an empty outbox, may exceed the bound.

    `closed`: a Close was accepted or the peer is gone, so nothing more is accepted. `close_code`: the code of that
    Close. `gave_up`: the peer was too slow.
    """

    __slots__ = ("_drained", "_limits", "_queue", "_send", "_wire", "close_code", "closed", "gave_up")

    def __init__(self, wire: Wire, limits: Limits) -> None:
        self._wire = wire
        self._send = wire.send
        self._limits = limits
        self.closed: bool = False
        self.close_code: int | None = None
        self.gave_up: bool = False
        self._queue: _Queue | None = None
        self._drained: trio.Event | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait for the wire."""
        queue = self._queue
        return 0 if queue is None else queue.bytes

    def stuck_for(self, now: float) -> float | None:
        """Seconds for which the wire has taken nothing, None if nothing waits.

        `now` is in seconds from any moment. Only one caller may use this; the result is exact to the time between two
        calls.
        """
        queue = self._queue
        if queue is None or self.closed or not queue.entries:
            return None
        if queue.moved:
            queue.moved = False
            queue.moved_at = now
        return now - queue.moved_at

    async def wait_drained(self) -> bool:
        """Return True when the backlog is at most `outbox_low`, False when the outbox is closed."""
        while self.buffered_bytes > self._limits.outbox_low and not self.closed:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()
        await trio.lowlevel.checkpoint()
        return not self.closed

    async def wait_flushed(self) -> None:
        """Return when the wire has taken everything, or the peer is gone."""
        while self.buffered_bytes:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()
        await trio.lowlevel.checkpoint()

    def hold(self, *, unbounded: bool = False) -> None:
        """Keep pushed frames until `flush`, so that they are sent in one call. Does nothing if something waits already.

        With `unbounded`, the bound applies only after the flush.
        """
        if self._queue is None:
            self._queue = _Queue()
            self._queue.unbounded = unbounded

    def push(self, frames: Frames) -> None:
        """Send whole frames after everything pushed before."""
        sent = 0
        if self._queue is None:
            data = frames.data
            try:
                sent = self._send(data)
            except BlockingIOError:
                pass
            except OSError:
                self.lost()
                return
            if sent == len(data):
                return
        self._add(_Entry(frames.data, frames.ends, _Kind.TYPING if frames.typing else _Kind.EVENT), sent)

    def pong(self, frame: bytes) -> None:
        """Send a pong. It replaces one that still waits, so many pings need the memory of one pong."""
        queue = self._queue
        if queue is None:
            self.push(Frames(frame, (len(frame),)))
        elif not self.closed and not queue.replace_pong(frame):
            self._add(_Entry(frame, (len(frame),), _Kind.PONG), 0)

    def close(self, code: int, reason: str = "") -> None:
        """Send what was pushed, then a Close. Everything after that is dropped, including a second Close."""
        self.close_with(close_frame(code, reason))

    def close_with(self, frame: bytes) -> None:
        """Like `close`, with the Close frame `frame`."""
        if not self.closed:
            self._finish(frame, self._limits.close_linger)

    def give_up(self) -> None:
        """Drop what waits for a slow peer, except the rest of a half-sent frame, and close with 1013."""
        self.gave_up = True
        queue = self._queue
        if queue is not None:
            queue.drop(only_typing=False)
        self._finish(close_frame(CloseCode.OVERLOADED, "too slow"), self._limits.overflow_linger)

    def lost(self) -> None:
        """Drop what waits and accept nothing more, because the peer is gone."""
        if self.closed and self._queue is not None and not self._queue.entries:
            return
        self._queue = _Queue()
        self.closed = True
        self._wake()
        self._wire.closing(self._limits.overflow_linger)

    def flush(self) -> None:
        """Send as much as the wire takes. Called by the wire when it can take more, and by the caller of `hold`."""
        queue = self._queue
        if queue is None:
            return
        queue.unbounded = False
        while queue.entries:
            try:
                sent = self._send(queue.head())
            except BlockingIOError:
                self._wire.want_write(self.flush)
                break
            except OSError:
                self.lost()
                return
            queue.took(sent)
        if queue.bytes <= self._limits.outbox_low:
            self._wake()
        if not queue.entries and not self.closed:
            self._queue = None

    def _add(self, entry: _Entry, sent: int) -> None:
        queue = self._queue
        if queue is None:
            queue = self._queue = _Queue()
            self._wire.want_write(self.flush)
        elif self.closed:
            return
        fits = self._fits(queue, entry, sent)
        if not fits:
            queue.drop(only_typing=True)
            fits = self._fits(queue, entry, sent)
        if fits:
            queue.append(entry, sent)
            return
        if entry.kind is _Kind.TYPING:
            return
        self.give_up()

    def _fits(self, queue: _Queue, entry: _Entry, sent: int) -> bool:
        # A single push onto an empty outbox always fits: a peer that reads fast enough must not be closed because of
        # one large broadcast, and the recipients share its bytes.
        limits = self._limits
        if queue.unbounded or not queue.entries:
            return True
        return (
            queue.bytes + len(entry.data) - sent <= limits.outbox_bytes
            and queue.frames + len(entry.ends) <= limits.outbox_frames
        )

    def _finish(self, frame: bytes, linger: float) -> None:
        queue = self._queue
        if queue is None:
            queue = self._queue = _Queue()
        waiting = bool(queue.entries)
        queue.append(_Entry(frame, (len(frame),), _Kind.CLOSE))
        self.close_code = int.from_bytes(frame[2:4], "big") or _NO_CODE
        self.closed = True
        self._wake()
        self._wire.closing(linger)
        if not waiting:
            self.flush()

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None
