"""Formats and parses times on the wire."""

import re
from datetime import UTC, datetime
from typing import Final

# In Python, "$" alone also matches before a final line feed. JavaScript has no "\Z".
WIRE_TIME_PATTERN: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[+-][0-9]{2}:[0-9]{2}$(?!\n)"
_wire_time = re.compile(WIRE_TIME_PATTERN)


def wire_time(epoch_seconds: int) -> str:
    """Format whole seconds since 1970 as ``YYYY-MM-DDTHH:MM:SS+00:00``, always in UTC."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat()


def parse_wire_time(text: str) -> datetime:
    """Parse ``YYYY-MM-DDTHH:MM:SS±HH:MM``. The result has that offset.

    Raises ValueError for every other format, including ``Z``, and for dates that do not exist.
    """
    if _wire_time.fullmatch(text) is None:
        raise ValueError(f"expected YYYY-MM-DDTHH:MM:SS±HH:MM, got {text!r}")
    return datetime.fromisoformat(text)
