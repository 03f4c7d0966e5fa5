"""Stores blobs as files in a folder on a local disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import trio

from actorchat.blobs.ports import BlobEntry, BlobMissing, BlobsUnavailable, check_key

__all__ = ["LocalBlobs"]

T = TypeVar("T")

_THREADS: Final = 4
"""Calls that wait for the disk at one time."""

_INCOMING: Final = "incoming"
"""Files that are not stored yet. No folder of blobs has a name of this length."""


class LocalBlobs:
    """A `BlobStore` in `folder`, which is made when something is stored first, for its owner only.

    The first two characters of a key name a folder, so that no folder has very many files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / _INCOMING
        self._threads = trio.CapacityLimiter(_THREADS)

    async def prepare(self) -> Path:
        await self._run(self._make_folders)
        return self._incoming

    async def put(self, key: str, path: Path) -> None:
        await self._run(partial(self._put, self._path(key), path))

    async def read(self, key: str, start: int, size: int) -> bytes:
        return await self._run(partial(self._read, self._path(key), key, start, size))

    async def delete(self, key: str) -> None:
        await self._run(partial(self._path(key).unlink, missing_ok=True))

    async def entries(self, after: str = "", limit: int = 1_000) -> tuple[BlobEntry, ...]:
        return await self._run(lambda: tuple(islice(self._entries(after), limit)))

    async def clean(self) -> None:
        await self._run(self._clean)

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(call, limiter=self._threads)
        except OSError as error:
            raise BlobsUnavailable(f"{error.filename or self._folder}: {error.strerror or error}") from error

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._folder / key[:2] / key

    def _make_folders(self) -> None:
        # One by one: parents are made with other rights.
        for folder in (self._folder, self._incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _put(self, target: Path, path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(self._folder)
        path.replace(target)
        # The name is on disk only when its folder is.
        _sync_folder(target.parent)

    def _read(self, path: Path, key: str, start: int, size: int) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(size)
        except FileNotFoundError:
            raise BlobMissing(f"there is no blob {key}") from None

    def _entries(self, after: str) -> Iterator[BlobEntry]:
        for folder in _names(self._folder):
            if len(folder) != 2 or folder < after[:2]:
                continue
            for name in _names(self._folder / folder):
                # Gone since its folder was read.
                with suppress(FileNotFoundError):
                    if name > after:
                        found = (self._folder / folder / name).stat()
                        yield BlobEntry(name, found.st_size, found.st_mtime)

    def _clean(self) -> None:
        for name in _names(self._incoming):
            (self._incoming / name).unlink(missing_ok=True)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        # Windows opens no folders, and writes a name together with its file.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
