"""Puts restored files in the place of old ones so that a killed restore takes effect completely or not at all.

The renames are written to a file first. From then on the restore has taken effect: if it is killed, the next restore or
the next start of the server completes the renames.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from actorchat.storage.database_lock import DatabaseLock, lock_database

__all__ = ["BackupFailed", "RestorePlan", "complete_restore", "sync_folder"]

PLAN_FILE: Final = "restore.json"


class BackupFailed(Exception):  # noqa: N818 - says what happened
    """A backup can't be made, read or restored. The text is one line for the administrator."""


@attrs.frozen
class RestorePlan:
    """The renames of one restore, in order. When the plan is made, no target exists.

    `stages` are folders that are empty after the renames.
    """

    moves: Sequence[tuple[Path, Path]]
    stages: Sequence[Path]

    def carry_out(self, folder: Path) -> None:
        """Write the plan to the data folder, and do the renames. The restored files must be on the disk already."""
        plan = folder / PLAN_FILE
        draft = folder / f"{PLAN_FILE}.draft"
        values = {
            "moves": [[str(old.absolute()), str(new.absolute())] for old, new in self.moves],
            "stages": [str(stage.absolute()) for stage in self.stages],
        }
        with draft.open("w", encoding="utf-8") as file:
            json.dump(values, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(plan)
        sync_folder(folder)
        self._rename(plan)

    def _rename(self, plan: Path) -> None:
        for old, new in self.moves:
            # A rename that was done before the process was killed is left out.
            if os.path.lexists(old) and not os.path.lexists(new):
                new.parent.mkdir(mode=0o700, exist_ok=True)
                os.rename(old, new)
        for changed in {path.parent for move in self.moves for path in move}:
            with suppress(FileNotFoundError):
                sync_folder(changed)
        for stage in self.stages:
            with suppress(OSError):
                stage.rmdir()
        plan.unlink()
        sync_folder(plan.parent)


def complete_restore(folder: Path, database: Path, lock: DatabaseLock | None = None) -> bool:
    """Finish a restore that was killed after it had taken effect. Returns whether there was one.

    `lock` is that of the database if the caller has it. Raises `StorageUnavailable` while a restore or a server runs,
    `BackupFailed` if the plan can't be read, and OSError if a file can't be renamed.
    """
    path = folder / PLAN_FILE
    if not os.path.lexists(path):
        return False
    own = lock_database(database) if lock is None else None
    held = lock or own
    try:
        if held is not None and held.path in held.created and not held.path.stat().st_size:
            # Locking has created an empty file in the place of the database.
            held.path.unlink()
        with suppress(FileNotFoundError):
            _read_plan(path)._rename(path)
            return True
        return False
    finally:
        if own is not None:
            own.release()


def _read_plan(path: Path) -> RestorePlan:
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text)
        moves = [(Path(old), Path(new)) for old, new in values["moves"]]
        stages = [Path(stage) for stage in values["stages"]]
    except (ValueError, KeyError, TypeError):
        raise BackupFailed(f"{path} is malformed: delete it and restore again") from None
    return RestorePlan(moves, stages)


def sync_folder(folder: Path) -> None:
    """Write the names in `folder` to the disk."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
