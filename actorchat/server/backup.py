"""Writes a backup of the database, the secret and the attachments, also while the server runs.

The database is copied first. By then every file that it names is on the disk; the files are copied next.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final

import attrs

from actorchat.chat.ports import StorageUnavailable
from actorchat.server.backup_archive import (
    CHECKSUMS,
    DATABASE,
    FOLDER_FILES,
    MANIFEST,
    Manifest,
    Member,
    Report,
    read_archive,
)
from actorchat.server.restore_plan import BackupFailed, sync_folder
from actorchat.server.settings import DEFAULT_DATA, Settings
from actorchat.storage.error_messages import describe_os_error
from actorchat.storage.snapshot import FileRow, check_copy, copy_database, file_exists_in, list_files
from actorchat.storage.store import StoreUrlError

__all__ = ["Backup", "BackupProgress", "check_backup", "database_of", "write_backup"]

_BLOCK: Final = 1_048_576


class BackupProgress:
    """Receives the progress of a backup or restore. This class ignores it."""

    def begin(self, step: str) -> Report:
        """Begin a step. The result is called with the number of bytes done and the total."""
        return lambda done, total: None


@attrs.frozen
class Backup:
    """A backup that was written and checked. `missing` are files that had already been lost before the backup."""

    manifest: Manifest
    files: int
    size: int
    has_secret: bool
    missing: tuple[str, ...]


def database_of(settings: Settings) -> Path:
    """Return the path of the SQLite database. Raises `BackupFailed` for other storage."""
    if (path := settings.database_file) is not None:
        return path
    if settings.storage_url == "memory://":
        raise BackupFailed("memory:// stores nothing: there is nothing to back up or restore")
    folder = settings.folder or DEFAULT_DATA
    raise BackupFailed(
        "this is for SQLite: back up and restore a PostgreSQL database with pg_dump or pgBackRest, and with it the"
        f" folder {folder / 'attachments'} and the file {folder / 'secret'}"
    )


def write_backup(settings: Settings, target: Path, *, overwrite: bool, progress: BackupProgress) -> Backup:
    """Write a backup to the file `target`, which appears when it is complete and checked.

    An existing file is replaced only with `overwrite`. Raises `BackupFailed`; then no file is left or replaced.
    """
    database = database_of(settings)
    folder = settings.folder or DEFAULT_DATA
    if not database.is_file():
        raise BackupFailed(f"{database} does not exist: is --data the folder of the server?")
    if target.is_dir():
        raise BackupFailed(f"{target} is a folder: name a file in it")
    if not overwrite and os.path.lexists(target):
        raise BackupFailed(f"{target} exists: name another file, or replace it with --force")
    try:
        with ExitStack() as stack:
            partial, file = stack.enter_context(_partial_file(target))
            copy = partial.with_name(f"{partial.name}.db")
            copy.unlink(missing_ok=True)
            stack.callback(copy.unlink, missing_ok=True)
            copy_database(database, copy, progress.begin("copying the database"))
            summary = check_copy(copy)
            created = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = Manifest(created, version("actorchat"), summary.schema, summary.chats, summary.messages)
            # Files in a bucket are backed up by the means of that service.
            rows = () if settings.attachments.store else list_files(copy)
            backup = _write(file, manifest, copy, rows, database, folder, progress)
            file.flush()
            os.fsync(file.fileno())
            check_backup(partial, progress)
            os.replace(partial, target)
        sync_folder(target.absolute().parent)
    except (StorageUnavailable, StoreUrlError) as error:
        raise BackupFailed(f"the database can't be backed up: {error}") from None
    except OSError as error:
        raise BackupFailed(describe_os_error(Path(error.filename or target), error)) from None
    return attrs.evolve(backup, size=target.stat().st_size)


def _write(
    file: IO[bytes],
    manifest: Manifest,
    copy: Path,
    rows: Sequence[FileRow],
    database: Path,
    folder: Path,
    progress: BackupProgress,
) -> Backup:
    total = copy.stat().st_size + sum(row.size + row.preview_size for row in rows)
    report = progress.begin("writing the backup")
    with _Writer(file, lambda done: report(min(done, total), total)) as writer:
        return _write_members(writer, manifest, copy, rows, database, folder)


def _write_members(
    writer: _Writer, manifest: Manifest, copy: Path, rows: Sequence[FileRow], database: Path, folder: Path
) -> Backup:
    names = {f"attachments/{row.uuid[:2]}/{row.uuid}": row for row in rows}
    names |= {f"{name}.preview": row for name, row in names.items() if row.preview_size}
    writer.add_bytes(MANIFEST, manifest.encode())
    with copy.open("rb") as content:
        writer.add(DATABASE, content)
    has_secret = False
    for name in FOLDER_FILES:
        with suppress(FileNotFoundError):
            writer.add_bytes(name, (folder / name).read_bytes())
            has_secret = True
    files, missing = 0, []
    for name, row in sorted(names.items()):
        try:
            content = (folder / name).open("rb")
        except FileNotFoundError:
            # Usually the file's row was deleted after the database was copied, and then the file.
            if file_exists_in(database, row.uuid):
                missing.append(name)
            continue
        with content:
            writer.add(name, content)
        files += 1
    writer.finish()
    return Backup(manifest, files, 0, has_secret, tuple(missing))


def check_backup(path: Path, progress: BackupProgress) -> Manifest:
    """Read a whole backup and compare its checksums. Raises `BackupFailed`."""
    manifest: Manifest | None = None
    for item in read_archive(path, progress.begin("checking the backup")):
        if not isinstance(item, Member):
            manifest = item
    assert manifest is not None  # noqa: S101 - the first item is the manifest
    return manifest


class _Writer:
    """Writes members to a tar file, then their checksums. `report` is called with the bytes written so far."""

    def __init__(self, file: IO[bytes], report: Callable[[int], None]) -> None:
        self._archive = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed in __exit__
        self._checksums: list[str] = []
        self._time = int(time.time())
        self._report = report
        self._done = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._archive.close()

    def add_bytes(self, name: str, data: bytes) -> None:
        self.add(name, io.BytesIO(data))

    def add(self, name: str, content: IO[bytes]) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = content.seek(0, os.SEEK_END)
        content.seek(0)
        entry.mode, entry.mtime = 0o600, self._time
        reader = _HashingReader(content, self._read)
        self._archive.addfile(entry, reader)
        if name != CHECKSUMS:
            self._checksums.append(f"{reader.digest.hexdigest()}  {name}\n")

    def finish(self) -> None:
        self.add_bytes(CHECKSUMS, "".join(self._checksums).encode())

    def _read(self, size: int) -> None:
        self._done += size
        self._report(self._done)


class _HashingReader(io.RawIOBase):
    """Reads a file for `tarfile`, and computes its checksum. `report` is called with the size of each part."""

    def __init__(self, file: IO[bytes], report: Callable[[int], None]) -> None:
        self._file = file
        self._report = report
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self._report(len(data))
        return data


@contextmanager
def _partial_file(target: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Open the file beside `target` that becomes the backup, for the owner only. It is deleted if it still exists.

    What a killed backup has left is overwritten. Raises `BackupFailed` while another backup writes to it.
    """
    path = target.absolute().with_name(f"{target.name}.partial")
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "w+b", _BLOCK)
    with file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupFailed(f"another backup is being written to {target}") from None
        file.truncate()
        try:
            yield path, file
        finally:
            path.unlink(missing_ok=True)
