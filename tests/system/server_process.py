"""Runs a server in a process that tests kill, and start again on the same port and data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import actorchat
from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens

__all__ = ["SECRET", "TRANSPORTS", "ServerProcess", "server_process", "token"]

TRANSPORTS: Final = ("reactor", "trio-websocket")
SECRET: Final = "a-secret-for-tests-of-enough-bytes"
START_SECONDS: Final = 120.0
"""Seconds that a start may take; a slower server is killed, and the test fails."""
STOP_SECONDS: Final = 15.0

_WELCOME: Final = "actorchat serves "


def token(role: Role, user_id: int, ttl: float = 3600) -> str:
    """A token for the source lk that every server of this module accepts."""
    return Tokens(SECRET).issue(User(user_id, role), ("lk",), ttl)


class ServerProcess:
    """`actorchat serve` with SQLite in `folder`, that transport and without rate limits; `start` starts it.

    `open_files` is its hard limit for open files, `extra` adds to its environment. Every method blocks its thread.
    """

    def __init__(
        self,
        folder: Path,
        transport: str = "auto",
        open_files: int | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.port = 0
        self._limit = [] if open_files is None else ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh"]
        self._folder = folder
        self._log = folder.with_name(f"{folder.name}.log")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ACTORCHAT_")},
            "ACTORCHAT_SECRET": SECRET,
            "ACTORCHAT_TRANSPORT": transport,
            "ACTORCHAT_LIMITS_MESSAGES_PER_SECOND": "0",
            "ACTORCHAT_LIMITS_VISITORS_PER_MINUTE": "0",
            "ACTORCHAT_LIMITS_CHATS_PER_MINUTE": "0",
            "ACTORCHAT_LIMITS_ADDRESS_CHATS_PER_MINUTE": "0",
            **(extra or {}),
        }
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def folder(self) -> Path:
        """Its data folder."""
        return self._folder

    @property
    def environment(self) -> Mapping[str, str]:
        """Its environment, for commands that use the same data."""
        return self._environment

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> str:
        """The whole log since the first start."""
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        """Start on a free port, or on the earlier one, and wait until it serves. Raises AssertionError otherwise."""
        assert self._process is None, "the server is already running"
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [
                    *self._limit,
                    *(sys.executable, "-m", "actorchat", "serve"),
                    *("--port", str(self.port), "--data", str(self._folder)),
                ],
                cwd=Path(actorchat.__file__).parents[1],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        words = self._process.stdout
        assert words is not None
        overdue = threading.Timer(START_SECONDS, self._process.kill)
        overdue.start()
        welcome = next((line for line in words if line.startswith(_WELCOME)), None)
        overdue.cancel()
        if welcome is None:
            self.kill()
            raise AssertionError(f"the server did not start:\n{self.log}")
        self.port = int(welcome.rpartition(":")[2])

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End the server with SIGTERM, and return the exit status after it has drained."""
        return self._end(signal.SIGTERM)

    def wait(self) -> int:
        """Wait until the server ends by itself, and return the exit status."""
        return self._end(None)

    def close(self) -> None:
        """Kill the server if it runs."""
        if self._process is not None:
            self.kill()

    def _end(self, number: signal.Signals | None) -> int:
        process = self._running()
        if number is not None:
            process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "the server does not run"
        return self._process


@contextmanager
def server_process(folder: Path, transport: str = "auto", open_files: int | None = None) -> Iterator[ServerProcess]:
    """Run a server inside the block."""
    server = ServerProcess(folder, transport, open_files)
    try:
        server.start()
        yield server
    finally:
        server.close()
