"""Runs `actorchat serve` in a process of its own."""

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import trio

import actorchat

TIMEOUT = 30.0


class ServerProcess:
    """A running server. `output` has what was read from its stdout so far, `log` what was read from its stderr."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = ""
        self.log = ""

    @property
    def url(self) -> str:
        match = re.search(r"https?://\S+", self.output)
        assert match, f"no address in {self.output!r}"
        return match[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def read_until(self, words: str) -> None:
        assert self.process.stdout is not None
        while words not in self.output:
            data = await self.process.stdout.receive_some()
            assert data, f"it ended after {self.output!r}: {await self.rest_of_stderr()!r}"
            self.output += data.decode()

    async def read_log_until(self, words: str) -> None:
        assert self.process.stderr is not None
        while words not in self.log:
            data = await self.process.stderr.receive_some()
            assert data, f"it ended after {self.log!r}"
            self.log += data.decode()

    async def rest_of_stderr(self) -> str:
        assert self.process.stderr is not None
        while data := await self.process.stderr.receive_some():
            self.log += data.decode()
        return self.log

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit status."""
        self.process.send_signal(number)
        return await self.process.wait()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any settings of actorchat, and with the package under test importable."""
    # A terminal has its own size, and parallel test runners set these variables for their output.
    unwanted = ("LINES", "COLUMNS")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("ACTORCHAT_") and name not in unwanted
    }
    home = Path(actorchat.__file__).parent.parent
    return {**kept, "PYTHONPATH": str(home), **(extra or {})}


@asynccontextmanager
async def open_server_process(
    folder: Path, *options: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[ServerProcess]:
    """Run `actorchat serve` with these options in `folder`; kill it at the end if it still runs."""
    command = [sys.executable, "-m", "actorchat", "serve", *options]
    with trio.fail_after(TIMEOUT):
        process = await trio.lowlevel.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=folder, env=environment(env)
        )
        try:
            yield ServerProcess(process)
        finally:
            if process.poll() is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()
