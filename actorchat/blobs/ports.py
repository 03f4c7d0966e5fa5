"""Defines `BlobStore`, the interface to stores of files' bytes, and its errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

import attrs

__all__ = ["BlobEntry", "BlobMissing", "BlobStore", "BlobsMisconfigured", "BlobsUnavailable", "blob_keys", "check_key"]

_KEY: Final = re.compile(r"[0-9a-z]{2}[0-9a-z._-]{1,98}")


class BlobMissing(LookupError):  # noqa: N818 - the state of a blob
    """There is no blob under this key."""


class BlobsUnavailable(Exception):  # noqa: N818 - a state of the storage
    """The bytes can't be stored or read now: a full disk, a lost connection. The text names the fault."""


class BlobsMisconfigured(BlobsUnavailable):
    """The bytes can't be stored or read with these settings: a wrong key, a missing bucket. The text says what."""


@attrs.frozen
class BlobEntry:
    """One stored blob: its key, its size in bytes, and when it was stored, in epoch seconds."""

    key: str
    size: int
    stored_at: float


class BlobStore(Protocol):
    """Stores blobs under keys: 3 to 100 characters of a-z, 0-9, `.`, `_` and `-`; the first two are a-z or 0-9.

    Every method raises ValueError for another key and `BlobsUnavailable` if storage fails. A cancelled call may still
    take effect. Calls about different keys may run at the same time.

    A store does not know whose blobs they are: the table `uploads` does. To delete the files of a person or a chat,
    delete their rows first, commit, and then call `delete` for both `blob_keys` of each file. To copy all files for a
    backup, copy the database first and then, for all `entries`, what `read` returns. A blob that is missing by then
    was deleted meanwhile.
    """

    @property
    def place(self) -> str:
        """Where the blobs are, for logs and errors. Without passwords."""

    @property
    def read_bytes(self) -> int:
        """How many bytes a caller that reads a whole blob should `read` at a time."""

    async def owner(self) -> str:
        """The name that `claim` has stored, "" if there is none."""

    async def claim(self, owner: str) -> str:
        """Store `owner`, a name of ASCII letters and digits, unless there is an owner; return the owner.

        Blobs without a row in the database are deleted, so two databases must never share a store.
        """

    async def prepare(self) -> Path:
        """A folder on a local disk for files that are to be `put`. It is made if it is missing."""

    async def put(self, key: str, path: Path) -> None:
        """Store the file at `path` under `key`, and remove that file.

        When this returns the bytes survive a crash of the machine. Readers see the old bytes or the new ones, never a
        part.
        """

    async def read(self, key: str, start: int, size: int) -> bytes:
        """`size` bytes from the offset `start` on; fewer where the blob ends. Raises `BlobMissing`."""

    async def delete(self, key: str) -> None:
        """Remove a blob. Nothing happens if there is none."""

    async def entries(self, after: str = "", limit: int = 1_000) -> tuple[BlobEntry, ...]:
        """The first `limit` blobs whose keys come after `after`, in the order of their keys."""

    async def clean(self) -> None:
        """Remove what a process that was killed left behind. Call it before the first `put`."""


def blob_keys(file: UUID) -> tuple[str, str]:
    """Return the keys of a file and of its preview, which not every file has."""
    return file.hex, f"{file.hex}.preview"


def check_key(key: str) -> None:
    """Raise ValueError unless `key` may name a blob."""
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"{key!r} is no key of a blob: 3 to 100 characters of a-z, 0-9, '.', '_' and '-'")
