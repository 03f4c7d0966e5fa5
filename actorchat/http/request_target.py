"""Splits a request's target: in absolute form, as some proxies send it, it names the host beside the path."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["split_target"]

_ABSOLUTE: Final = re.compile(r"https?://([^/?#]+)([^#]*)", re.IGNORECASE)


def split_target(target: str) -> tuple[str | None, str]:
    """The host of a target in absolute form, None in any other form; and the target without it.

    The host of an absolute target stands for the header `Host` (RFC 9112, 3.2.2).
    """
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return None, target
    host, rest = absolute.groups()
    return host, rest if rest.startswith("/") else f"/{rest}"
