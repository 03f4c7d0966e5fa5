"""Implements `actorchat backup` and `actorchat restore`."""

from __future__ import annotations

from pathlib import Path

import click

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail, warn
from actorchat.cli.options import config_option, data_option, storage_option
from actorchat.cli.output import echo
from actorchat.cli.text import counted, one_line
from actorchat.server.settings import InvalidSettings, Settings
from actorchat.server.settings_loader import load_settings

__all__ = ["backup", "restore"]

_file = click.argument("file", type=click.Path(path_type=Path))


@click.command(short_help="Back up chats, files and the secret, also while the server runs.")
@_file
@data_option
@storage_option
@config_option
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def backup(file: Path, data: Path | None, storage: str | None, config: Path | None, force: bool) -> None:
    """Write a backup of a server on this machine to FILE, which only its owner can read.

    It contains the database as of one moment, the files of chats and the signing secret. The server may run meanwhile.
    FILE appears when the backup is complete and checked. It is a tar file; unpacked by hand, it is a data folder.

    \b
    Examples:
      actorchat backup /backup/actorchat.tar --data /var/lib/actorchat --force
      actorchat backup "/backup/actorchat-$(date +%F).tar" --data /var/lib/actorchat
    """
    from actorchat.cli.progress import file_size, show_progress
    from actorchat.server.backup import write_backup
    from actorchat.server.restore_plan import BackupFailed

    settings = _load(data, storage, config)
    try:
        with show_progress() as progress:
            written = write_backup(settings, file, overwrite=force, progress=progress)
    except BackupFailed as error:
        fail((error,), FAILED)
    except KeyboardInterrupt:
        fail(("stopped: no backup was written",), FAILED)
    contents = f"{_contents(written.manifest.chats, written.manifest.messages)}, {counted(written.files, 'file')}"
    echo(f"{one_line(str(file))}: {contents}, {file_size(written.size)}, checked")
    if settings.attachments.store:
        warn(("the files of chats are in a bucket and not in the backup: back up the bucket after the database",))
    if not written.has_secret:
        warn(("the backup has no secret: keep the one of the settings with it",))
    if written.missing:
        names = ", ".join(written.missing[:3]) + (", …" if len(written.missing) > 3 else "")
        warn((f"{counted(len(written.missing), 'file')} of chats had been lost before the backup: {names}",))


@click.command(short_help="Restore a backup.")
@_file
@data_option
@storage_option
@config_option
@click.option("--force", is_flag=True, help="Replace existing chats, which are moved to another folder.")
@click.option("--check", is_flag=True, help="Only check that FILE is complete and unchanged.")
def restore(file: Path, data: Path | None, storage: str | None, config: Path | None, force: bool, check: bool) -> None:
    """Restore the backup FILE into a data folder. Stop the server first.

    Everything is unpacked and checked before anything changes, so a restore that fails or is killed leaves the old
    state. With --force, what was there is moved to a folder before-restore-…, which you may delete.

    \b
    Examples:
      actorchat restore /backup/actorchat.tar --check
      actorchat restore /backup/actorchat.tar --data /var/lib/actorchat --force
    """
    from actorchat.cli.progress import show_progress
    from actorchat.server.backup import check_backup
    from actorchat.server.backup_archive import Manifest
    from actorchat.server.restore import restore_backup
    from actorchat.server.restore_plan import BackupFailed

    kept: tuple[Path, ...] = ()
    try:
        with show_progress() as progress:
            manifest: Manifest
            if check:
                manifest = check_backup(file, progress)
            else:
                restored = restore_backup(_load(data, storage, config), file, force=force, progress=progress)
                manifest, kept = restored.manifest, restored.kept
    except BackupFailed as error:
        fail((error,), FAILED)
    except KeyboardInterrupt:
        fail(("stopped: nothing was restored, or the next start of the server completes it",), FAILED)
    done = "is complete" if check else "is restored"
    contents = f"{_contents(manifest.chats, manifest.messages)}, made {one_line(manifest.created)}"
    echo(f"{one_line(str(file))} {done}: {contents} by actorchat {one_line(manifest.actorchat)}")
    for folder in kept:
        echo(f"What was there before is in {one_line(str(folder))}")


def _contents(chats: int, messages: int) -> str:
    return f"{counted(chats, 'chat')}, {counted(messages, 'message')}"


def _load(data: Path | None, storage: str | None, config: Path | None) -> Settings:
    try:
        return load_settings(config, {"data": data, "storage": storage})
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
