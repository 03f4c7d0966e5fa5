"""Runs `actorchat serve` in a process of its own, whose connections to the database and the bus go through proxies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import trio

from actorchat.testing.checker.proxies import Proxy
from actorchat.testing.checker.wire import postgres_frame_end, redis_frame_end

__all__ = ["SECRET", "NodeFailed", "NodeProcess"]

SECRET: Final = "a-secret-of-the-checker-of-enough-bytes"  # noqa: S105 - of servers that end with the check

START_SECONDS: Final = 300.0
STOP_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.3


class NodeFailed(Exception):  # noqa: N818 - a result
    """A server did not start or stop as it should. The text has the end of its log."""


class NodeProcess:
    """A server on `storage`, a PostgreSQL URL, with its files in `folder`. `serving`: it accepts clients.

    `bus` is the setting `bus` of the server; other than "auto" and "local" it goes through a proxy of its own. With
    `without`, one healing of the server is switched off. `database_port()` and `bus_port()` are where they listen now.
    """

    def __init__(
        self,
        name: str,
        storage: str,
        folder: Path,
        options: tuple[str, ...],
        *,
        bus: str = "auto",
        without: str | None = None,
        database_port: Callable[[], int] | None = None,
        bus_port: Callable[[], int] | None = None,
        random: Random | None = None,
    ) -> None:
        self.name: str = name
        self.port: int = 0
        self.serving: bool = False
        self.starts: int = 0
        self.failed_starts: int = 0
        self._storage = storage
        port = urlsplit(storage).port or 5432
        self.proxy: Proxy = Proxy(database_port or (lambda: port), random=random)
        """To the database."""
        self.bus: Proxy | None = None
        """To the bus, None if the bus is `auto` or `local`."""
        self._bus = storage if bus == "postgres" else bus
        if bus not in ("auto", "local"):
            carrier = urlsplit(self._bus)
            frames = redis_frame_end if carrier.scheme == "redis" else postgres_frame_end
            listens = carrier.port or (6379 if carrier.scheme == "redis" else 5432)
            self.bus = Proxy(bus_port or (lambda: listens), frames, random)
        self._folder = folder
        self._options = options
        self._without = without
        self._log = folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def storage(self) -> str:
        """The database as this server reaches it."""
        return _through(self._storage, self.proxy)

    @property
    def log(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-4_000:] if self._log.exists() else ""

    async def start(self) -> None:
        """Start it, on the port it had before, and return when it serves. Raises `NodeFailed`.

        It is started again if it has ended because a connection to the database has failed meanwhile.
        """
        with trio.move_on_after(START_SECONDS):
            while True:
                broken = self.proxy.broken
                self._spawn()
                welcome = await trio.to_thread.run_sync(self._welcome, abandon_on_cancel=True)
                if welcome or self.proxy.broken == broken:
                    break
                self.failed_starts += 1
                self.kill()
                await trio.sleep(RETRY_SECONDS)
            if welcome:
                self.port = int(welcome.split()[2].rpartition(b":")[2])
                self.serving = True
                return
        self.kill()
        raise NodeFailed(f"{self.name} did not start:\n{self.log}")

    def _spawn(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACTORCHAT_")}
        environment |= {
            "ACTORCHAT_SECRET": SECRET,
            "ACTORCHAT_STORAGE": self.storage,
            "ACTORCHAT_BUS": self._bus if self.bus is None else _through(self._bus, self.bus),
            # The proxies look into what goes through them.
            "PGSSLMODE": "disable",
            "PGGSSENCMODE": "disable",
            "ACTORCHAT_LIMITS_MESSAGES_PER_SECOND": "0",
            "ACTORCHAT_LIMITS_VISITORS_PER_MINUTE": "0",
            "ACTORCHAT_LIMITS_CHATS_PER_MINUTE": "0",
            "ACTORCHAT_LIMITS_ADDRESS_CHATS_PER_MINUTE": "0",
        }
        program = ["actorchat"] if self._without is None else ["actorchat.testing.checker.without", self._without]
        command = [sys.executable, "-m", *program, "serve", "--port", str(self.port), "--data", str(self._folder)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                [*command, *self._options],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C in a terminal ends the check, which then ends its servers.
                process_group=0,
            )
        self.starts += 1

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.serving = False
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    async def stop(self) -> None:
        """Let it drain and end. Raises `NodeFailed` if it does not, or reports a failure.

        If a connection to the database fails meanwhile, it may report that a commit stays in doubt.
        """
        process = self._process
        if process is None:
            return
        self.serving = False
        broken = self.proxy.broken
        process.terminate()
        with trio.move_on_after(STOP_SECONDS):
            status = await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
            self.kill()
            if status and self.proxy.broken == broken:
                raise NodeFailed(f"{self.name} ended with status {status}:\n{self.log}")
            return
        self.kill()
        raise NodeFailed(f"{self.name} did not stop within {STOP_SECONDS:.0f} s:\n{self.log}")

    def freeze(self) -> None:
        """Stop all its threads until `thaw`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _welcome(self) -> bytes:
        process = self._process
        assert process is not None  # noqa: S101 - set by `start`
        assert process.stdout is not None  # noqa: S101 - a pipe
        for line in process.stdout:
            if b" serves " in line:
                return line
        return b""


def _through(url: str, proxy: Proxy) -> str:
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}"))
