"""Implements `actorchat migrate`."""

from __future__ import annotations

from pathlib import Path

import click

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail, warn
from actorchat.cli.options import config_option, data_option, storage_option
from actorchat.cli.output import echo
from actorchat.cli.text import counted
from actorchat.server.settings import InvalidSettings
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

    Stop the server first; the command locks its database. The database stays where it is. If the command is
    interrupted, run it again: it goes on where it was. No server opens the new database before both are the same.
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
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    try:
        with show_progress(rows=True) as progress:
            rows = migrate_storage(settings, target, skip_unpublished=skip_unpublished, progress=progress)
    except MigrationFailed as error:
        fail((error,), FAILED)
    except KeyboardInterrupt:
        fail(("interrupted: run the command again, and it goes on where it was",), FAILED)
    echo(f"{counted(rows, 'row')} copied and compared. Start the server with --storage {without_secrets(target)}")
    if not settings.attachments.store:
        warn(("the files of chats are still in the data folder: several servers need one bucket for them",))
