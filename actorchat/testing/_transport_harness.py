"""The tools of the transport checks: an application that records everything, and the interface of a client."""

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
    """The client's end of a socket. It answers pings and Closes, at the latest while it receives."""

    answers_pings: bool
    answers_close: bool

    @property
    def close_code(self) -> int | None:
        """The code of the Close that ended the socket, or 1006 without one; set once `receive` has raised."""

    async def send_text(self, raw: bytes | str) -> None:
        """Send a text message, well-formed or not."""

    async def send_binary(self, raw: bytes) -> None:
        """Send a binary message."""

    async def receive(self) -> bytes:
        """Return the next event as JSON. Raises EndOfChannel when the socket has ended."""

    async def close(self, code: int = 1000) -> None:
        """Send a Close."""

    async def vanish(self) -> None:
        """End the connection without a Close."""


class Dialer(Protocol):
    """Connects peers to an open transport."""

    def dial(self, admission: Admission) -> AbstractAsyncContextManager[Peer]:
        """Connect a peer with that admission, through the smallest buffers that the system allows."""

    async def drain(self) -> None:
        """Drain the transport."""

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
    """The admission of visitor `number` to a room that all visitors share, with the extended profile."""
    user = User(id=number, role=Role.USER, avatar="", lastname="", firstname="", patronymic="")
    target = RoomTarget(UUID(int=7))
    return Admission(user=user, profile=Profile.EXTENDED, target=target, expires_at=expires_at, peer=f"peer {number}")


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for `condition`. Raises AssertionError with `what` if it does not become true within 20 s."""
    with trio.move_on_after(_PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
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
    """Open a transport with default limits and the system's clock."""
    async with open_transport(application, limits or Limits(), wall) as dialer:
        yield dialer


async def joined(application: RecordingApplication, count: int) -> list[Session]:
    """Wait until `count` sessions have joined, and return them."""
    await until(lambda: len(application.sessions) == count, f"{count} sessions join")
    return application.sessions


async def send_commands(peer: Peer, count: int) -> None:
    """Send `count` messages with the texts "0", "1" and so on."""
    for number in range(count):
        await peer.send_text(f'{{"type":"send_message","data":{{"text":"{number}"}}}}')


async def close_follows(peer: Peer, code: int, pushed: Sequence[bytes], *, whole: bool = True) -> None:
    """Check that the peer reads `pushed`, then a Close with `code`, then nothing.

    Unless `whole`, a part of `pushed` from its beginning is enough.
    """
    got: list[bytes] = []
    with suppress(trio.EndOfChannel):
        while True:
            got.append(await peer.receive())
    expect(peer.close_code == code, f"closed with {int(code)}, not with {peer.close_code}")
    expect(got == list(pushed[: len(got)]), "the peer reads what was pushed, in order")
    expect(len(got) == len(pushed) or not whole, "everything that was pushed comes before the Close")


def padded(number: int) -> bytes:
    """An event of about a kilobyte."""
    return b'{"type":"event","data":%d,"x":"%s"}' % (number, b"x" * 1_000)


async def fill(session: Session) -> int:
    """Push events until the peer's buffers stay full. Returns how many were pushed."""
    for number in range(20_000):
        session.push(Frames.of([padded(number)]))
        if session.buffered_bytes > 2_000:
            await trio.testing.wait_all_tasks_blocked()
            if session.buffered_bytes > 2_000:
                return number + 1
    raise AssertionError("20,000 events fill no buffer of a peer that does not read")


async def settled() -> None:
    """Let all tasks run until nothing is left for them to do, some turns of the network included."""
    for _ in range(20):
        await trio.testing.wait_all_tasks_blocked()


def expect(condition: bool, promise: str) -> None:
    """Raise AssertionError with `promise` unless `condition` is true."""
    if not condition:
        raise AssertionError(promise)
