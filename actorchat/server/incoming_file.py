"""Receives one upload into a file on the local disk."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from actorchat.blobs import BlobsUnavailable
from actorchat.blobs.media import HEAD_BYTES
from actorchat.http.problems import Problem
from actorchat.protocol import Attachment

__all__ = ["MIN_FREE_BYTES", "PREVIEW_SUFFIX", "IncomingFile", "check_free_space", "files_unavailable"]

_log: Final = logging.getLogger("actorchat.attachments")

MIN_FREE_BYTES: Final = 134_217_728
"""Disk space that uploads leave free for the database."""

PREVIEW_SUFFIX: Final = ".preview"

_WRITE_BYTES: Final = 262_144

Keep = Callable[[str, Path, int, bytes], Awaitable[Attachment]]
"""Checks and stores a file of this name, with this path, size and beginning."""


class IncomingFile:
    """An upload in progress, which is written to the file `path` (`actorchat.http.ports.Incoming`).

    `max_bytes` is the maximum size. `count` is called with the number of received bytes before they are written, and
    raises Problem to refuse them.
    """

    def __init__(self, path: Path, max_bytes: int, keep: Keep, count: Callable[[int], Awaitable[None]] | None) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._count = count
        self._size = 0
        self._head = b""
        self._buffer = bytearray()

    async def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._max_bytes:
            raise Problem("too_large", f"a file may have at most {self._max_bytes} bytes", path="file")
        if len(self._head) < HEAD_BYTES:
            self._head = (self._head + data)[:HEAD_BYTES]
        self._buffer += data
        if len(self._buffer) >= _WRITE_BYTES:
            await self._flush()

    async def finish(self, filename: str) -> Attachment:
        if not self._size:
            raise Problem("empty", "file: the file is empty", path="file")
        await self._flush()
        return await self._keep(filename, self._path, self._size, self._head)

    async def clean(self) -> None:
        """Remove the files of an unfinished upload."""
        # Shielded because a cancelled upload must be removed too. It takes two calls of the file system.
        with trio.CancelScope(shield=True):
            for path in (self._path, self._path.with_name(self._path.name + PREVIEW_SUFFIX)):
                await trio.Path(path).unlink(missing_ok=True)

    async def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        if self._count is not None:
            await self._count(len(data))
        try:
            await trio.to_thread.run_sync(_append, self._path, data)
        except OSError as error:
            raise files_unavailable(error) from None


async def check_free_space(folder: Path) -> None:
    """Raise BlobsUnavailable if the disk has less than `MIN_FREE_BYTES` left."""
    try:
        await trio.to_thread.run_sync(_check_free_space, folder)
    except OSError as error:
        raise BlobsUnavailable(str(error)) from None


def _check_free_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, f"{free} bytes are left, {MIN_FREE_BYTES} are kept for the database", str(folder))


def _append(path: Path, data: bytearray) -> None:
    # Checked before each part, because other uploads and other programs fill the disk as well.
    _check_free_space(path.parent)
    with path.open("ab") as file:
        file.write(data)


def files_unavailable(error: Exception) -> Problem:
    """Log why files can't be stored or read, and return the answer to the client."""
    _log.error("files can't be stored or read: %s", error)
    return Problem("storage_unavailable", "files can't be stored or read now; try again later")
