"""Runs a server process, and `actorchat chat` in pseudo-terminals that tests type into and read."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pexpect  # type: ignore[import-untyped]  # it comes without types
import pyte

PATIENCE: Final = 60.0
"""Seconds to wait for an expected output."""

COLUMNS: Final = 110
LINES: Final = 30
PROGRAM: Final = (sys.executable, "-W", "error", "-m", "actorchat")


@contextmanager
def server_process(data: Path, *, sources: str = "") -> Iterator["ServerProcess"]:
    """A running server, killed at the end."""
    server = ServerProcess(data, sources)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class ServerProcess:
    """`actorchat serve` on a folder. It keeps over restarts the port that was free at its first start."""

    def __init__(self, data: Path, sources: str = "") -> None:
        self.data = data
        self.port = 0
        self._log = data.with_name(f"{data.name}.log")
        self._environment = {**os.environ, "ACTORCHAT_SOURCES": sources} if sources else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it serves. Raises AssertionError if it does not."""
        deadline = time.monotonic() + PATIENCE
        while not self._serves(deadline):
            # A connection of another test may have used the port between two starts.
            assert self.port, self._log.read_text()
            assert "is in use" in self._log.read_text(), self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def _serves(self, deadline: float) -> bool:
        command = [*PROGRAM[:1], "-m", "actorchat", "serve", "--port", str(self.port), "--data", str(self.data)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        while (welcome := re.search(r"serves http://127\.0\.0\.1:(\d+)\n", self._log.read_text())) is None:
            if self._process.poll() is not None:
                self._process = None
                return False
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)
        self.port = int(welcome[1])
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Terminal:
    """`actorchat chat` in a pseudo-terminal, read as it appears on the screen."""

    def __init__(self, *arguments: str, columns: int = COLUMNS, lines: int = LINES) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.seen: list[str] = []
        self._process = pexpect.spawn(
            PROGRAM[0],
            [*PROGRAM[1:], "chat", *arguments],
            dimensions=(lines, columns),
            env={**os.environ, "TERM": "xterm-256color"},
        )

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display if line.strip())

    def type(self, text: str) -> None:
        self._process.send(text)

    def enter(self, line: str) -> None:
        self.type(line + "\r")

    def interrupt(self) -> None:
        self._process.send("\x03")

    def wait_for(self, *parts: str, gone: str | None = None) -> None:
        """Wait until all `parts` are on the screen, and `gone` is not."""
        self.wait_until(lambda text: all(part in text for part in parts) and (gone is None or gone not in text))

    def wait_until(self, holds: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds(self.text):
            if time.monotonic() > deadline:
                raise AssertionError(f"still on the screen:\n{self.text}")
            self._look()

    @property
    def cursor(self) -> tuple[int, int]:
        """Row and column of the cursor, from 0."""
        return self._screen.cursor.y, self._screen.cursor.x

    def resize(self, columns: int, lines: int) -> None:
        self._screen.resize(lines, columns)
        self._process.setwinsize(lines, columns)

    def wait_end(self) -> int | None:
        """Wait for the program's end and return its exit status."""
        self._process.expect(pexpect.EOF, timeout=PATIENCE)
        self._stream.feed(self._process.before)
        self._process.close()
        status: int | None = self._process.exitstatus
        return status

    @property
    def raw_ending(self) -> bytes:
        """The last output of the program, unparsed."""
        before: bytes = self._process.before
        return before

    def kill(self) -> None:
        self._process.close(force=True)

    def _look(self) -> None:
        try:
            self._stream.feed(self._process.read_nonblocking(4096, timeout=0.1))
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            raise AssertionError(f"the program ended:\n{self.text}") from None
        if not self.seen or self.seen[-1] != self.text:
            self.seen.append(self.text)
