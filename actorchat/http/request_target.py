"""Splits a request target in absolute form, as some proxies send it, into host and path."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["split_target"]

_ABSOLUTE: Final = re.compile(r"https?://([^/?#]+)([^#]*)", re.IGNORECASE)


def split_target(target: str) -> tuple[str | None, str]:
    """Return the host of a target in absolute form, None for any other form; and the target without the host.

    The host of an absolute target replaces the header `Host` (RFC 9112, section 3.2.2).
    """
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return None, target
    host, rest = absolute.groups()
    return host, rest if rest.startswith("/") else f"/{rest}"
