"""Scans uploaded files with a scan command or a scan service."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from actorchat.http.problems import Problem
from actorchat.server.settings import AttachmentSettings
from actorchat.urls import without_secrets

if TYPE_CHECKING:
    import httpx

__all__ = ["Scanner", "open_scanner"]

_log: Final = logging.getLogger("actorchat.attachments")

MAX_SCANS: Final = 4
"""Files that are scanned at a time. Others wait."""

_REJECTED: Final = 1
"""The exit status with which the scan command rejects a file."""

_REJECTED_STATUS: Final = frozenset({406, 422})
"""The statuses with which the scan service rejects a file."""

_END_SECONDS: Final = 2.0
"""How long a scan command that is ended may take before it is killed."""

_READ_BYTES: Final = 262_144


class Scanner:
    """Scans files as the settings say, made by `open_scanner`."""

    def __init__(self, settings: AttachmentSettings, http: httpx.AsyncClient | None) -> None:
        self._command = settings.scan
        self._url = settings.scan_url
        self._seconds = settings.scan_seconds
        self._http = http
        self._scans = trio.CapacityLimiter(MAX_SCANS)

    async def scan(self, path: Path) -> None:
        """Return if the file is accepted, or if there is no scanner.

        Raises Problem `attachment_rejected` for a file that is rejected, and `overloaded` for one that can't be judged
        now.
        """
        if not self._command and self._http is None:
            return
        verdict: bool | str = "it did not finish"
        async with self._scans:
            with trio.move_on_after(self._seconds):
                verdict = await (self._post(path, self._http) if self._http is not None else self._run(path))
        if verdict is False:
            raise Problem("attachment_rejected", "the file was rejected by the scanner", path="file")
        if verdict is not True:
            _log.error("a file was not scanned and is refused: %s", verdict)
            raise Problem("overloaded", "the file could not be scanned now; try again later")

    async def _run(self, path: Path) -> bool | str:
        """Run the scan command. Returns whether it accepts the file, or why that is not known."""
        try:
            done = await trio.run_process(
                [*self._command, str(path)],
                check=False,
                stdin=b"",
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # The server's secrets are none of its business.
                env={name: value for name, value in os.environ.items() if not name.startswith("ACTORCHAT_")},
                **_PROCESS_GROUP,
            )
        except OSError as error:
            return f"the scan command can't be run: {error}"
        if done.returncode in (0, _REJECTED):
            return done.returncode == 0
        return f"the scan command ended with status {done.returncode}"

    async def _post(self, path: Path, http: httpx.AsyncClient) -> bool | str:
        """Send the file to the scan service. Returns whether it accepts the file, or why that is not known."""
        import httpx  # Slow to import, and loaded only with a scan service.

        size = (await trio.Path(path).stat()).st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        place = without_secrets(self._url)
        try:
            # The body of the answer is not read.
            async with http.stream("POST", self._url, content=_chunks(path), headers=headers) as answer:
                status = answer.status_code
        except httpx.HTTPError as error:
            return f"{place} can't be reached: {str(error) or type(error).__name__}"
        if 200 <= status < 300 or status in _REJECTED_STATUS:
            return status not in _REJECTED_STATUS
        return f"{place} answered with status {status}"


@asynccontextmanager
async def open_scanner(settings: AttachmentSettings) -> AsyncIterator[Scanner]:
    """Open the scanner of the settings. The first scan connects to the service."""
    if not settings.scan_url:
        yield Scanner(settings, None)
        return
    import httpx  # Slow to import.

    # `Scanner.scan` bounds the time.
    async with httpx.AsyncClient(timeout=settings.scan_seconds, limits=httpx.Limits(max_connections=MAX_SCANS)) as http:
        yield Scanner(settings, http)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    async with await trio.open_file(path, "rb") as file:
        while data := await file.read(_READ_BYTES):
            yield data


async def _end_group(process: trio.Process) -> None:
    """End a scan command that takes too long, with the processes that it has started."""
    try:
        _send_group(process, signal.SIGTERM)
        await trio.sleep(_END_SECONDS)
    finally:
        # Ends what is left of the group when the command itself has ended.
        _send_group(process, signal.SIGKILL)


def _send_group(process: trio.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


# Any: these are options of `trio.run_process`. Windows has no groups of processes.
_PROCESS_GROUP: Final[dict[str, Any]] = (
    {"start_new_session": True, "deliver_cancel": _end_group} if os.name == "posix" else {}
)
