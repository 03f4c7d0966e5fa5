"""Owns what every transport does with one connected socket: input in, events out, its bounds and its end.

Refuses to know how bytes travel and what a command means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from math import inf
from typing import Final

import trio

from actorchat.chat.model import Identity, identity_of
from actorchat.protocol import (
    CloseCode,
    Fault,
    Frames,
    Malformed,
    NotUtf8,
    Profile,
    UpdateTyping,
    User,
    decode_command,
    ping_frame,
)
from actorchat.transports.in_flight import InFlightOperations
from actorchat.transports.outbox import Outbox, Wire
from actorchat.transports.ports import Admission, Limits, Receiver

__all__ = ["Sessions", "SocketSession"]

_logger: Final = logging.getLogger(__name__)
_PING: Final = Frames(ping_frame(), (len(ping_frame()),))


class SocketSession:
    """One connected socket: a `chat.ports.Session` for rooms and feeds, and the way in for its transport.

    Its transport calls `received` and `received_binary`, sets `heard` on any byte, stops reading while
    `paused`, and is told by `on_resume` when it may go on. Nothing here blocks or raises but `wait_drained`.
    `operations` counts for a transport that wants to know what is in flight on all its sockets.
    """

    __slots__ = (
        "_in_flight",
        "_limits",
        "_malformed",
        "_operations",
        "_profile",
        "_receiver",
        "_user",
        "expires_at",
        "heard",
        "held",
        "on_resume",
        "outbox",
        "peer",
        "ping_at",
        "refused",
        "silent_at",
    )

    def __init__(
        self, admission: Admission, wire: Wire, limits: Limits, operations: InFlightOperations | None = None
    ) -> None:
        self.outbox: Outbox = Outbox(wire, limits)
        self.peer: str = admission.peer
        self.expires_at: float = inf if admission.expires_at is None else admission.expires_at
        # The heartbeat's own notes: on the session, because a dict of them would cost more than they do.
        self.heard: bool = True
        self.ping_at: float = inf
        self.silent_at: float = inf
        # Set by the transport: input waits for a receiver.
        self.held: bool = False
        # Something was refused at once; a transport that lets such a peer wait clears it.
        self.refused: bool = False
        self.on_resume: Callable[[], None] | None = None
        self._user = admission.user
        self._profile = admission.profile
        self._limits = limits
        self._operations = operations or InFlightOperations()
        self._receiver: Receiver | None = None
        self._in_flight = 0
        self._malformed = 0

    def __repr__(self) -> str:
        return f"<SocketSession {self._user.role}:{self._user.id} of {self.peer}>"

    @property
    def user(self) -> User:
        return self._user

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def buffered_bytes(self) -> int:
        return self.outbox.buffered_bytes

    @property
    def closed(self) -> bool:
        """A Close was queued or the peer is gone: input is ignored, output dropped."""
        return self.outbox.closed

    @property
    def attached(self) -> bool:
        """There is a receiver: input is delivered."""
        return self._receiver is not None

    @property
    def paused(self) -> bool:
        """As many operations are in flight as may be, or input waits for a receiver: read no further."""
        full = self.held or self._in_flight >= self._limits.operations_in_flight
        return full and not self.outbox.closed

    async def wait_drained(self) -> bool:
        return await self.outbox.wait_drained()

    def push(self, frames: Frames) -> None:
        self.outbox.push(frames)

    def close(self, code: int, reason: str = "") -> None:
        self.outbox.close(code, reason)
        self._resume()

    def give_up(self) -> None:
        """The peer takes too little for too long: close with 1013 instead of what waits."""
        self.outbox.give_up()
        self._resume()

    def operation_done(self, flooding: bool = False) -> None:
        operations = self._operations
        if flooding:
            self.refused = True
        operations.in_flight -= 1
        self._in_flight -= 1
        if self._in_flight == self._limits.operations_in_flight - 1:
            self._resume()
        if not operations.in_flight and operations.on_none is not None:
            operations.on_none()

    def attach(self, receiver: Receiver) -> None:
        """Deliver input to `receiver` from now on, until `leave`."""
        self._receiver = receiver
        self.held = False

    def leave(self) -> None:
        """The socket has ended, or reads no more: tell the receiver, once, if there is one."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            try:
                receiver.leave()
            except Exception as error:
                self.fail(error)

    def received(self, payload: bytes | str) -> bool:
        """Take one whole text message; input after a Close, or before a receiver is there, is ignored.

        False: as many operations are in flight as may be; read no further.
        """
        receiver = self._receiver
        if receiver is None or self.outbox.closed:
            return True
        if _longer(payload, self._limits.frame_bytes):
            self.outbox.close(CloseCode.TOO_BIG, f"a message holds {self._limits.frame_bytes} bytes at most")
            return True
        self._in_flight += 1
        self._operations.in_flight += 1
        taken = None
        try:
            taken = receiver.receive(decode_command(payload, self._profile))
            self._malformed = 0
        except NotUtf8:
            self.outbox.close(CloseCode.NOT_UTF8, "not UTF-8")
        except Malformed as fault:
            self._count_malformed(receiver, fault)
        except Exception as error:
            self.fail(error)
        if taken is not True:
            # Nobody waits for what was not granted.
            self._in_flight -= 1
            self._operations.in_flight -= 1
            if taken is False:
                self.refused = True
        return self._in_flight < self._limits.operations_in_flight

    def received_binary(self) -> bool:
        """Take note of a whole binary message, which the contract has none of. Returns True: read on."""
        if self._receiver is not None and not self.outbox.closed:
            fault = Malformed((Fault("", "a binary frame; commands are text"),))
            self._count_malformed(self._receiver, fault)
        return True

    def answer_ping(self, frame: bytes) -> None:
        """The peer asks for a sign of life: send this pong."""
        self.outbox.pong(frame)

    def answer_close(self, frame: bytes) -> None:
        """The peer has sent its Close: send this one."""
        self.outbox.close_with(frame)

    def refuse(self, code: int, reason: str) -> None:
        """The peer broke the protocol: close with `code`."""
        self.outbox.close(code, reason)

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self.outbox.push(_PING)

    def lost(self) -> None:
        """The peer is gone without a Close."""
        self.outbox.lost()
        self._resume()

    def fail(self, error: Exception) -> None:
        """Log `error` and close with 1011: one socket's fault never becomes another's."""
        _logger.error("%r failed and is closed", self, exc_info=error)
        self.close(CloseCode.SERVER_FAILED, "the server failed")

    def _count_malformed(self, receiver: Receiver, fault: Malformed) -> None:
        if fault.type == UpdateTyping.type:
            # Only shown, so it closes no socket. A transport may make the peer wait instead.
            self.refused = True
        else:
            self._malformed += 1
        try:
            receiver.malformed(fault)
        except Exception as error:
            self.fail(error)
        if self._malformed >= self._limits.malformed_in_a_row:
            self.outbox.close(CloseCode.MALFORMED, "malformed")

    def _resume(self) -> None:
        if self.on_resume is not None:
            self.on_resume()


