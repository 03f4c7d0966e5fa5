"""Makes the options of `actorchat chat` with which an operator on the server's machine can sign in."""

from __future__ import annotations

import shlex

from actorchat.server.settings import DEFAULT_DATA, Settings

__all__ = ["operator_options"]


def operator_options(settings: Settings) -> str:
    """Return the options, quoted for a shell."""
    if settings.secret is not None:
        source = settings.sources[0] if settings.sources else "lk"
        return f'--token "$(actorchat token --role operator --user-id 1 --source {source})"'
    return f"--data {shlex.quote(str((settings.folder or DEFAULT_DATA).absolute()))}"
