"""Stores blobs as files in a folder on a local disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from actorchat.blobs.ports import BlobEntry, BlobMissing, check_key
from actorchat.blobs.staging import StagingFolder, names_in

__all__ = ["LocalBlobs"]

_INCOMING: Final = "incoming"
_OWNER: Final = "owner"
"""Names in the folder that are no folders of blobs: those have two characters."""

_READ_BYTES: Final = 262_144


class LocalBlobs:
    """A `BlobStore` in `folder`, which is created with the first blob and accessible to its owner only.

    The first two characters of a key name a folder, so that no folder has very many files.
    """

    read_bytes: int = _READ_BYTES

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._staging = StagingFolder(folder / _INCOMING)
        self._run = self._staging.run

    @property
    def place(self) -> str:
        return str(self._folder)

    async def owner(self) -> str:
        return await self._run(self._owner)

    async def claim(self, owner: str) -> str:
        folder = await self._staging.prepare()
        return await self._run(partial(self._claim, owner, folder))

    async def prepare(self) -> Path:
        return await self._staging.prepare()

    async def put(self, key: str, path: Path) -> None:
        await self._run(partial(self._put, self._path(key), path))

    async def read(self, key: str, start: int, size: int) -> bytes:
        return await self._run(partial(self._read, self._path(key), key, start, size))

    async def delete(self, key: str) -> None:
        await self._run(partial(self._path(key).unlink, missing_ok=True))

    async def entries(self, after: str = "", limit: int = 1_000) -> tuple[BlobEntry, ...]:
        return await self._run(lambda: tuple(islice(self._entries(after), limit)))

    async def clean(self) -> None:
        await self._staging.clean()

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._folder / key[:2] / key

    def _owner(self) -> str:
        with suppress(FileNotFoundError):
            return (self._folder / _OWNER).read_text("ascii").strip()
        return ""

    def _claim(self, owner: str, incoming: Path) -> str:
        if found := self._owner():
            return found
        # A link never replaces a file: of two processes that claim the folder at once, one succeeds.
        draft = incoming / f"{_OWNER}-{secrets.token_hex(8)}"
        draft.write_text(owner, "ascii")
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, self._folder / _OWNER)
            _sync_folder(self._folder)
        draft.unlink(missing_ok=True)
        return self._owner()

    def _put(self, target: Path, path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(self._folder)
        path.replace(target)
        # The file's name is durable only after its folder is synced.
        _sync_folder(target.parent)

    def _read(self, path: Path, key: str, start: int, size: int) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(size)
        except FileNotFoundError:
            raise BlobMissing(f"there is no blob {key}") from None

    def _entries(self, after: str) -> Iterator[BlobEntry]:
        for folder in names_in(self._folder):
            if len(folder) != 2 or folder < after[:2]:
                continue
            for name in names_in(self._folder / folder):
                # Gone since its folder was read.
                with suppress(FileNotFoundError):
                    if name > after:
                        found = (self._folder / folder / name).stat()
                        yield BlobEntry(name, found.st_size, found.st_mtime)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        # Windows opens no folders, and writes a name together with its file.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
