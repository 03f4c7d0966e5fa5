"""Owns how a command ends that can't do its work: lines on stderr and an exit status, never a traceback.

Refuses to know what went wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NoReturn

import click

__all__ = ["BAD_SETTINGS", "FAILED", "fail", "warn"]

FAILED = 1
BAD_SETTINGS = 2


def warn(lines: Iterable[object]) -> None:
    """Print a line for each of `lines`; what is done goes on."""
    for line in lines:
        click.echo(f"actorchat: warning: {line}", err=True)


def fail(lines: Iterable[object], status: int) -> NoReturn:
    """Print a line for each of `lines` and exit with `status`."""
    for line in lines:
        click.echo(f"actorchat: {line}", err=True)
    sys.exit(status)
