"""Connects one socket of any transport to its room or feed: decodes input, bounds operations in flight, closes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from math import inf
from typing import Final, Protocol

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

__all__ = ["SessionObserver", "Sessions", "SocketSession"]

_logger: Final = logging.getLogger(__name__)
_PING: Final = Frames(ping_frame(), (len(ping_frame()),))


class SocketSession:
    """One connected socket: a `chat.ports.Session` for rooms and feeds, and the sink of its transport's input.

    The transport calls `received` and `received_binary`, sets `heard` on any byte and stops reading while `paused`;
    `on_resume` is called when it may read again. Only `wait_drained` blocks, and nothing raises. `operations` counts
    the operations in flight of several sockets together. Input is delivered while there is a `receiver`; `push` is
    the outbox's.
    """

    __slots__ = (
        "_in_flight",
        "_limits",
        "_malformed",
        "_operations",
        "expires_at",
        "heard",
        "held",
        "issued",
        "on_resume",
        "outbox",
        "peer",
        "ping_at",
        "profile",
        "push",
        "receiver",
        "refused",
        "silent_at",
        "user",
    )

    def __init__(
        self, admission: Admission, wire: Wire, limits: Limits, operations: InFlightOperations | None = None
    ) -> None:
        self.user: User = admission.user
        self.profile: Profile = admission.profile
        self.outbox: Outbox = Outbox(wire, limits)
        # Fan-out calls this once per socket, so it is the outbox's own method and not one around it.
        self.push: Callable[[Frames], None] = self.outbox.push
        self.peer: str = admission.peer
        self.issued: float | None = admission.issued
        self.expires_at: float = inf if admission.expires_at is None else admission.expires_at
        # State of the heartbeat. It is kept here because a dict of all sessions would need more memory.
        self.heard: bool = True
        self.ping_at: float = inf
        self.silent_at: float = inf
        self.receiver: Receiver | None = None
        # Set by the transport: input waits for a receiver.
        self.held: bool = False
        # A command was refused at once. A transport that throttles such peers clears this.
        self.refused: bool = False
        self.on_resume: Callable[[], None] | None = None
        self._limits = limits
        self._operations = operations or InFlightOperations()
        self._in_flight = 0
        self._malformed = 0

    def __repr__(self) -> str:
        return f"<SocketSession {self.user.role}:{self.user.id} of {self.peer}>"

    @property
    def buffered_bytes(self) -> int:
        return self.outbox.buffered_bytes

    @property
    def closed(self) -> bool:
        """Whether a Close was queued or the peer is gone. Then input is ignored and output is dropped."""
        return self.outbox.closed

    @property
    def paused(self) -> bool:
        """Whether the transport has to stop reading: the in-flight limit is reached, or there is no receiver yet."""
        full = self.held or self._in_flight >= self._limits.operations_in_flight
        return full and not self.outbox.closed

    async def wait_drained(self) -> bool:
        return await self.outbox.wait_drained()

    def close(self, code: int, reason: str = "") -> None:
        self.outbox.close(code, reason)
        self._resume()

    def give_up(self) -> None:
        """Drop what waits for a peer that reads too slowly, and close with 1013."""
        self.outbox.give_up()
        self._resume()

    def operation_done(self, flooding: bool = False) -> None:
        operations = self._operations
        if flooding:
            self.refused = True
        operations.in_flight -= 1
        self._in_flight -= 1
        if self.on_resume is not None and self._in_flight == self._limits.operations_in_flight - 1:
            self.on_resume()
        if operations.on_none is not None and not operations.in_flight:
            operations.on_none()

    def attach(self, receiver: Receiver) -> None:
        """Deliver input to `receiver` from now on, until `leave`."""
        self.receiver = receiver
        self.held = False

    def leave(self) -> None:
        """Detach the receiver, if there is one, because the socket has ended or is not read any more."""
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            try:
                receiver.leave()
            except Exception as error:
                self.fail(error)

    def received(self, payload: bytes | str) -> bool:
        """Handle one whole text message. After a Close, or without a receiver, it is ignored.

        Returns False when the in-flight limit is reached: read no further.
        """
        receiver, limits, operations = self.receiver, self._limits, self._operations
        if receiver is None or self.outbox.closed:
            return True
        limit = limits.frame_bytes
        if len(payload) > limit or (payload.__class__ is str and len(payload.encode()) > limit):
            self.outbox.close(CloseCode.TOO_BIG, f"a message holds {limit} bytes at most")
            return True
        self._in_flight += 1
        operations.in_flight += 1
        accepted = None
        try:
            accepted = receiver.receive(decode_command(payload, self.profile))
            self._malformed = 0
        except NotUtf8:
            self.outbox.close(CloseCode.NOT_UTF8, "not UTF-8")
        except Malformed as fault:
            self._count_malformed(receiver, fault)
        except Exception as error:
            self.fail(error)
        if accepted is not True:
            # It became no operation, so `operation_done` is not called for it.
            self._in_flight -= 1
            operations.in_flight -= 1
            if accepted is False:
                self.refused = True
        return self._in_flight < limits.operations_in_flight

    def received_binary(self) -> bool:
        """Handle one whole binary message, which is malformed: commands are text. Returns True: read on."""
        if self.receiver is not None and not self.outbox.closed:
            fault = Malformed((Fault("", "a binary frame; commands are text"),))
            self._count_malformed(self.receiver, fault)
        return True

    def answer_ping(self, frame: bytes) -> None:
        """Answer the peer's ping with the pong `frame`."""
        self.outbox.pong(frame)

    def answer_close(self, frame: bytes) -> None:
        """Answer the peer's Close with the Close `frame`."""
        self.outbox.close_with(frame)

    def refuse(self, code: int, reason: str) -> None:
        """Close with `code`, because the peer broke the protocol."""
        self.outbox.close(code, reason)

    def ping(self) -> None:
        """Send a ping."""
        self.outbox.push(_PING)

    def lost(self) -> None:
        """Drop what waits, because the peer is gone without a Close."""
        self.outbox.lost()
        self._resume()

    def fail(self, error: Exception) -> None:
        """Log `error` and close with 1011. An error of one socket never ends another."""
        _logger.error("%r failed and is closed", self, exc_info=error)
        self.close(CloseCode.SERVER_FAILED, "the server failed")

    def _count_malformed(self, receiver: Receiver, fault: Malformed) -> None:
        if fault.type == UpdateTyping.type:
            # Typing is only shown, so a malformed one closes no socket. The transport may throttle the peer instead.
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


