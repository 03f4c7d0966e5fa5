"""Serves one websocket in the reactor, without a task of its own: its turns, its closing handshake and its end."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Final

import trio

from actorchat.protocol import Frames
from actorchat.transports.ports import Admission, Application, Limits, Receiver
from actorchat.transports.reactor.frames import FrameReader, Progress
from actorchat.transports.reactor.loop import READ, WRITE, Reactor
from actorchat.transports.session import SocketSession

__all__ = ["Connection"]

_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class Connection:
    """A handle of the reactor and the wire of its session's outbox.

    It owns the non-blocking socket `sock` from now on, and calls `on_end` once, when that is closed.
    """

    __slots__ = (
        "_flush",
        "_joining",
        "_on_end",
        "_reactor",
        "_reader",
        "_socket",
        "_was_refused",
        "deadline",
        "ended",
        "interest",
        "ready",
        "send",
        "session",
    )

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        admission: Admission,
        limits: Limits,
        on_end: Callable[[SocketSession], None],
    ) -> None:
        self.send: Callable[[bytes | memoryview], int] = sock.send
        self.session: SocketSession = SocketSession(admission, self, limits, reactor.operations)
        self.interest: int = 0
        self.ready: int = 0
        self.deadline: float = inf
        self.ended: bool = False
        self._socket = sock
        self._reactor = reactor
        self._reader = FrameReader(self.session, limits.frame_bytes)
        self._on_end = on_end
        # A command was refused once. From then on the turns are small, and the answers of one turn are sent together.
        self._was_refused = False
        self._flush: Callable[[], None] | None = None
        self._joining: trio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<Connection of {self.session!r}>"

    def open(self, handshake: bytes, received: bytes) -> None:
        """Queue the handshake, which `enter` sends together with the first events, and start to read.

        `received` are bytes that the peer sent after its half of the handshake.
        """
        self._reactor.add(self)
        outbox = self.session.outbox
        # Unbounded, because the first events name every user in the room.
        outbox.hold(unbounded=True)
        outbox.push(Frames(handshake, (len(handshake),)))
        self._reactor.watch(self, self.interest | READ)
        if received:
            self._reader.feed(bytearray(received), len(received), frames=0)
            self._reactor.queue(self)

    def enter(self, application: Application, admission: Admission) -> Awaitable[None] | None:
        """Join the room or feed. The result is to be awaited, unless it is None: then joining has succeeded or failed.

        If the awaitable is cancelled, the socket ends. If the socket ends meanwhile, joining is given up.
        """
        session, joined = self.session, None
        try:
            joined = application.join(session, admission)
            if not isinstance(joined, Awaitable):
                session.attach(joined)
        except Exception as error:
            session.fail(error)
        session.outbox.flush()
        if isinstance(joined, Awaitable):
            return self._join(joined)
        if self._is_over():
            session.leave()
        self._resume()
        return None

    async def _join(self, joining: Awaitable[Receiver]) -> None:
        session = self.session
        try:
            with trio.CancelScope() as self._joining:
                if self._is_over():
                    self._joining.cancel()
                session.attach(await joining)
                if self._is_over():
                    session.leave()
        except Exception as error:
            session.fail(error)
        except BaseException:
            self.expired()
            raise
        finally:
            self._joining = None
        self._resume()

    # `Wire`: the way out.

    def want_write(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._reactor.watch(self, self.interest | WRITE)

    def closing(self, linger: float) -> None:
        """End within `linger` seconds, and read the peer's Close until then, even if reading was paused."""
        self._reactor.expire_at(self, trio.current_time() + linger)
        self._resume()

    # `Handle`: the turns in the reactor.

    def fileno(self) -> int:
        return self._socket.fileno()

    def turn(self, ready: int) -> tuple[int, bool]:
        if ready & WRITE:
            self._write()
        session, reader, reactor = self.session, self._reader, self._reactor
        progress = reader.progress
        left_over = progress is Progress.BOUND or progress is Progress.PAUSED
        # If a command was refused, what is left over waits until the reactor ends the throttling.
        if self.ended or not (ready & READ or (left_over and not session.refused)):
            return 0, False
        if left_over and session.paused:
            session.on_resume = self._resume
            reactor.watch(self, self.interest & ~READ)
            return 0, False
        count = 0
        frames = reactor.budget.throttled_frames if self._was_refused else reactor.budget.turn_frames
        messages = session.receiver is not None or session.outbox.closed
        buffer = reactor.buffer
        if not left_over:
            try:
                count = self._socket.recv_into(buffer)
            except BlockingIOError:
                self._watch_reading()
                return 0, False
            except OSError:
                count = 0
            if not count:
                self._peer_left()
                return 0, False
            if progress is Progress.OVER:
                return count, False
            session.heard = True
        if self._was_refused:
            session.outbox.hold()
        try:
            if count:
                progress = reader.feed(buffer, count, frames=frames, messages=messages)
            else:
                progress = reader.go_on(frames=frames, messages=messages)
        finally:
            if self._was_refused:
                session.outbox.flush()
        if session.refused:
            self._was_refused = True
        if progress is Progress.WAITS:
            if session.refused:
                session.refused = False
                reactor.throttle(self)
            elif self._was_refused:
                self._watch_reading()
        elif progress is Progress.BOUND:
            if not session.refused:
                return count, True
            reactor.throttle(self, left_over=True)
        elif progress is Progress.PAUSED:
            session.held = not messages
            session.on_resume = self._resume
        else:
            self._stop_reading()
        return count, False

    def _watch_reading(self) -> None:
        """Let the selector report input again, which ends throttling."""
        self._reactor.watch(self, self.interest | READ)

    def failed(self, error: Exception) -> None:
        self.session.fail(error)
        self._reader.progress = Progress.OVER
        self._stop_reading()

    def expired(self) -> None:
        """End now, and drop what waits to be sent."""
        self._end(reset=True)

    def _is_over(self) -> bool:
        return self.ended or self._reader.progress is Progress.OVER

    def _resume(self) -> None:
        session = self.session
        session.on_resume = None
        if self.ended:
            return
        if session.refused and not session.closed:
            # Until now it waited for its own operations and was not throttled. Read the rest in a quiet moment.
            self._reactor.throttle(self, left_over=True)
        else:
            session.refused = False
            self._reactor.watch(self, self.interest | READ)
            if self._reader.progress in (Progress.BOUND, Progress.PAUSED):
                self._reactor.queue(self)

    def _write(self) -> None:
        flush, self._flush = self._flush, None
        if flush is not None:
            flush()
        if self._flush is None:
            self._reactor.watch(self, self.interest & ~WRITE)
        self._finish()

    def _stop_reading(self) -> None:
        """Leave the room, because nothing that still arrives will be handled."""
        self.session.leave()
        if self._joining is not None:
            self._joining.cancel()
        self._finish()

    def _finish(self) -> None:
        """End the socket when both sides have sent a Close. Until the peer has, shut down only the sending side.

        What the peer still sends is read and dropped: closing the socket over unread bytes would reset the connection,
        and the peer might never read our Close. The deadline bounds the wait.
        """
        if self._reader.progress is not Progress.OVER or self.session.buffered_bytes:
            return
        if self._reader.peer_closed:
            self._end(reset=False)
        else:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _peer_left(self) -> None:
        """Handle the end of the peer's stream. Without a Close before it, what waits for the peer is dropped."""
        self._end(reset=self._reader.progress is not Progress.OVER)

    def _end(self, *, reset: bool) -> None:
        if self.ended:
            return
        self._reactor.remove(self)
        if reset:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._socket.close()
        self._flush = None
        self.session.lost()
        self.session.leave()
        if self._joining is not None:
            self._joining.cancel()
        self._on_end(self.session)
