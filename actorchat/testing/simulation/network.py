"""A network in memory: connections with delays, short writes, resets, lost directions and refused connects.

This module moves the bytes. `actorchat.testing.simulation.sockets` has the sockets and streams at both ends. Each
connection has its own random generator, so that events on one connection do not change another.
"""

from __future__ import annotations

import errno
import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from math import inf
from random import Random
from typing import Protocol

import attrs
import trio

__all__ = ["Backlog", "Connection", "End", "Network", "Pipe", "Tap", "Watcher"]


class Tap(Protocol):
    """Is called as the server's end of a connection is accepted, read, written and closed."""

    def accepted(self) -> None: ...

    def server_read(self, data: bytes) -> None: ...

    def server_wrote(self, data: bytes) -> None: ...

    def server_closed(self) -> None: ...


class _NoTap:
    def accepted(self) -> None:
        return None

    def server_read(self, data: bytes) -> None:
        return None

    def server_wrote(self, data: bytes) -> None:
        return None

    def server_closed(self) -> None:
        return None


class Watcher(Protocol):
    """Is notified when an end may have become readable or writable, as a selector needs."""

    def changed(self) -> None: ...


class Network:
    """A network of ports on one machine. `run` must run in a task.

    `random(name)` returns a generator; `log` is called with what happens. `slow` adds up to that many seconds to the
    delay of each piece of data. Until the time `refuse_until` most connects fail. While `calm` is true there are no
    additional delays.
    """

    def __init__(self, random: Callable[[str], Random], log: Callable[..., object]) -> None:
        self.random = random
        self.log = log
        self.tap: Callable[[Connection], Tap] = lambda connection: _NoTap()
        self.connections: list[Connection] = []
        self.backlogs: dict[int, Backlog] = {}
        self.opened: int = 0
        self.slow: float = 0.0
        self.refuse_until: float = -inf
        self.calm = False
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._pause = trio.CancelScope()

    def at(self, moment: float, call: Callable[[], object]) -> None:
        """Call `call` at the time `moment` of Trio's clock. Calls for the same time run in the order of scheduling."""
        heapq.heappush(self._events, (moment, next(self._order), call))
        if moment < self._pause.deadline:
            self._pause.deadline = moment

    async def run(self) -> None:
        """Run the scheduled calls, which deliver data, until cancelled."""
        while True:
            while self._events and self._events[0][0] <= trio.current_time():
                heapq.heappop(self._events)[2]()
            with trio.CancelScope(deadline=self._events[0][0] if self._events else inf) as self._pause:
                await trio.sleep_forever()

    async def connect(self, port: int) -> Connection:
        """Connect to `port`. Raises ConnectionRefusedError."""
        self.opened += 1
        connection = Connection(self, self.opened, self.random(f"connection/{self.opened}"))
        chance = connection.random
        await trio.sleep(connection.latency())
        if trio.current_time() < self.refuse_until and chance.random() < 0.8:
            if chance.random() < 0.3:
                await trio.sleep_forever()
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        backlog = self.backlogs.get(port)
        if backlog is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
        self.log("dial", connection.number)
        self.connections.append(connection)
        connection.established(backlog, deferred=backlog.deferred and chance.random() < 0.8)
        return connection

    def die(self, *, silent: bool) -> None:
        """Close the server's end of every connection. If `silent`, the peers get no packet, as in a power failure."""
        for backlog in list(self.backlogs.values()):
            backlog.close()
        for connection in list(self.connections):
            connection.server.die(silent=silent)

    def forget(self, connection: Connection) -> None:
        """Drop a connection once both its ends are closed."""
        if connection in self.connections and connection.client.closed and connection.server.closed:
            self.connections.remove(connection)


class Backlog:
    """The connections that wait until the server accepts them. `deferred`: as with TCP_DEFER_ACCEPT."""

    def __init__(self, network: Network, port: int, *, deferred: bool) -> None:
        self.network = network
        self.port = port
        self.deferred = deferred
        self.waiting: deque[Connection] = deque()
        self.lot: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.closed: bool = False
        network.backlogs[port] = self

    @property
    def readable(self) -> bool:
        return bool(self.waiting)

    @property
    def writable(self) -> bool:
        return False

    def offer(self, connection: Connection) -> None:
        if self.closed:
            connection.client.reset()
        else:
            self.waiting.append(connection)
            self.lot.unpark_all()

    def accept(self) -> End:
        """Return the server's end of the next connection. Raises BlockingIOError if none waits."""
        if not self.waiting:
            raise BlockingIOError
        end = self.waiting.popleft().server
        end.connection.tap.accepted()
        return end

    def close(self) -> None:
        """Reset the waiting connections, and free the port."""
        if self.closed:
            return
        self.closed = True
        self.lot.unpark_all()
        if self.network.backlogs.get(self.port) is self:
            del self.network.backlogs[self.port]
        for connection in self.waiting:
            connection.server.close(reset=True)
        self.waiting.clear()


