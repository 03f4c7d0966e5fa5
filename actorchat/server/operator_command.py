"""Makes the options of commands with which an operator on the server's machine can sign in."""

from __future__ import annotations

import shlex

from actorchat.server.settings import DEFAULT_DATA, Settings

__all__ = ["folder_option", "operator_options"]


def folder_option(settings: Settings) -> str:
    """Return the option for the data folder of the server, quoted for a shell."""
    return f"--data {shlex.quote(str((settings.folder or DEFAULT_DATA).absolute()))}"


def operator_options(settings: Settings) -> str:
    """Return the options of `actorchat chat` for an operator, quoted for a shell."""
    if settings.secret is not None:
        source = settings.sources[0] if settings.sources else "lk"
        return f'--token "$(actorchat token --role operator --user-id 1 --source {source})"'
    return folder_option(settings)
