"""A reactor whose passes a test runs one by one, with socket pairs and a recording application."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from actorchat.chat.ports import Session
from actorchat.testing import RecordingApplication, admission_of
from actorchat.testing._raw_peer import frame_of
from actorchat.transports.ports import Limits
from actorchat.transports.reactor.connection import Connection
from actorchat.transports.reactor.loop import Budget, Reactor

__all__ = ["BINARY", "CLOSE", "PING", "TEXT", "Client", "SteppedReactor", "open_stepped", "say"]

COMMAND = b'{"type":"send_message","data":{"text":"%d"}}'
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


def say(number: int) -> bytes:
    return frame_of(TEXT, COMMAND % number)


@attrs.define(eq=False)
class Client:
    """A connection in the reactor, and the client's end of its socket pair."""

    connection: Connection
    peer: socket.socket

    async def join(self, application: RecordingApplication) -> None:
        waiting = self.connection.enter(application, admission_of(0))
        if waiting is not None:
            await waiting

    def say(self, *numbers: int) -> None:
        self.peer.sendall(b"".join(map(say, numbers)))

    def read(self) -> bytes:
        try:
            return self.peer.recv(65_536)
        except BlockingIOError:
            return b""


@attrs.define(eq=False)
class SteppedReactor:
    """A reactor without a running task, and an application that records what reaches it."""

    reactor: Reactor
    application: RecordingApplication = attrs.Factory(RecordingApplication)
    ended: list[Session] = attrs.Factory(list)
    clients: list[Client] = attrs.Factory(list)

    def open(self, handshake: bytes = b"", received: bytes = b"") -> Client:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        theirs.setblocking(False)
        connection = Connection(mine, self.reactor, admission_of(len(self.clients)), Limits(), self.ended.append)
        connection.open(handshake, received)
        self.clients.append(Client(connection, theirs))
        return self.clients[-1]

    async def enter(self) -> Client:
        client = self.open()
        await client.join(self.application)
        return client

    @property
    def commands_read(self) -> list[int]:
        return list(map(int, self.application.texts))


@contextmanager
def open_stepped(budget: Budget | None = None, clock: Callable[[], float] = lambda: 0.0) -> Iterator[SteppedReactor]:
    reactor = Reactor(budget, clock)
    open_stepped = SteppedReactor(reactor)
    try:
        yield open_stepped
    finally:
        reactor.close()
        for client in open_stepped.clients:
            client.peer.close()
