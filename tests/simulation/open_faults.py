"""Kinds of violations that the server is known for until their faults are fixed. A kind goes from here with its fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["OPEN_FAULTS"]

OPEN_FAULTS: Final[Mapping[str, str]] = {
    "malformed": "a socket of trio-websocket was closed with 1007 and no frame of it was noted (seed 922186494056)",
}
"""By kind: what is wrong."""
