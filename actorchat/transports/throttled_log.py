"""Logs what would be logged over and over again only now and then."""

from __future__ import annotations

import logging
from typing import Final

import trio

__all__ = ["ThrottledLog"]

PERIOD: Final = 60.0


class ThrottledLog:
    """A warning about a state that lasts: logged at once, then at most once in `period` seconds."""

    def __init__(self, logger: logging.Logger, period: float = PERIOD) -> None:
        self._logger = logger
        self._period = period
        self._next_at: float | None = None
        self._left_out = 0

    def __call__(self, message: str, *arguments: object) -> None:
        """Log `message % arguments`, and how often that was left out since the last time; or leave it out."""
        now = trio.current_time()
        if self._next_at is not None and now < self._next_at:
            self._left_out += 1
            return
        if self._left_out:
            message += " (%d times since it was last logged)"
            arguments += (self._left_out + 1,)
        self._next_at = now + self._period
        self._left_out = 0
        self._logger.warning(message, *arguments)
