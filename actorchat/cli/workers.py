"""Runs several servers on one port as child processes, restarts those that end, and replaces them one at a time.

Each worker has a listening socket of its own, which this process opened and keeps. So no connection is lost when a
worker is replaced: what it has not accepted, its successor does. The kernel spreads connections over the sockets.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import trio

__all__ = ["WORKER", "WorkerLink", "Workers", "worker_link"]

_log: Final = logging.getLogger("actorchat.cli")

WORKER: Final = "ACTORCHAT_WORKER"
"""The environment variable that makes a process a worker: its number, its link and its listening sockets."""

START_SECONDS: Final = 60.0
"""How long a worker may take until it serves. One that needs longer is ended."""

_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0
_END_SECONDS: Final = 15.0
"""How long a worker may take to end. It ends by itself within 12 seconds, unless it hangs."""

_READY: Final = b"r"


@attrs.frozen
class WorkerLink:
    """A worker's side: its number from 0 on, its listening sockets, and the link to the process that started it."""

    number: int
    link: socket.socket
    sockets: tuple[socket.socket, ...]

    def ready(self) -> None:
        """Tell that this worker serves. Never raises: if the parent is gone, `parent_gone` returns."""
        try:
            self.link.send(_READY)
        except OSError as error:
            _log.warning("the process that started this worker is gone: %s", error.strerror or error)

    async def parent_gone(self) -> None:
        """Return when the process that started this worker has ended."""
        link = trio.socket.from_stdlib_socket(self.link)
        try:
            while await link.recv(1):
                pass
        except OSError:
            return


def worker_link() -> WorkerLink | None:
    """The link of this process if it is a worker. The variable is removed, so that no child of it takes it over."""
    given = os.environ.pop(WORKER, None)
    if given is None:
        return None
    number, link, *sockets = map(int, given.split(","))
    return WorkerLink(number, socket.socket(fileno=link), tuple(socket.socket(fileno=each) for each in sockets))


@attrs.define(eq=False)
class _Process:
    """A running worker. `ready` is set when it serves, `ended` when it has ended, with `status`."""

    number: int
    process: subprocess.Popen[bytes]
    link: trio.socket.SocketType
    ready: trio.Event = attrs.Factory(trio.Event)
    ended: trio.Event = attrs.Factory(trio.Event)
    replaced: bool = False
    status: int = 0

    async def follow(self) -> None:
        """Wait until it serves, and until it ends."""
        with self.link:
            try:
                if await self.link.recv(1) == _READY:
                    self.ready.set()
                    await self.link.recv(1)
            except OSError:
                # It was killed.
                pass
        self.status = await trio.to_thread.run_sync(self.process.wait)
        self.ended.set()

    async def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, and wait for the end; after `_END_SECONDS`, kill it."""
        self.replaced = True
        self.signal(number)
        with trio.move_on_after(_END_SECONDS):
            await self.ended.wait()
            return
        _log.error("worker %d does not end: it is killed", self.number)
        self.signal(signal.SIGKILL)
        await self.ended.wait()

    def signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)


class Workers:
    """The workers of a server. `sockets` are the listening sockets of each, `arguments` those of `actorchat`.

    `nursery` gets a task for each worker.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        sockets: Sequence[tuple[socket.socket, ...]],
        arguments: Sequence[str],
    ) -> None:
        self._nursery = nursery
        self._sockets = sockets
        self._command = [sys.executable, "-m", "actorchat", *arguments]
        # The newest worker of each number, and all that have not ended: while one is replaced there are two of it.
        self._running: dict[int, _Process] = {}
        self._live: set[_Process] = set()
        self._rolling = trio.Lock()
        self.stopping: bool = False

    async def start(self) -> bool:
        """Start all. Returns True when they serve, False if one does not start."""
        # The first one makes what all of them need, such as the tables and the secret.
        if not await self._start(0):
            return False
        async with trio.open_nursery() as nursery:
            for number in range(1, len(self._sockets)):
                nursery.start_soon(self._start, number)
        return all(process.ready.is_set() for process in self._running.values())

    async def roll(self) -> None:
        """Replace all workers, one at a time: each ends when its successor serves. If one does not start, stop there.

        Does nothing if another call waits to begin.
        """
        if self._rolling.statistics().tasks_waiting:
            return
        async with self._rolling:
            for number in range(len(self._sockets)):
                before = self._running[number]
                if not await self._start(number):
                    self._running[number] = before
                    if self.stopping:
                        return
                    _log.error("worker %d can't be replaced: the old ones stay", number)
                    return
                await before.end()
            _log.info("all workers are replaced")

    async def stop(self) -> None:
        """End all workers, each of which stores what it has accepted."""
        self.stopping = True
        async with trio.open_nursery() as nursery:
            for process in self._live:
                nursery.start_soon(process.end)

    def kill(self) -> None:
        """Tell all workers again to stop, which ends them at once."""
        for process in self._live:
            process.signal(signal.SIGTERM)

    @property
    def drained(self) -> bool:
        """Whether all that have ended have stored everything before."""
        return all(process.status == 0 for process in self._running.values())

    async def _start(self, number: int) -> bool:
        """Start a worker. Returns True when it serves; it has told itself why it does not."""
        if self.stopping:
            return False
        process = self._running[number] = self._spawn(number)
        self._live.add(process)
        self._nursery.start_soon(self._follow, process)
        with trio.move_on_after(START_SECONDS) as limit:
            await _either(process.ready.wait, process.ended.wait)
        if limit.cancelled_caught:
            _log.error("worker %d does not start within %d seconds: it is killed", number, START_SECONDS)
            process.signal(signal.SIGKILL)
            await process.ended.wait()
        return process.ready.is_set() and not limit.cancelled_caught

    def _spawn(self, number: int) -> _Process:
        ours, theirs = socket.socketpair()
        handles = [theirs.fileno(), *(sock.fileno() for sock in self._sockets[number])]
        environment = {**os.environ, WORKER: ",".join(map(str, [number, *handles]))}
        with theirs:
            # In a group of its own, because Ctrl-C in a terminal signals all processes of a group.
            process = subprocess.Popen(  # noqa: S603 - this program itself
                self._command, env=environment, pass_fds=handles, process_group=0
            )
        ours.setblocking(False)
        return _Process(number, process, trio.socket.from_stdlib_socket(ours))

    async def _follow(self, process: _Process) -> None:
        """Wait for the end of a worker. If nobody has asked for it, start another one."""
        # Bounded: every worker is ended before the nursery is, at last by a signal that it can't ignore.
        with trio.CancelScope(shield=True):
            await process.follow()
        self._live.discard(process)
        pause = _FIRST_PAUSE
        while process.ready.is_set() and not process.replaced and not self.stopping:
            _log.error("worker %d has ended with status %d: another one starts", process.number, process.status)
            async with self._rolling:
                if self._running[process.number] is not process or await self._start(process.number):
                    return
                self._running[process.number] = process
            await trio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)


async def _either(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when one of the waits does."""

    async def first(wait: Callable[[], Awaitable[object]]) -> None:
        await wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for wait in waits:
            nursery.start_soon(first, wait)
