"""Serves websockets with trio-websocket, which writes its frames to the session's outbox."""

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
    """Serves each websocket in the task that calls `serve`.

    Byte streams use `nursery` for the tasks that write to slow peers.
    """

    def __init__(self, application: Application, limits: Limits, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.sessions: Sessions = Sessions()
        self._application = application
        self._limits = limits

    @property
    def untasked(self) -> int:
        """The number of open websockets whose `serve` has returned: always 0."""
        return 0

    async def serve(self, byte_stream: ByteStream, upgrade: Upgrade, admission: Admission) -> None:
        """Open a websocket on `byte_stream`, join its room or feed, and deliver its input until it is closed.

        Raises only Cancelled, whatever the peer or the application does.
        """
        session = SocketSession(admission, byte_stream, self._limits)
        self.sessions.expect(session)
        subprotocol = upgrade.subprotocol
        stream = _Stream(byte_stream, session, upgrade)
        del upgrade
        try:
            try:
                async with trio.open_nursery() as nursery:
                    byte_stream.scope = nursery.cancel_scope
                    await self._talk(nursery, stream, subprotocol, session, admission)
            except BaseExceptionGroup as group:
                _end_with(group, session)
            byte_stream.scope = None
            if not stream.vanished:
                with trio.CancelScope(deadline=byte_stream.deadline):
                    await session.outbox.wait_flushed()
                    await byte_stream.finish(peer_knows=stream.peer_knows)
        finally:
            self.sessions.discard(session)
            session.lost()
            await byte_stream.reset()

    async def drain(self, code: int = CloseCode.DRAINING, reason: str = "draining") -> None:
        """Close all sockets with `code`, also those opened later, and return when the last has ended.

        Each takes at most `Limits.close_linger`. Cancelling the call stops the wait earlier.
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
        # trio-websocket buffers only a few messages while they have no receiver, and reads no pongs after them. `held`
        # keeps the heartbeat from taking the peer for dead.
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
            # trio-websocket sends no close frame after a protocol error.
            session.close(reason.code, reason.reason or "")


def _end_with(group: BaseExceptionGroup[BaseException], session: SocketSession) -> None:
    failures, others = group.split(Exception)
    if failures is not None and session.closed:
        # After sending its close frame, trio-websocket still processes buffered input, and fails to answer pings in it.
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
    """The connection as trio-websocket sees it: it reads from the byte stream and writes to the session's outbox.

    It delivers the handshake first, and the bytes after it only once the handshake is answered, because wsproto would
    drop frames that arrive before. `vanished` is true if the peer left without a close frame, `peer_knows` if both
    sides have sent one.
    """

    __slots__ = (
        "_accepted",
        "_byte_stream",
        "_ended",
        "_sent_close",
        "_session",
        "_upgrade",
        "peer_knows",
        "vanished",
    )

    def __init__(self, byte_stream: ByteStream, session: SocketSession, upgrade: Upgrade) -> None:
        self._byte_stream = byte_stream
        self._session = session
        self._upgrade: Upgrade | None = upgrade
        self._accepted: trio.Event | None = None
        self._sent_close = False
        self._ended = False
        self.vanished = False
        self.peer_knows = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._upgrade is not None:
            data = await self._handshake(self._upgrade)
            if data:
                return data
        if self._ended:
            await trio.lowlevel.checkpoint()
            return b""
        try:
            data = await self._byte_stream.receive()
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
            # trio-websocket answers the peer's close frame, or closes with 1009. It needs no more input.
            self._sent_close = True
            self._ended = True
            outbox.close_with(frame)
        else:
            outbox.push(Frames(frame, (len(frame),)))
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Mark the end. The session closes the byte stream itself, after it has sent its queued data."""
        self._ended = True
        self.peer_knows = self._sent_close
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_websocket_transport(
    application: Application, *, limits: Limits | None = None, wall: Callable[[], float] = time.time
) -> AsyncIterator[WebsocketTransport]:
    """Run a transport with its heartbeat. Leaving the block cancels what still runs: drain first.

    All calls of `serve` must have returned before the block is left. `wall` returns epoch seconds, for the expiry of
    sessions.
    """
    limits = limits or Limits()
    async with trio.open_nursery() as nursery:
        transport = WebsocketTransport(application, limits, nursery)
        nursery.start_soon(beat, transport.sessions, limits, wall)
        try:
            yield transport
        finally:
            nursery.cancel_scope.cancel()
