"""Implements `actorchat check-config`, which reports every error in the settings without starting a server."""

from __future__ import annotations

from pathlib import Path

import click

from actorchat.cli.errors import BAD_SETTINGS, fail, warn
from actorchat.cli.options import settings_options
from actorchat.cli.output import echo
from actorchat.server.bootstrap import check_files, file_warnings, missing_files
from actorchat.server.settings import InvalidSettings
from actorchat.server.settings_loader import load_settings, unknown_variables

__all__ = ["check_config"]


@click.command("check-config", short_help="Check the settings.")
@settings_options
def check_config(config: Path | None, **options: object) -> None:
    """Check the settings and report all errors at once, without starting a server.

    Takes the options of `actorchat serve`, reads the same environment variables, and exits with 2 on any error.

    \b
    Example:
      actorchat check-config --config actorchat.toml
    """
    warn(unknown_variables())
    try:
        settings = load_settings(config, options, missing_files)
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    faults = check_files(settings)
    if faults:
        fail(faults, BAD_SETTINGS)
    warn(file_warnings(settings))
    echo("The settings are valid.")