class SessionObserver(Protocol):
    """Is told of each session once when it begins, and once when it ends. Never raises."""

    def expected(self, session: SocketSession, /) -> None:
        """A session is being opened."""

    def ended(self, session: SocketSession, close_code: int | None, /) -> None:
        """A session has ended. `close_code` is that of the Close that was sent, None if none was."""


class Sessions:
    """The live sessions of one transport, and their number per user.

    `given_up` counts the sessions that were closed because their peers were too slow. `observer` may be set before the
    first session.
    """

    def __init__(self) -> None:
        self.observer: SessionObserver | None = None
        self._live: dict[SocketSession, None] = {}
        self._expected: dict[SocketSession, None] = {}
        self._ended: dict[SocketSession, tuple[int, str]] = {}
        self._counts: dict[Identity, int] = {}
        self.given_up: int = 0
        self._closing_with: tuple[int, str] | None = None
        self._some = trio.Event()
        self._none = trio.Event()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[SocketSession]:
        """Iterate over the sessions that are live now. Sessions may be added and discarded meanwhile."""
        return iter(tuple(self._live))

    def count(self, identity: Identity) -> int:
        """The number of sessions of that user, including those that are being opened."""
        return self._counts.get(identity, 0)

    def expect(self, session: SocketSession) -> None:
        """Count a session that is being opened. Discard it once, even if it is never added."""
        identity = identity_of(session.user)
        self._counts[identity] = self._counts.get(identity, 0) + 1
        self._expected[session] = None
        if self.observer is not None:
            self.observer.expected(session)

    def add(self, session: SocketSession) -> None:
        """Add an expected session, which can be closed from now on. While draining it is closed at once."""
        if not self._live:
            self._none = trio.Event()
        self._expected.pop(session, None)
        self._live[session] = None
        self._some.set()
        if self._closing_with is not None:
            session.close(*self._closing_with)
        elif self._ended and (ended := self._ended.pop(session, None)) is not None:
            session.close(*ended)

    def close_user(self, identity: Identity, code: int, reason: str = "") -> None:
        """Close every session of that user, including those that are being opened, but none that is expected later."""
        if identity in self._counts:
            self.close_where(lambda session: identity_of(session.user) == identity, code, reason)

    def sign_out(self, user: User, issued: float, code: int, reason: str = "") -> None:
        """Close the sessions of a user whose tokens that were issued up to then, in epoch seconds, are worthless."""
        identity = identity_of(user)

        def ends(session: SocketSession) -> bool:
            return identity_of(session.user) == identity and (session.issued is None or session.issued <= issued)

        if identity in self._counts:
            self.close_where(ends, code, reason)

    def close_where(self, matches: Callable[[SocketSession], bool], code: int, reason: str = "") -> None:
        """Close every session for which `matches` is true, including those that are being opened."""
        for session in self._live:
            if matches(session):
                session.close(code, reason)
        for session in self._expected:
            if matches(session):
                self._ended[session] = (code, reason)

    def discard(self, session: SocketSession) -> None:
        """Forget a session that has ended, whether or not it was added."""
        self.given_up += session.outbox.gave_up
        identity = identity_of(session.user)
        count = self._counts[identity] - 1
        if count:
            self._counts[identity] = count
        else:
            del self._counts[identity]
        self._live.pop(session, None)
        self._expected.pop(session, None)
        self._ended.pop(session, None)
        if self.observer is not None:
            self.observer.ended(session, session.outbox.close_code)
        if not self._live:
            self._some = trio.Event()
            self._none.set()

    async def wait_any(self) -> None:
        """Wait until there is a session."""
        while not self._live:
            await self._some.wait()
        await trio.lowlevel.checkpoint()

    async def drain(self, code: int, reason: str = "") -> None:
        """Close every session, including those added later, and return when all have ended."""
        self._closing_with = (code, reason)
        for session in self:
            session.close(code, reason)
        while self._live:
            await self._none.wait()
        await trio.lowlevel.checkpoint()
