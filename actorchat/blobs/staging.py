"""Keeps files on the local disk until a store takes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import trio

from actorchat.blobs.ports import BlobsUnavailable

__all__ = ["StagingFolder", "names_in"]

T = TypeVar("T")

_THREADS: Final = 4
"""Calls that wait for the disk at one time."""


class StagingFolder:
    """A folder for files that are not stored yet. It and its parent are made at the first upload, for their owner only.

    Methods raise `BlobsUnavailable` if the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = trio.CapacityLimiter(_THREADS)

    async def prepare(self) -> Path:
        """Make the folder if it is missing, and return it."""
        await self.run(self._make)
        return self._folder

    async def clean(self) -> None:
        """Remove the files that a killed process has left."""
        await self.run(self._clean)

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call`, which waits for the disk, in a thread."""
        try:
            return await trio.to_thread.run_sync(call, limiter=self._threads)
        except OSError as error:
            raise BlobsUnavailable(f"{error.filename or self._folder}: {error.strerror or error}") from error

    def _make(self) -> None:
        # One by one, because `mode` applies to the last folder of a path only.
        for folder in (self._folder.parent, self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _clean(self) -> None:
        for name in names_in(self._folder):
            (self._folder / name).unlink(missing_ok=True)


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in `folder`, none if it does not exist. Raises OSError."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
