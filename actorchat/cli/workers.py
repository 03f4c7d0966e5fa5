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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import attrs
import trio

__all__ = ["WORKER", "WorkerLink", "Workers", "worker_link"]

_log: Final = logging.getLogger("actorchat.cli")

WORKER: Final = "ACTORCHAT_WORKER"
"""The environment variable that makes a process a worker: its number, its link and its listening sockets."""

START_SECONDS: Final = 60.0
"""How long a worker may take to start, without opening the storage. One that needs longer is ended."""

STORAGE_SECONDS: Final = 1_830.0
"""How long a worker may take to open the storage. It may upgrade the database, or wait for a server that does, in three
transactions. PostgreSQL ends each of them after ten minutes."""

STABLE_SECONDS: Final = 60.0
"""A worker that has served this long is started again at once when it ends. Others are started after a pause."""

_FIRST_PAUSE, _LAST_PAUSE = 0.5, 10.0
"""The pause grows, but not for long: connections that the kernel gives to this worker wait for it."""

_END_SECONDS: Final = 15.0
"""How long a worker may take to end. It ends by itself within 12 seconds, unless it hangs."""

_READY: Final = b"r"
_OPENS_STORAGE: Final = b"o"
_HAS_STORAGE: Final = b"s"


@attrs.frozen
class WorkerLink:
    """A worker's side: its number from 0 on, its listening sockets, and the link to the process that started it."""

    number: int
    link: socket.socket
    sockets: tuple[socket.socket, ...]

    def ready(self) -> None:
        """Tell that this worker serves. Never raises: if the parent is gone, `parent_gone` returns."""
        self._tell(_READY)

    def opens_storage(self) -> None:
        """Tell that this worker opens the storage, which may take long. Never raises."""
        self._tell(_OPENS_STORAGE)

    def has_storage(self) -> None:
        """Tell that the storage is open. Never raises."""
        self._tell(_HAS_STORAGE)

    def _tell(self, what: bytes) -> None:
        try:
            self.link.send(what)
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
    """A running worker. `ready` is set when it serves, `ended` when it has ended, with `status`.

    `starting` is the scope in which its start is awaited; `since` the time at which it served. `asked_to_end`: its end
    is no reason to start another one.
    """

    number: int
    process: subprocess.Popen[bytes]
    link: trio.socket.SocketType
    ready: trio.Event = attrs.Factory(trio.Event)
    ended: trio.Event = attrs.Factory(trio.Event)
    starting: trio.CancelScope = attrs.Factory(trio.CancelScope)
    since: float = 0.0
    asked_to_end: bool = False
    status: int = 0

    async def follow(self) -> None:
        """Wait until it serves, and until it ends."""
        with self.link:
            try:
                while told := await self.link.recv(1):
                    if told == _READY:
                        self.since = trio.current_time()
                        self.ready.set()
                    else:
                        seconds = STORAGE_SECONDS if told == _OPENS_STORAGE else START_SECONDS
                        self.starting.deadline = trio.current_time() + seconds
            except OSError:
                # It was killed.
                pass
        self.status = await trio.to_thread.run_sync(self.process.wait)
        self.ended.set()

    async def serves(self) -> bool:
        """Wait until it serves. Returns False if it does not; then it has ended."""
        self.starting.deadline = trio.current_time() + START_SECONDS
        with self.starting:
            await _either(self.ready.wait, self.ended.wait)
        if self.starting.cancelled_caught:
            _log.error("worker %d takes too long to start: it is killed", self.number)
            # It may serve in the meantime.
            self.asked_to_end = True
            self.signal(signal.SIGKILL)
            await self.ended.wait()
            return False
        if not self.ready.is_set() and self.status < 0 and not self.asked_to_end:
            # Otherwise it has told why.
            _log.error("worker %d %s before it served", self.number, self.end_shown)
        return self.ready.is_set()

    @property
    def end_shown(self) -> str:
        """How it has ended, for messages."""
        if self.status >= 0:
            return f"ended with status {self.status}"
        try:
            return f"was ended by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was ended by signal {-self.status}"

    async def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, and wait for the end; after `_END_SECONDS`, kill it."""
        self.asked_to_end = True
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
    """The workers of a server. `sockets` are the listening sockets of each, `command` starts one.

    `environment` has variables that all of them get besides those of this process. `nursery` gets a task for each
    worker.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        sockets: Sequence[tuple[socket.socket, ...]],
        command: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        self._nursery = nursery
        self._sockets = sockets
        self._command = command
        self._environment = environment
        # The newest worker of each number that has served, and all that have not ended.
        self._running: dict[int, _Process] = {}
        self._live: set[_Process] = set()
        # How long each number waited before its last start.
        self._pauses = dict.fromkeys(range(len(sockets)), 0.0)
        # Held while all workers start or are replaced.
        self._all = trio.Lock()
        # Held while one worker of the number starts. So a worker that crashes while others are replaced starts at once.
        self._starting = [trio.Lock() for _ in sockets]
        self._roll_waits = False
        self.stopping: bool = False

    async def start(self) -> bool:
        """Start all. Returns True when they serve, False if one does not start; then no more are started."""
        async with self._all:
            # The first one makes what all of them need, such as the tables and the secret.
            started: dict[int, bool] = {}

            async def start(number: int) -> None:
                async with self._starting[number]:
                    started[number] = await self._start(number)

            await start(0)
            if started[0]:
                async with trio.open_nursery() as nursery:
                    for number in range(1, len(self._sockets)):
                        nursery.start_soon(start, number)
            self.stopping = self.stopping or not all(started.values())
            return all(started.values())

    async def roll(self) -> None:
        """Replace all workers, one at a time: each ends when its successor serves. If one does not start, stop there.

        Does nothing if another call waits to begin.
        """
        if self._roll_waits:
            return
        self._roll_waits = True
        async with self._all:
            self._roll_waits = False
            for number in range(len(self._sockets)):
                if self.stopping:
                    return
                async with self._starting[number]:
                    before = self._running[number]
                    started = await self._start(number)
                if not started:
                    if not self.stopping:
                        _log.error(
                            "worker %d can't be replaced: it and those after it stay as they were (replaced: %d of %d)",
                            number,
                            number,
                            len(self._sockets),
                        )
                    return
                await before.end()
            _log.info("all workers are replaced")

    async def stop(self) -> None:
        """End all workers, each of which stores what it has accepted."""
        self.stopping = True
        async with trio.open_nursery() as nursery:
            for process in self._live:
                nursery.start_soon(process.end)

    def stop_at_once(self) -> None:
        """Tell all workers to stop a second time. Then they end without storing what they have accepted."""
        for process in self._live:
            process.signal(signal.SIGTERM)

    @property
    def drained(self) -> bool:
        """Whether all that have ended have stored everything before."""
        return all(process.status == 0 for process in self._running.values())

    async def _start(self, number: int) -> bool:
        """Start a worker. Returns True when it serves; otherwise it has ended, and the reason is in the log.

        The caller holds the lock of this number.
        """
        if self.stopping:
            return False
        try:
            process = self._spawn(number)
        except OSError as error:
            _log.error("worker %d can't be started: %s", number, error.strerror or error)
            return False
        self._live.add(process)
        self._nursery.start_soon(self._follow, process)
        if not await process.serves():
            return False
        self._running[number] = process
        return True

    def _spawn(self, number: int) -> _Process:
        """Start the process of a worker. Raises OSError."""
        ours, theirs = socket.socketpair()
        handles = [theirs.fileno(), *(sock.fileno() for sock in self._sockets[number])]
        environment = {**os.environ, **self._environment, WORKER: ",".join(map(str, [number, *handles]))}
        with theirs:
            try:
                # In a group of its own, because Ctrl-C in a terminal signals all processes of a group.
                process = subprocess.Popen(  # noqa: S603 - this program itself
                    self._command, env=environment, pass_fds=handles, process_group=0
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        return _Process(number, process, trio.socket.from_stdlib_socket(ours))

    async def _follow(self, process: _Process) -> None:
        """Wait for the end of a worker. If nobody has asked for it, start another one."""
        # Bounded: every worker is ended before the nursery is, at last by a signal that it can't ignore.
        with trio.CancelScope(shield=True):
            await process.follow()
        self._live.discard(process)
        if not process.ready.is_set():
            return
        number = process.number
        if trio.current_time() - process.since >= STABLE_SECONDS:
            self._pauses[number] = 0.0
        happened = process.end_shown
        while not process.asked_to_end and not self.stopping:
            pause = self._pauses[number]
            self._pauses[number] = min(max(pause * 2, _FIRST_PAUSE), _LAST_PAUSE)
            when = f" in {pause:g} s" if pause else ""
            _log.error("worker %d %s: another one starts%s", number, happened, when)
            await trio.sleep(pause)
            async with self._starting[number]:
                # It may have been replaced in the meantime.
                if self._running.get(number) is not process or await self._start(number):
                    return
            happened = "has not started"


async def _either(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when one of the waits does."""

    async def first(wait: Callable[[], Awaitable[object]]) -> None:
        await wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for wait in waits:
            nursery.start_soon(first, wait)
