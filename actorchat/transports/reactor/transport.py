"""Serves websockets over plain TCP in the reactor. `actorchat.transports.websocket` serves those over TLS."""

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
    """Serves all websockets in one task. The listener uses `nursery` for connections before their handshake."""

    def __init__(self, application: Application, limits: Limits, reactor: Reactor, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.sessions: Sessions = Sessions()
        self._application = application
        self._limits = limits
        self._reactor = reactor
        # Made once, because each connection would keep a bound method of its own.
        self._forget = self.sessions.discard

    @property
    def untasked(self) -> int:
        """The number of sockets, because none has a task except while it joins its room."""
        return len(self.sessions)

    def serve(self, line: ByteStream, upgrade: Upgrade, admission: Admission) -> Awaitable[None] | None:
        """Take over the socket of `line`, open a websocket on it and join its room or feed.

        The result is to be awaited, unless it is None: then joining has succeeded or failed already. Only Cancelled is
        raised while waiting. The socket then lives in the reactor. Raises TypeError unless `line` is a plain socket.
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
        """Close every socket with `code`, including those opened later, and return when the last has ended.

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
    """A transport with its reactor and heartbeat. Leaving the block resets open sockets, so drain first.

    All calls of `serve` must have returned by then. `wall` returns epoch seconds; `clock` measures the passes of the
    reactor.
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