class Connection:
    """Two ends and the two pipes between them."""

    def __init__(self, network: Network, number: int, random: Random) -> None:
        self.network = network
        self.number = number
        self.random = random
        self._base = random.choice((0.0005, 0.01, 0.05, 0.3))
        self._spiky = random.random() < 0.2
        sizes = (512, 4_096, 65_536, 262_144)
        up, down = Pipe(self, random.choice(sizes)), Pipe(self, random.choice(sizes))
        self.server: End = End(self, into=up, out=down)
        self.client: End = End(self, into=down, out=up)
        up.writer, up.reader, down.writer, down.reader = self.client, self.server, self.server, self.client
        self._listening: Backlog | None = None
        self.tap: Tap = network.tap(self)

    def latency(self) -> float:
        """Draw the seconds until the next piece of data arrives."""
        late = self._base * (0.5 + self.random.random())
        if not self.network.calm:
            late += self.network.slow * self.random.random()
            if self._spiky and self.random.random() < 0.05:
                late += self.random.uniform(0.5, 4.0)
        return late

    def established(self, backlog: Backlog, *, deferred: bool) -> None:
        """Complete the handshake. If `deferred`, the server can accept once data arrived, or after a second."""
        self._listening = backlog
        if deferred:
            self.network.at(trio.current_time() + 1.0, self.offer)
        else:
            self.offer()

    def offer(self) -> None:
        """Join the backlog, unless that has happened already."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.offer(self)

    def cut(self) -> None:
        """Reset both ends, as a middlebox does."""
        self.network.log("cut", self.number)
        for end in (self.client, self.server):
            end.reset()

    def silence(self, *, up: bool, down: bool) -> None:
        """Lose everything that is sent in these directions from now on; neither end gets an error."""
        self.network.log("silence", self.number, up, down)
        self.client.out.lossy |= up
        self.server.out.lossy |= down


class Pipe:
    """One direction of a connection. `capacity` bounds the bytes that are in flight or not yet read."""

    writer: End
    reader: End

    def __init__(self, connection: Connection, capacity: int) -> None:
        self.connection = connection
        self.capacity = capacity
        self.inbox: bytearray = bytearray()
        self.in_flight: int = 0
        self.eof: bool = False
        self.lossy = False
        self.full_at: float = -inf
        """The time at which a writer last had to wait."""
        self.waited = False
        """Whether nothing was written since then."""
        self._last = 0.0
        self._finished = False

    @property
    def free(self) -> int:
        return self.capacity - self.in_flight - len(self.inbox)

    def write(self, data: bytes | memoryview) -> None:
        """Send `data` in pieces, which arrive in order."""
        chance, network = self.connection.random, self.connection.network
        while data:
            size = len(data) if chance.random() < 0.6 else chance.randint(1, min(len(data), 4_096))
            piece, data = bytes(data[:size]), data[size:]
            self.in_flight += len(piece)
            self._last = max(self._last, trio.current_time() + self.connection.latency())
            if not self.lossy:
                network.at(self._last, lambda piece=piece: self._arrive(piece))  # type: ignore[misc] # a default argument binds it

    def _arrive(self, piece: bytes) -> None:
        if self.lossy or self.reader.broken:
            return
        self.in_flight -= len(piece)
        if self.reader.closed:
            # The reader is closed, so the writer gets a reset.
            self.connection.network.at(trio.current_time() + self.connection.latency(), self.writer.reset)
            return
        self.inbox += piece
        if self.reader is self.connection.server:
            self.connection.offer()
        self.reader.changed()

    def finish(self) -> None:
        """Send the end of the stream."""
        if not self._finished:
            self._finished = True
            self._last = max(self._last, trio.current_time() + self.connection.latency())
            if not self.lossy:
                self.connection.network.at(self._last, self._end)

    def _end(self) -> None:
        if not self.lossy:
            self.eof = True
            self.reader.changed()

    def take(self, most: int) -> bytes:
        data = bytes(self.inbox[:most])
        del self.inbox[:most]
        self.writer.changed()
        return data


@attrs.define(eq=False)
class End:
    """One side's view of a connection."""

    connection: Connection
    into: Pipe
    out: Pipe
    lot: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    watchers: dict[Watcher, None] = attrs.field(factory=dict)
    broken: bool = False
    closed: bool = False

    @property
    def readable(self) -> bool:
        return bool(self.into.inbox) or self.into.eof or self.broken or self.closed

    @property
    def writable(self) -> bool:
        return self.out.free > 0 or self.broken or self.closed

    def changed(self) -> None:
        self.lot.unpark_all()
        for watcher in self.watchers:
            watcher.changed()

    def reset(self) -> None:
        """Receive a reset from the other end."""
        if not self.broken and not self.closed:
            self.broken = True
            if self.connection.random.random() < 0.5:
                self.into.inbox.clear()
            self.changed()

    def close(self, *, reset: bool = False) -> None:
        """Close this end. The peer gets a reset if there is unread data or `reset` is true."""
        if self.closed:
            return
        self.closed = True
        connection = self.connection
        is_server = self is connection.server
        if reset or self.into.inbox:
            if not (self.out.lossy or self.broken):
                peer = connection.client if is_server else connection.server
                connection.network.at(trio.current_time() + connection.latency(), peer.reset)
        else:
            self.out.finish()
        self.changed()
        if is_server:
            connection.tap.server_closed()
        connection.network.forget(connection)

    def die(self, *, silent: bool) -> None:
        """Close this end because its process ended; `silent`: because its machine did."""
        if self.closed:
            return
        if silent:
            self.out.lossy = self.into.lossy = True
        self.close()
