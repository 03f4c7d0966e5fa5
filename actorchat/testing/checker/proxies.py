"""Forwards connections: to any live server for clients, and to the database or the bus for one server, until cut."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Final

import attrs
import trio

from actorchat.testing.checker.wire import CommitFinder, FrameEnd, is_note

__all__ = ["HeldCommit", "Proxy", "any_of"]

_BLOCK: Final = 65_536
_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.define(eq=False)
class _Link:
    """One connection. `muted`: it ends when the server has sent something more, which the client does not get."""

    client: trio.SocketStream
    server: trio.SocketStream
    scope: trio.CancelScope
    commits: CommitFinder = attrs.Factory(CommitFinder)
    muted: bool = False


class HeldCommit:
    """The COMMIT of a batch, which the proxy holds back until one of the methods is called."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        self.released: trio.Event = trio.Event()

    def lose(self) -> None:
        """Cut the connection, so that it never arrives."""
        self._link.scope.cancel()

    def forward(self) -> None:
        """Let it arrive, if the connection is still there."""
        self.released.set()

    def forward_unanswered(self) -> None:
        """Let it arrive, and cut the connection in place of the answer."""
        self._link.muted = True
        self.released.set()

    async def hang_up(self) -> None:
        """Cut the connection for the client only."""
        self._link.muted = True
        await trio.aclose_forcefully(self._link.client)


class Proxy:
    """Forwards each connection to the port that `target()` returns at that moment; None refuses it.

    With `frames`, which finds the frames that the server sends, those with notes can be lost or shuffled. `stall` holds
    back all bytes. `port` is set by `run`. `broken` counts the connections that a client lost or did not get.
    """

    def __init__(
        self, target: Callable[[], int | None], frames: FrameEnd | None = None, random: Random | None = None
    ) -> None:
        self.port: int = 0
        self.broken: int = 0
        self.loss: float = 0.0
        """Which share of the notes is lost."""
        self.shuffle: float = 0.0
        """Which share of the notes is repeated, and which is sent behind a later frame."""
        self._target = target
        self._frames = frames
        self._random = random or Random()  # noqa: S311 - it chooses faults
        self._flows = trio.Event()
        self._flows.set()
        self._links: set[_Link] = set()
        self._shut = False
        self._held: HeldCommit | None = None
        self._asked: trio.Event | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    def cut(self) -> int:
        """End all connections. Returns how many there were."""
        links, self._links = self._links, set()
        for link in links:
            link.scope.cancel()
        self.broken += len(links)
        return len(links)

    def shut(self) -> None:
        """End all connections, and refuse new ones until `open`."""
        self._shut = True
        self.cut()

    def open(self) -> None:
        self._shut = False

    def stall(self) -> None:
        """Hold back what is sent from now on."""
        self._flows = trio.Event()
        self.broken += 1

    def flow(self) -> None:
        """Forward what was held back."""
        self._flows.set()

    async def hold_commit(self, seconds: float) -> HeldCommit | None:
        """Wait for the COMMIT of a batch and hold it back. None if there is none for so long."""
        asked = self._asked = trio.Event()
        with trio.move_on_after(seconds):
            await asked.wait()
        self._asked = None
        held, self._held = self._held, None
        if held is not None:
            self.broken += 1
        return held

    async def _serve(self, client: trio.SocketStream) -> None:
        port = None if self._shut else self._target()
        with suppress(*_GONE), trio.CancelScope() as scope:
            try:
                if port is None:
                    self.broken += 1
                    return
                await self._join(client, port, scope)
            finally:
                await trio.aclose_forcefully(client)

    async def _join(self, client: trio.SocketStream, port: int, scope: trio.CancelScope) -> None:
        try:
            server = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            self.broken += 1
            raise
        async with server:
            link = _Link(client, server, scope)
            self._links.add(link)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._upstream, link)
                    nursery.start_soon(self._downstream, link)
            finally:
                self._links.discard(link)

    async def _upstream(self, link: _Link) -> None:
        with suppress(*_GONE):
            while data := await link.client.receive_some(_BLOCK):
                await self._flows.wait()
                if link.commits.commits(data) and self._asked is not None and self._held is None:
                    held = self._held = HeldCommit(link)
                    self._asked.set()
                    await held.released.wait()
                await link.server.send_all(data)
                if link.muted:
                    # The answer to what was sent ends the connection.
                    await trio.sleep_forever()
        link.scope.cancel()

    async def _downstream(self, link: _Link) -> None:
        with suppress(*_GONE):
            waiting = b""
            while data := await link.server.receive_some(_BLOCK):
                await self._flows.wait()
                if link.muted:
                    break
                if self._frames is not None:
                    data, waiting = self._choose(self._frames, waiting + data)
                if data:
                    await link.client.send_all(data)
            else:
                self.broken += 1
        link.scope.cancel()

    def _choose(self, frames: FrameEnd, data: bytes) -> tuple[bytes, bytes]:
        """Split `data` into the part that is sent now, and the incomplete frame at its end."""
        sent: list[bytes] = []
        late: list[bytes] = []
        start = 0
        while start < len(data) and (end := frames(data, start)) is not None:
            frame, start = data[start:end], end
            chance = self._random.random()
            if not is_note(frame) or chance >= self.loss + 2 * self.shuffle:
                sent += [frame, *late]
                late.clear()
            elif chance >= self.loss + self.shuffle:
                late.append(frame)
            elif chance >= self.loss:
                sent += [frame, frame]
        # With nothing behind it, a late frame goes with these.
        return b"".join([*sent, *late]), data[start:]


def any_of(random: Random, ports: Callable[[], list[int]]) -> Callable[[], int | None]:
    """A target that is one of `ports()`, at random."""

    def choose() -> int | None:
        found = ports()
        return random.choice(found) if found else None

    return choose
