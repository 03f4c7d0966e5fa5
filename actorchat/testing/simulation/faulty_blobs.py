"""The bytes of files in a simulation: a store in memory with delays and faults, which outlives the simulated server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import trio

from actorchat.blobs import BlobEntry, BlobMissing, BlobsUnavailable
from actorchat.blobs.ports import check_key
from actorchat.server.settings import Settings

__all__ = ["FaultyBlobs"]


class FaultyBlobs:
    """A `BlobStore` whose calls raise `BlobsUnavailable` until the time `away_until`. `wall` returns epoch seconds.

    A call that fails, or that is cancelled by a crash, may still have taken effect. `folder` is for files that are not
    stored yet.
    """

    place: str = "the simulated store"
    read_bytes: int = 4_096

    def __init__(self, random: Random, wall: Callable[[], float], folder: Path) -> None:
        self.blobs: dict[str, tuple[bytes, float]] = {}
        self.away_until: float = 0.0
        self._random = random
        self._wall = wall
        self._calm = False
        self._folder = folder

    @asynccontextmanager
    async def open_blobs(self, settings: Settings) -> AsyncIterator[FaultyBlobs]:
        """Replaces `actorchat.server.attachment_store.open_blobs`."""
        await trio.lowlevel.checkpoint()
        yield self

    def calm(self) -> None:
        """End all faults."""
        self._calm = True
        self.away_until = 0.0

    async def owner(self) -> str:
        return ""

    async def claim(self, owner: str) -> str:
        return owner

    async def prepare(self) -> Path:
        await self._wait()
        return self._folder

    async def put(self, key: str, path: Path) -> None:
        check_key(key)
        await self._wait()
        file = trio.Path(path)
        self.blobs[key] = (await file.read_bytes(), self._wall())
        await file.unlink()
        await self._wait()

    async def read(self, key: str, start: int, size: int) -> bytes:
        await self._wait()
        if key not in self.blobs:
            raise BlobMissing(f"there is no blob {key}")
        return self.blobs[key][0][start : start + size]

    async def delete(self, key: str) -> None:
        await self._wait()
        self.blobs.pop(key, None)

    async def entries(self, after: str = "", limit: int = 1_000) -> tuple[BlobEntry, ...]:
        await self._wait()
        keys = sorted(key for key in self.blobs if key > after)[:limit]
        return tuple(BlobEntry(key, len(self.blobs[key][0]), self.blobs[key][1]) for key in keys)

    async def clean(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _wait(self) -> None:
        await trio.sleep(0.0 if self._calm else self._random.choice((0.0, 0.001, 0.05, 0.3)))
        if trio.current_time() < self.away_until:
            raise BlobsUnavailable("as planned")
