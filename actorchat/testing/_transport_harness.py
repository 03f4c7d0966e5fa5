"""Owns what transport checks are run with: an application that writes everything down, and how to dial.

Refuses to know any one transport: an `OpenTransport` says how to open one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, Protocol
from uuid import UUID

import attrs
import trio
import trio.testing

from actorchat.chat.ports import Session
from actorchat.protocol import Command, Frames, Malformed, Profile, Role, SendMessage, UnknownType, User
from actorchat.transports.ports import Admission, Limits, Receiver, RoomTarget

__all__ = [
    "Dialer",
    "OpenTransport",
    "Peer",
    "RecordingApplication",
    "admission_of",
    "close_follows",
    "expect",
    "fill",
    "joined",
    "opened",
    "padded",
    "send_commands",
    "settled",
    "until",
]

_PATIENCE: Final = 20.0


class Peer(Protocol):
    """A client's end, as the checks need it. It answers pings and Closes, at the latest while it receives."""

    answers_pings: bool
    answers_close: bool

    @property
    def close_code(self) -> int | None:
        """What ended the socket, 1006 if no Close did; known once `receive` has raised."""

    async def send_text(self, raw: bytes | str) -> None:
        """Send a text message, well-formed or not."""

    async def send_binary(self, raw: bytes) -> None:
        """Send a binary message."""

    async def receive(self) -> bytes:
        """The next event's JSON; EndOfChannel when the socket has ended."""

    async def close(self, code: int = 1000) -> None:
        """Send a Close."""

    async def vanish(self) -> None:
        """End without one."""


class Dialer(Protocol):
    """A transport that is open."""

    def dial(self, admission: Admission) -> AbstractAsyncContextManager[Peer]:
        """Connect a peer that is admitted so, through buffers as small as they get."""

    async def drain(self) -> None:
        """The transport's own."""

    @property
    def open_sockets(self) -> int:
        """How many sockets have not ended."""


OpenTransport = Callable[["RecordingApplication", Limits, Callable[[], float]], AbstractAsyncContextManager[Dialer]]
"""Opens a transport for an application with these limits and this wall clock, in epoch seconds."""


@attrs.define(eq=False)
class _Recorder:
    application: RecordingApplication
    session: Session

    def receive(self, command: Command | UnknownType) -> bool | None:
        self.application.commands.append(command)
        if self.application.fails:
            raise RuntimeError("planted by a check")
        return self.application.takes or None

    def malformed(self, fault: Malformed) -> None:
        self.application.faults.append(fault)

    def leave(self) -> None:
        self.application.left.append(self.session)


class RecordingApplication:
    """An application that records what reaches it.

    `takes`: every command is an operation that will be answered. `fails`: every command raises. `refuses`: `join`
    raises, after `join_seconds` in both cases.
    """

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.commands: list[Command | UnknownType] = []
        self.faults: list[Malformed] = []
        self.left: list[Session] = []
        self.takes = False
        self.fails = False
        self.refuses = False
        self.join_seconds: float = 0.0

    async def join(self, session: Session, admission: Admission) -> Receiver:
        """Let a session join after `join_seconds`. Raises RuntimeError while `refuses` is set."""
        await trio.sleep(self.join_seconds)
        if self.refuses:
            raise RuntimeError("planted by a check")
        return self.receiver(session)

    def receiver(self, session: Session) -> Receiver:
        """Take a session that joins."""
        self.sessions.append(session)
        return _Recorder(self, session)

    @property
    def texts(self) -> list[str]:
        """The texts of the `send_message` commands received."""
        return [command.text for command in self.commands if isinstance(command, SendMessage)]


def admission_of(number: int, *, expires_at: float | None = None) -> Admission:
    """Visitor `number` in a room of all visitors, extended profile."""
    user = User(id=number, role=Role.USER, avatar="", lastname="", firstname="", patronymic="")
    target = RoomTarget(UUID(int=7))
    return Admission(user=user, profile=Profile.EXTENDED, target=target, expires_at=expires_at, peer=f"peer {number}")


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for `condition`; AssertionError says `what` was expected if it does not come true in 20 s."""
    with trio.move_on_after(_PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is looked at has no event to wait for
            await trio.sleep(0.001)
    if not condition():
        raise AssertionError(what)


@asynccontextmanager
async def opened(
    open_transport: OpenTransport,
    application: RecordingApplication,
    limits: Limits | None = None,
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Dialer]:
    """An open transport, with the defaults of a check."""
    async with open_transport(application, limits or Limits(), wall) as dialer:
        yield dialer


async def joined(application: RecordingApplication, count: int) -> list[Session]:
    """The sessions, once there are `count`."""
    await until(lambda: len(application.sessions) == count, f"{count} sessions join")
    return application.sessions


async def send_commands(peer: Peer, count: int) -> None:
    """Send messages whose texts count from 0."""
    for number in range(count):
        await peer.send_text(f'{{"type":"send_message","data":{{"text":"{number}"}}}}')


async def close_follows(peer: Peer, code: int, pushed: Sequence[bytes], *, whole: bool = True) -> None:
    """The peer reads `pushed`, or if not `whole` a beginning of it, then a Close with `code`, then nothing."""
    got: list[bytes] = []
    with suppress(trio.EndOfChannel):
        while True:
            got.append(await peer.receive())
    expect(peer.close_code == code, f"closed with {int(code)}, not with {peer.close_code}")
    expect(got == list(pushed[: len(got)]), "what comes before the Close was pushed, in order")
    expect(len(got) == len(pushed) or not whole, "all that was pushed comes before the Close")


def padded(number: int) -> bytes:
    """An event of about a kilobyte."""
    return b'{"type":"event","data":%d,"x":"%s"}' % (number, b"x" * 1_000)


async def fill(session: Session) -> int:
    """Push events until the peer's buffers are full and stay so; returns how many."""
    for number in range(20_000):
        session.push(Frames.of([padded(number)]))
        if session.buffered_bytes > 2_000:
            await trio.testing.wait_all_tasks_blocked()
            if session.buffered_bytes > 2_000:
                return number + 1
    raise AssertionError("a peer that does not read has no end of buffers")


async def settled() -> None:
    """Give everyone the time to do what they can."""
    for _ in range(20):
        await trio.testing.wait_all_tasks_blocked()


def expect(condition: bool, promise: str) -> None:
    """Raise AssertionError with the promise that was broken."""
    if not condition:
        raise AssertionError(promise)
