"""Prints warnings and errors on stderr, one line each, and exits with a failure status."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NoReturn

from actorchat.cli.output import echo
from actorchat.cli.text import one_line

__all__ = ["BAD_SETTINGS", "FAILED", "fail", "warn"]

FAILED = 1
BAD_SETTINGS = 2


def warn(lines: Iterable[object], *, as_json: bool = False) -> None:
    """Print a warning for each of `lines` and return. With `as_json`, in the format of the JSON log."""
    for line in lines:
        _print("warning", str(line), as_json)


def fail(lines: Iterable[object], status: int, *, as_json: bool = False) -> NoReturn:
    """Print an error for each of `lines` and exit with `status`. `as_json` as in `warn`."""
    for line in lines:
        _print("error", str(line), as_json)
    sys.exit(status)


def _print(level: str, line: str, as_json: bool) -> None:
    if as_json:
        # Same keys as `actorchat.server.logging_setup`, without its logging library, which is slow to import.
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        record = {"event": line, "level": level, "logger": "actorchat.cli", "timestamp": now}
        echo(json.dumps(record), err=True)
    else:
        echo(f"actorchat: {'warning: ' if level == 'warning' else ''}{one_line(line)}", err=True)
