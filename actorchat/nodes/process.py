"""Names the process of a node, so that a later one on the same machine can find out that it has ended."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

__all__ = ["has_ended", "name_process"]

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/pid")


def name_process() -> str:
    """A name for one server in this process, which no other server has: where it runs, its pid, and random digits."""
    return f"{_machine()} {os.getpid()} {secrets.token_hex(8)}"


def has_ended(process: str) -> bool:
    """Whether the process with this name has certainly ended. False also if it can't be seen from here."""
    machine, _, rest = process.partition(" ")
    pid = rest.partition(" ")[0]
    if not machine or machine != _machine() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _machine() -> str:
    """The place where processes see each other's pids: a boot of a machine, and a container. Linux only."""
    try:
        return f"{_BOOT.read_text().strip()}/{os.readlink(_NAMESPACE)}"
    except OSError:
        return ""
