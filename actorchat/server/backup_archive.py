"""Defines the format of backups, and reads them: a tar file whose last member has the checksums of all others.

Unpacked by hand, a backup is a data folder, and `sha256sum -c SHA256SUMS` checks it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import attrs

from actorchat.server.auth import SECRET_FILE
from actorchat.server.restore_plan import BackupFailed

__all__ = [
    "CHECKSUMS",
    "DATABASE",
    "FOLDER_FILES",
    "MANIFEST",
    "Manifest",
    "Member",
    "Report",
    "read_archive",
]

MANIFEST: Final = "backup.json"
DATABASE: Final = "actorchat.db"
CHECKSUMS: Final = "SHA256SUMS"
FOLDER_FILES: Final = (SECRET_FILE,)
"""Files of the data folder that a backup contains besides the database and the attachments."""

FORMAT: Final = "actorchat-backup"
VERSION: Final = 1

_CHUNK: Final = 1_048_576
_MAX_JSON: Final = 1_048_576
_ATTACHMENT: Final = re.compile(r"attachments/([0-9a-f]{2})/\1[0-9a-f]{30}(\.preview)?")
_CHECKSUM: Final = re.compile(r"([0-9a-f]{64})  ([^\n]+)")

Report = Callable[[int, int], None]


@attrs.frozen
class Manifest:
    """The first member of a backup. `created` is an ISO 8601 time, `actorchat` the version that made the backup."""

    created: str
    actorchat: str
    schema: str
    chats: int
    messages: int

    def encode(self) -> bytes:
        return json.dumps({"format": FORMAT, "version": VERSION, **attrs.asdict(self)}, indent=2).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, path: Path) -> Manifest:
        try:
            values = json.loads(data)
            if values.pop("format") != FORMAT:
                raise ValueError
            version = values.pop("version")
            if version != VERSION:
                raise BackupFailed(
                    f"{path} has version {version} of the backup format, but this version of actorchat reads version"
                    f" {VERSION}: use the newer version that made it"
                )
            fields = {field.name: values[field.name] for field in attrs.fields(cls)}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BackupFailed(f"{path} is not a backup of actorchat") from None
        return cls(**fields)


@attrs.frozen
class Member:
    """One file in a backup. `chunks` has its bytes, and must be read before the next member."""

    name: str
    size: int
    chunks: Iterator[bytes]


def read_archive(path: Path, report: Report) -> Iterator[Manifest | Member]:
    """Yield the manifest, then each other file; after the last one, check that the backup is complete and unchanged.

    Don't trust the content before the iteration has ended. Raises `BackupFailed`.
    """
    begun = False
    try:
        with path.open("rb") as file:
            total = path.stat().st_size
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for item in _members(archive, path, lambda: report(file.tell(), total)):
                    begun = True
                    yield item
    except tarfile.TarError:
        if not begun:
            raise BackupFailed(f"{path} is not a backup of actorchat") from None
        raise _damaged(path, "it is incomplete") from None
    except OSError as error:
        raise BackupFailed(f"{path} can't be read: {error.strerror or error}") from None
    report(total, total)


def _members(archive: tarfile.TarFile, path: Path, progress: Callable[[], None]) -> Iterator[Manifest | Member]:
    found: dict[str, str] = {}
    stated: dict[str, str] | None = None
    for entry in archive:
        name = entry.name
        known = name in (MANIFEST, DATABASE, CHECKSUMS, *FOLDER_FILES) or _ATTACHMENT.fullmatch(name) is not None
        if (not found and name != MANIFEST) or not known:
            raise BackupFailed(f"{path} is not a backup of actorchat: it contains {name!r}")
        file = archive.extractfile(entry)
        if not entry.isreg() or file is None or name in found or stated is not None:
            raise _damaged(path, f"{name} is unexpected")
        if name == CHECKSUMS:
            stated = _parse_checksums(file.read(), path)
            continue
        digest = hashlib.sha256()
        if name == MANIFEST:
            data = file.read(_MAX_JSON)
            digest.update(data)
            yield Manifest.decode(data, path)
        else:
            yield Member(name, entry.size, chunks := _chunks(file, path, digest, progress))
            for _ in chunks:
                pass
        found[name] = digest.hexdigest()
    if stated is None or DATABASE not in found:
        raise _damaged(path, "it is incomplete")
    for name in sorted(stated.keys() | found.keys()):
        if stated.get(name) != found.get(name):
            raise _damaged(path, f"the checksum of {name} differs" if name in found else f"{name} is missing")


def _chunks(file: IO[bytes], path: Path, digest: hashlib._Hash, progress: Callable[[], None]) -> Iterator[bytes]:
    while True:
        try:
            data = file.read(_CHUNK)
        except tarfile.TarError:
            raise _damaged(path, "it is incomplete") from None
        if not data:
            return
        digest.update(data)
        progress()
        yield data


def _parse_checksums(data: bytes, path: Path) -> dict[str, str]:
    lines = [_CHECKSUM.fullmatch(line) for line in data.decode(errors="replace").splitlines()]
    if None in lines:
        raise _damaged(path, f"{CHECKSUMS} is malformed")
    return {line[2]: line[1] for line in lines if line is not None}


def _damaged(path: Path, detail: str) -> BackupFailed:
    return BackupFailed(f"{path} is damaged: {detail}; use another backup")
