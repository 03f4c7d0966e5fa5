"""Owns the bytes on their way to one peer: order, bound, what is dropped, and that a Close is the last.

Refuses to know sockets, tasks and clocks: a `Wire` takes what it can and says when it can take more.
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


class Wire(Protocol):
    """Where an outbox's bytes leave."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Take the first bytes of `data` and say how many.

        Raises BlockingIOError for none now, any other OSError for never again.
        """

    def want_write(self, flush: Callable[[], None]) -> None:
        """Call `flush` once, when more can be taken; asking again before that changes nothing."""

    def closing(self, linger: float) -> None:
        """Nothing but what is queued will be sent: end within `linger` seconds."""


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
    """What the wire refused, in order. Only the first entry can be half sent: `sent` bytes of it are gone."""

    __slots__ = ("bytes", "closed", "entries", "frames", "moved", "moved_at", "sent", "unbounded")

    def __init__(self) -> None:
        # Whether the wire has taken something since `Outbox.stuck_for` was last asked, and when that was.
        self.moved = True
        self.moved_at = 0.0
        self.entries: deque[_Entry] = deque()
        self.bytes = 0
        self.frames = 0
        self.sent = 0
        self.closed = False
        self.unbounded = False

    def append(self, entry: _Entry, sent: int = 0) -> None:
        """Add at the end; `sent` of its bytes have left already, which only the first entry can say."""
        self.entries.append(entry)
        self.bytes += len(entry.data) - sent
        self.frames += len(entry.ends)
        if sent:
            self.sent = sent

    def replace_pong(self, data: bytes) -> bool:
        """Put the latest pong in the place of one that waits; False if none does."""
        for place, entry in enumerate(self.entries):
            if entry.kind is _Kind.PONG and not (place == 0 and self.sent):
                self.bytes += len(data) - len(entry.data)
                entry.data = data
                entry.ends = (len(data),)
                return True
        return False

    def drop(self, *, only_typing: bool) -> None:
        """Drop what waits, but the tail of a half-sent frame: the peer could not read on without it."""
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
        """What to send next: the rest of the first entry, or several small ones joined."""
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
        """Forget `count` bytes from the front."""
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
    """The way out of one session: whole frames, in the order of the calls, nothing after a Close.

    With nothing waiting, a push is one `wire.send` of the shared bytes. What the wire refuses waits here.
    Over the bound, typing is dropped first; if that is not enough everything is, and the peer is closed
    with 1013. The bound is kept but for the Close itself and for a single push onto an empty outbox.
    No method blocks or raises.
    """

    __slots__ = ("_drained", "_limits", "_queue", "_send", "_wire")

    def __init__(self, wire: Wire, limits: Limits) -> None:
        self._wire = wire
        self._send = wire.send
        self._limits = limits
        self._queue: _Queue | None = None
        self._drained: trio.Event | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait for the wire."""
        queue = self._queue
        return 0 if queue is None else queue.bytes

    @property
    def closed(self) -> bool:
        """A Close was accepted or the peer is gone: nothing more is."""
        queue = self._queue
        return queue is not None and queue.closed

    def stuck_for(self, now: float) -> float | None:
        """Seconds for which the wire has taken nothing of what waits; None if nothing does.

        It is as exact as it is asked often, by one caller whose `now` counts seconds from any moment.
        """
        queue = self._queue
        if queue is None or queue.closed or not queue.entries:
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
        """Keep what is pushed until `flush`: all leaves as one. It has to fit the bound, unless that is to begin then.

        Does nothing while something waits already.
        """
        if self._queue is None:
            self._queue = _Queue()
            self._queue.unbounded = unbounded

    def push(self, frames: Frames) -> None:
        """Send whole frames after all that was pushed before."""
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
        """Send a pong; one that still waits is replaced, so that a flood of pings costs one frame."""
        queue = self._queue
        if queue is None:
            self.push(Frames(frame, (len(frame),)))
        elif not queue.closed and not queue.replace_pong(frame):
            self._add(_Entry(frame, (len(frame),), _Kind.PONG), 0)

    def close(self, code: int, reason: str = "") -> None:
        """Send what was pushed, then a Close; all that comes later is dropped, also a second Close."""
        self.close_with(close_frame(code, reason))

    def close_with(self, frame: bytes) -> None:
        """Like `close`, with a Close that was framed elsewhere."""
        if not self.closed:
            self._finish(frame, self._limits.close_linger)

    def give_up(self) -> None:
        """The peer is too slow: drop what waits, but for the rest of a half-sent frame, and close with 1013."""
        queue = self._queue
        if queue is not None:
            queue.drop(only_typing=False)
        self._finish(close_frame(CloseCode.OVERLOADED, "too slow"), self._limits.overflow_linger)

    def lost(self) -> None:
        """The peer is gone: forget what waits, accept nothing more."""
        if self._queue is not None and self._queue.closed and not self._queue.entries:
            return
        self._queue = _Queue()
        self._queue.closed = True
        self._wake()
        self._wire.closing(self._limits.overflow_linger)

    def flush(self) -> None:
        """Give the wire as much as it takes. The wire calls this when it can take more, whoever held something once."""
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
        if not queue.entries and not queue.closed:
            self._queue = None

    def _add(self, entry: _Entry, sent: int) -> None:
        queue = self._queue
        if queue is None:
            queue = self._queue = _Queue()
            self._wire.want_write(self.flush)
        elif queue.closed:
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
        # One push onto an empty outbox passes whole: a reader that keeps up is not to blame for a large announcement,
        # and its bytes are shared with all who get it.
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
        queue.closed = True
        self._wake()
        self._wire.closing(linger)
        if not waiting:
            self.flush()

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None
