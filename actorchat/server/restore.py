"""Restores a backup into a data folder. The old files are kept in a folder beside it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from actorchat.chat.ports import StorageUnavailable
from actorchat.server.backup import BackupProgress, database_of
from actorchat.server.backup_archive import (
    DATABASE,
    FOLDER_FILES,
    Manifest,
    Member,
    read_archive,
)
from actorchat.server.bootstrap import StartFailed, new_folder
from actorchat.server.restore_plan import BackupFailed, RestorePlan, complete_restore, sync_folder
from actorchat.server.settings import DEFAULT_DATA, Settings
from actorchat.storage.database_lock import DatabaseLock, lock_database
from actorchat.storage.error_messages import describe_os_error
from actorchat.storage.factory import search_path
from actorchat.storage.move_record import record_path
from actorchat.storage.snapshot import check_copy
from actorchat.storage.store import StoreUrlError

__all__ = ["Restored", "restore_backup"]

_STAGE: Final = "restore.incoming"
_ATTACHMENTS: Final = "attachments"
_LOGS: Final = ("-wal", "-shm", "-journal")


@attrs.frozen
class Restored:
    """A restored backup. `kept` are the folders with the old files."""

    manifest: Manifest
    files: int
    kept: tuple[Path, ...]


@attrs.frozen
class _Target:
    """A file or folder that the backup replaces. It is unpacked in a folder beside it, and renamed."""

    path: Path

    @property
    def stage(self) -> Path:
        return self.path.parent / _STAGE

    @property
    def incoming(self) -> Path:
        return self.stage / self.path.name


def restore_backup(settings: Settings, source: Path, *, force: bool, progress: BackupProgress) -> Restored:
    """Restore the backup `source` into the data folder and the database of `settings`.

    If there are chats already, `force` is required, and the old files are moved to a new folder `before-restore-…`.
    Nothing changes until the whole backup is unpacked and checked. Raises `BackupFailed`; then the old state stays.
    """
    folder = (settings.folder or DEFAULT_DATA).absolute()
    try:
        with new_folder(folder), _locked(folder, database_of(settings)) as lock:
            targets = _targets(folder, lock.path)
            old = [target.path for target in targets.values() if _holds_something(target.path)]
            if old and not force:
                raise BackupFailed(
                    f"{old[0]} exists: restore into an empty folder, or use --force, which moves what is there to"
                    f" {folder / 'before-restore-…'}"
                )
            stages = {target.stage for target in targets.values()}
            for stage in stages:
                shutil.rmtree(stage, ignore_errors=True)
            try:
                manifest, files = _unpack(source, targets, progress)
                if files and settings.attachments.store:
                    raise BackupFailed(
                        "the backup has files, but attachments.store names a bucket: restore without that setting, then"
                        " copy the folder attachments to the bucket"
                    )
                check_copy(targets[DATABASE].incoming)
                _hand_over(stages, folder)
                plan = _plan(targets, stages)
            except BaseException:
                for stage in stages:
                    shutil.rmtree(stage, ignore_errors=True)
                raise
            _discard_empty(lock)
            plan.carry_out(folder)
            kept = sorted({new.parent for old_path, new in plan.moves if old_path.parent.name != _STAGE})
            return Restored(manifest, files, tuple(kept))
    except (StorageUnavailable, StoreUrlError, StartFailed) as error:
        raise BackupFailed(str(error)) from None
    except OSError as error:
        raise BackupFailed(describe_os_error(Path(error.filename or folder), error)) from None


@contextmanager
def _locked(folder: Path, database: Path) -> Iterator[DatabaseLock]:
    """Lock the database against a server, and finish an earlier restore that was killed."""
    lock = lock_database(database)
    try:
        complete_restore(folder, lock.path, lock)
        yield lock
    except BaseException:
        if _discard_empty(lock):
            for path in lock.created:
                path.unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _targets(folder: Path, database: Path) -> dict[str, _Target]:
    targets = {DATABASE: _Target(database), _ATTACHMENTS: _Target((folder / _ATTACHMENTS).resolve())}
    targets |= {name: _Target(folder / name) for name in FOLDER_FILES}
    for target in targets.values():
        if os.path.ismount(target.path):
            raise BackupFailed(f"{target.path} is a mount point, which can't be renamed: mount its parent instead")
    return targets


def _holds_something(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    # The lock creates an empty file, and an empty file is an empty database.
    return path.is_symlink() or (path.exists() and path.stat().st_size > 0)


def _unpack(source: Path, targets: dict[str, _Target], progress: BackupProgress) -> tuple[Manifest, int]:
    """Unpack the backup into the stages, check it, and write it to the disk."""
    for target in targets.values():
        target.stage.mkdir(mode=0o700, exist_ok=True)
    attachments = targets[_ATTACHMENTS].incoming
    attachments.mkdir(mode=0o700)
    manifest: Manifest | None = None
    files = 0
    for item in read_archive(source, progress.begin("unpacking and checking the backup")):
        if not isinstance(item, Member):
            manifest = item
            continue
        if item.name in targets:
            path = targets[item.name].incoming
        else:
            path = attachments / Path(item.name).relative_to(_ATTACHMENTS)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            files += 1
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for chunk in item.chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    for path in (attachments, *attachments.iterdir(), *(target.stage for target in targets.values())):
        sync_folder(path)
    assert manifest is not None  # noqa: S101 - the first item is the manifest
    return manifest, files


def _hand_over(stages: set[Path], folder: Path) -> None:
    """Give the files to the owner of the data folder if the superuser restores them for a service."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    owner = folder.stat()
    for stage in stages:
        for place, _, names in os.walk(stage):
            for path in (place, *(os.path.join(place, name) for name in names)):
                os.chown(path, owner.st_uid, owner.st_gid)


def _plan(targets: dict[str, _Target], stages: set[Path]) -> RestorePlan:
    """Plan to move the old files away, then the restored files to their places."""
    aside = time.strftime("before-restore-%Y%m%d-%H%M%S")
    number = 1
    while any((target.path.parent / aside).exists() for target in targets.values()):
        number += 1
        aside = f"{aside.partition('.')[0]}.{number}"
    restored = [target for target in targets.values() if target.incoming.exists()]
    away = [target.path for target in restored]
    database = targets[DATABASE].path
    # The search index belongs to the old content. The server makes a new one.
    for path in (database, search_path(database)):
        away += [path.with_name(path.name + suffix) for suffix in _LOGS]
    # The record of a move is about the old content, too.
    away += [search_path(database), record_path(database)]
    # An empty database is only that of the lock, and is deleted before the renames.
    replaced = [path for path in away if os.path.lexists(path) and (path != database or _holds_something(path))]
    moves = [(path, path.parent / aside / path.name) for path in replaced]
    return RestorePlan([*moves, *((target.incoming, target.path) for target in restored)], sorted(stages))


def _discard_empty(lock: DatabaseLock) -> bool:
    """Delete an empty file in the place of the database, such as locking creates. Returns whether there was one."""
    if not lock.path.exists() or lock.path.stat().st_size:
        return False
    lock.path.unlink()
    return True
