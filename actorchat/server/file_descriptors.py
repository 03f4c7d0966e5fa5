"""Sees to it that there are enough file descriptors: for connections, and beside them for the storage."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

__all__ = ["connections_that_fit", "raise_open_file_limit"]

MOST: Final = 1_048_576
"""No more are asked for: some systems refuse `unlimited`, and more is no use."""

RESERVE: Final = 64
"""Descriptors that no connection gets: the storage can always close its files and open them again."""


def raise_open_file_limit() -> None:
    """Raise this process's soft limit for open files as far as the system lets it. Never fails."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS allows fewer than its hard limit says.
    for wanted in (MOST, 10_240):
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= most:
            return
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return


def connections_that_fit() -> int | None:
    """How many connections may be open beside what is open now and a reserve; None if the system sets no limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    return max(1, soft - _open_now() - min(RESERVE, soft // 4))


def _open_now() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(folder))
    return RESERVE
