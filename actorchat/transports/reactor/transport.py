"""Owns websockets on plain TCP: the hand-over from the listener, and their drain.

Refuses to know TLS and other streams, which `actorchat.transports.websocket` serves, and who may open a socket.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from actorchat.protocol import CloseCode
from actorchat.transports.byte_stream import ByteStream, SocketByteStream
from actorchat.transports.heartbeat import beat
from actorchat.transports.kernel import KERNEL, Kernel
from actorchat.transports.ports import Admission, Application, Limits
from actorchat.transports.reactor.connection import Connection
from actorchat.transports.reactor.loop import Budget, Reactor, ReactorStatistics
from actorchat.transports.request_head import Upgrade
from actorchat.transports.session import Sessions
from actorchat.transports.websocket_accept import accept

__all__ = ["ReactorTransport", "open_reactor_transport"]


class ReactorTransport:
    """Serves websockets, all in one task. A socket that is open costs no task.

    `nursery` is for the lines before they are handed over.
    """

    def __init__(self, application: Application, limits: Limits, reactor: Reactor, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.sessions: Sessions = Sessions()
        self._application = application
        self._limits = limits
        self._reactor = reactor
        # One for all connections: each would keep a bound method of its own.
        self._forget = self.sessions.discard

    @property
    def untasked(self) -> int:
        """All sockets: none has a task of its own, but while it enters its room."""
        return len(self.sessions)

    def serve(self, line: ByteStream, upgrade: Upgrade, admission: Admission) -> Awaitable[None] | None:
        """Take the socket of `line`, which has ended then, open a websocket on it, and join.

        None: the target was entered, or never will be; the socket lives on in the reactor. Else that has to be awaited;
        whatever the peer or the application does, only Cancelled comes out. Raises TypeError for a line that is no
        plain socket.
        """
        if not isinstance(line, SocketByteStream):
            raise TypeError(f"the reactor serves plain sockets, not a {type(line).__name__}")
        connection = Connection(line.detach(), self._reactor, admission, self._limits, self._forget)
        self.sessions.expect(connection.session)
        try:
            connection.open(accept(upgrade), upgrade.rest)
        except BaseException:
            connection.expired()
            raise
        self.sessions.add(connection.session)
        return connection.enter(self._application, admission)

    async def drain(self, code: int = CloseCode.DRAINING, reason: str = "draining") -> None:
        """Close every socket with `code`, also those opened later, and return when the last has ended.

        Each takes at most `close_linger`; cancel the call to wait for less.
        """
        await self.sessions.drain(code, reason)

    def statistics(self) -> ReactorStatistics:
        return self._reactor.statistics()


@asynccontextmanager
async def open_reactor_transport(
    application: Application,
    *,
    limits: Limits | None = None,
    wall: Callable[[], float] = time.time,
    budget: Budget | None = None,
    clock: Callable[[], float] = time.perf_counter,
    kernel: Kernel = KERNEL,
) -> AsyncIterator[ReactorTransport]:
    """A transport with its reactor and heartbeat. Leaving resets what is still open: drain first.

    Whoever calls `serve` has to be done with it before the block is left. `wall` gives epoch seconds; `clock` measures
    how long a pass of the reactor takes.
    """
    limits = limits or Limits()
    reactor = Reactor(budget, clock, kernel)
    try:
        async with trio.open_nursery() as nursery:
            transport = ReactorTransport(application, limits, reactor, nursery)
            nursery.start_soon(reactor.run)
            nursery.start_soon(beat, transport.sessions, limits, wall)
            try:
                yield transport
            finally:
                nursery.cancel_scope.cancel()
    finally:
        reactor.close()
