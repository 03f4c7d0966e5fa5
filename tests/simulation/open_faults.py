"""Kinds of violations that the server is known for until their faults are fixed. A kind goes from here with its fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["OPEN_FAULTS"]

OPEN_FAULTS: Final[Mapping[str, str]] = {
    "typing-overflow": "a full outbox drops the stop of typing, and it is never told again",
    "feed-order": "a commit in doubt, or a crashed room, with a console connecting",
    "feed-order-after-crash": "as above",
    "counters-first": "as above",
    "counters-first-after-crash": "as above",
    "chat-repeat": "as above: chat_updated is told twice",
    "drain-over-crash": "draining overtakes the recovery of a crashed room",
}
"""By kind: what is wrong."""
