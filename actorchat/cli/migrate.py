"""Implements `actorchat migrate`."""

from __future__ import annotations

import shlex
from pathlib import Path

import attrs
import click

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail, warn
from actorchat.cli.options import config_option, data_option, storage_option
from actorchat.cli.output import echo
from actorchat.cli.text import counted
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings
from actorchat.server.settings_loader import load_settings
from actorchat.urls import without_secrets

__all__ = ["migrate"]


@click.command(short_help="Move the chats from SQLite to PostgreSQL.")
@click.argument("target", metavar="POSTGRESQL-URL")
@data_option
@storage_option
@config_option
@click.option("--skip-unpublished", is_flag=True, help="Move although message brokers lack some commits.")
def migrate(target: str, data: Path | None, storage: str | None, config: Path | None, skip_unpublished: bool) -> None:
    """Copy everything in the SQLite database of a stopped server to an empty PostgreSQL database, and compare both.

    Stop the server first; the command locks its database. The old database stays, but no server starts with it again.
    If the command is interrupted, run it again: it goes on where it was. No server opens the new database before both
    are the same.
    The data folder is still needed: it has the secret and the files of chats.

    \b
    Examples:
      actorchat migrate postgresql://actorchat@db.example.com/actorchat --data /var/lib/actorchat
      actorchat serve --storage postgresql://actorchat@db.example.com/actorchat --data /var/lib/actorchat
    """
    from actorchat.cli.progress import show_progress
    from actorchat.server.storage_migration import MigrationFailed, migrate_storage

    try:
        settings = load_settings(config, {"data": data, "storage": storage})
        if data is not None and storage is None and settings.database_file is None:
            # The environment or the file names the new storage already, and --data the old one.
            settings = attrs.evolve(settings, storage=None, bus="auto", workers=1)
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    try:
        with show_progress(rows=True) as progress:
            moved = migrate_storage(settings, target, skip_unpublished=skip_unpublished, progress=progress)
    except MigrationFailed as error:
        fail((error,), FAILED)
    except KeyboardInterrupt:
        fail(("interrupted: run the command again, and it goes on where it was",), FAILED)
    shown = without_secrets(target)
    named = shlex.quote(target) if shown == target else f"and this URL, with the password that is hidden here: {shown}"
    echo(f"{counted(moved.rows, 'row')} copied and compared. Start the server with --storage {named}")
    if moved.files and not settings.attachments.store:
        where = (settings.folder or DEFAULT_DATA) / "attachments"
        warn((f"the files of chats are still in {where}: several servers need them in a bucket or a shared folder",))
