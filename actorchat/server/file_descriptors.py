"""Raises the limit for open files, and computes how many connections fit under it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

__all__ = ["connections_that_fit", "raise_open_file_limit"]

MAX_WANTED: Final = 1_048_576
"""The limit that is asked for at most: some systems refuse `unlimited`, and no server needs more."""

RESERVE: Final = 64
"""Descriptors kept free of connections, so that the storage can always reopen its files."""


def raise_open_file_limit() -> None:
    """Raise this process's soft limit for open files as far as the system lets it. Never fails."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS may refuse its own hard limit; 10,240 always works there.
    for wanted in (MAX_WANTED, 10_240):
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= limit:
            return
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return


def connections_that_fit() -> int | None:
    """Return how many connections fit beside the files that are open now and a reserve; None if there is no limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    return max(1, soft - _open_descriptors() - min(RESERVE, soft // 4))


def _open_descriptors() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(folder))
    return RESERVE
