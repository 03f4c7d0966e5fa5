"""Kinds of violations that the server is known for until their faults are fixed. A kind goes from here with its fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["OPEN_FAULTS"]

OPEN_FAULTS: Final[Mapping[str, str]] = {}
"""By kind: what is wrong."""