class Sessions:
    """The live sessions of one transport, and how many each person has."""

    def __init__(self) -> None:
        self._live: dict[SocketSession, None] = {}
        self._of: dict[Identity, int] = {}
        self._closing_with: tuple[int, str] | None = None
        self._some = trio.Event()
        self._none = trio.Event()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[SocketSession]:
        """Over those that live now, whatever comes and goes meanwhile."""
        return iter(tuple(self._live))

    def count(self, identity: Identity) -> int:
        """How many sessions that person has, those that are being opened included."""
        return self._of.get(identity, 0)

    def expect(self, session: SocketSession) -> None:
        """Count a session that is being opened. It is to be discarded once, whatever becomes of it."""
        identity = identity_of(session.user)
        self._of[identity] = self._of.get(identity, 0) + 1

    def add(self, session: SocketSession) -> None:
        """Take a session, one that was expected, that can be closed from now on; while draining it is, at once."""
        if not self._live:
            self._none = trio.Event()
        self._live[session] = None
        self._some.set()
        if self._closing_with is not None:
            session.close(*self._closing_with)

    def discard(self, session: SocketSession) -> None:
        """Forget a session that has ended, whether or not it was added."""
        identity = identity_of(session.user)
        count = self._of[identity] - 1
        if count:
            self._of[identity] = count
        else:
            del self._of[identity]
        self._live.pop(session, None)
        if not self._live:
            self._some = trio.Event()
            self._none.set()

    async def wait_any(self) -> None:
        """Return when there is a session."""
        while not self._live:
            await self._some.wait()
        await trio.lowlevel.checkpoint()

    async def drain(self, code: int, reason: str = "") -> None:
        """Close every session, also those that come later, and return when all have ended."""
        self._closing_with = (code, reason)
        for session in self:
            session.close(code, reason)
        while self._live:
            await self._none.wait()
        await trio.lowlevel.checkpoint()


def _longer(payload: bytes | str, limit: int) -> bool:
    if len(payload) > limit:
        return True
    if isinstance(payload, bytes) or payload.isascii() or len(payload) * 4 <= limit:
        return False
    return len(payload.encode()) > limit
