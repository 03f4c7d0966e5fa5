"""Owns websockets: trio-websocket speaks the protocol, over a stream whose way out is the session's outbox.

Refuses to know HTTP beyond the handshake, and who may open a socket.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from actorchat.protocol import CloseCode, Frames
from actorchat.transports.byte_stream import ByteStream
from actorchat.transports.heartbeat import beat
from actorchat.transports.ports import Admission, Application, Limits
from actorchat.transports.request_head import Upgrade
from actorchat.transports.session import Sessions, SocketSession

__all__ = ["WebsocketTransport", "open_websocket_transport"]

_OPCODE: Final = 0x0F
_CLOSE: Final = 0x08
_PONG: Final = 0x0A


class WebsocketTransport:
    """Serves websockets, each in the task that calls `serve`.

    `nursery` is for the lines: it holds the tasks that write to slow peers.
    """

    def __init__(self, application: Application, limits: Limits, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.sessions: Sessions = Sessions()
        self._application = application
        self._limits = limits

    @property
    def untasked(self) -> int:
        """None is open without the task that serves it."""
        return 0

    async def serve(self, line: ByteStream, upgrade: Upgrade, admission: Admission) -> None:
        """Open a websocket on `line`, join, deliver input; returns when the socket has ended and is closed.

        Whatever the peer or the application does, nothing but Cancelled is raised.
        """
        session = SocketSession(admission, line, self._limits)
        self.sessions.expect(session)
        subprotocol = upgrade.subprotocol
        stream = _Stream(line, session, upgrade)
        del upgrade
        try:
            try:
                async with trio.open_nursery() as nursery:
                    line.scope = nursery.cancel_scope
                    await self._talk(nursery, stream, subprotocol, session, admission)
            except BaseExceptionGroup as group:
                _end_with(group, session)
            line.scope = None
            if not stream.vanished:
                with trio.CancelScope(deadline=line.deadline):
                    await session.outbox.wait_flushed()
                    await line.finish(peer_knows=stream.peer_knows)
        finally:
            self.sessions.discard(session)
            session.lost()
            await line.reset()

    async def drain(self, code: int = CloseCode.DRAINING, reason: str = "draining") -> None:
        """Close every socket with `code`, also those opened later, and return when the last has ended.

        Each takes at most `close_linger`; cancel the call to wait for less.
        """
        await self.sessions.drain(code, reason)

    async def _talk(
        self,
        nursery: trio.Nursery,
        stream: _Stream,
        subprotocol: str | None,
        session: SocketSession,
        admission: Admission,
    ) -> None:
        request = await wrap_server_stream(nursery, stream, max_message_size=self._limits.frame_bytes)
        websocket = await request.accept(subprotocol=subprotocol)
        del request
        self.sessions.add(session)
        # Until there is a receiver, trio-websocket reads no further than the first messages, and no pong behind them.
        session.held = True
        joined = self._application.join(session, admission)
        session.attach(await joined if isinstance(joined, Awaitable) else joined)
        try:
            await _read(websocket, session)
        finally:
            session.leave()
        reason = websocket.closed
        if stream.vanished:
            session.lost()
        elif reason is not None:
            # trio-websocket leaves a peer that broke the protocol without a Close.
            session.close(reason.code, reason.reason or "")


def _end_with(group: BaseExceptionGroup[BaseException], session: SocketSession) -> None:
    failures, others = group.split(Exception)
    if failures is not None and session.closed:
        # trio-websocket goes on with what it has read after it sent its Close, and trips over pings there.
        _, failures = failures.split(LocalProtocolError)
    if failures is not None:
        session.fail(failures)
    if others is not None:
        raise others from None


async def _read(websocket: WebSocketConnection, session: SocketSession) -> None:
    while True:
        try:
            message = await websocket.get_message()
        except ConnectionClosed:
            return
        if isinstance(message, str):
            session.received(message)
        else:
            session.received_binary()
        while session.paused:
            resumed = trio.Event()
            session.on_resume = resumed.set
            await resumed.wait()
            session.on_resume = None


class _Stream(trio.abc.Stream):
    """What trio-websocket takes for a connection: input from the line, output to the session's outbox.

    It hands out the handshake first and, only once that is answered, what comes behind it: wsproto would drop
    frames that arrive in between. `vanished`: the peer left without a Close. `peer_knows`: both said Close.
    """

    __slots__ = (
        "_accepted",
        "_line",
        "_over",
        "_said_close",
        "_session",
        "_upgrade",
        "peer_knows",
        "vanished",
    )

    def __init__(self, line: ByteStream, session: SocketSession, upgrade: Upgrade) -> None:
        self._line = line
        self._session = session
        self._upgrade: Upgrade | None = upgrade
        self._accepted: trio.Event | None = None
        self._said_close = False
        self._over = False
        self.vanished = False
        self.peer_knows = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._upgrade is not None:
            data = await self._handshake(self._upgrade)
            if data:
                return data
        if self._over:
            await trio.lowlevel.checkpoint()
            return b""
        try:
            data = await self._line.receive()
        except trio.BrokenResourceError:
            self.vanished = True
            raise
        if data:
            self._session.heard = True
        else:
            self.vanished = True
        return data

    async def _handshake(self, upgrade: Upgrade) -> bytes:
        if self._accepted is None:
            self._accepted = trio.Event()
            await trio.lowlevel.checkpoint()
            return upgrade.request
        await self._accepted.wait()
        self._accepted = None
        self._upgrade = None
        return upgrade.rest

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        frame = bytes(data)
        opcode = frame[0] & _OPCODE
        outbox = self._session.outbox
        if self._accepted is not None:
            outbox.push(Frames(frame, (len(frame),)))
            self._accepted.set()
        elif opcode == _PONG:
            outbox.pong(frame)
        elif opcode == _CLOSE:
            # An answer to the peer's Close, or 1009: either way trio-websocket has read enough.
            self._said_close = True
            self._over = True
            outbox.close_with(frame)
        else:
            outbox.push(Frames(frame, (len(frame),)))
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Mark the end: the session still has things to send, and closes the line itself."""
        self._over = True
        self.peer_knows = self._said_close
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_websocket_transport(
    application: Application, *, limits: Limits | None = None, wall: Callable[[], float] = time.time
) -> AsyncIterator[WebsocketTransport]:
    """A transport with its heartbeat. Leaving cancels what still runs: drain first.

    Whoever calls `serve` has to be done with it before the block is left.
    """
    limits = limits or Limits()
    async with trio.open_nursery() as nursery:
        transport = WebsocketTransport(application, limits, nursery)
        nursery.start_soon(beat, transport.sessions, limits, wall)
        try:
            yield transport
        finally:
            nursery.cancel_scope.cancel()
