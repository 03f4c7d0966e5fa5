"""Limits how often a recurring warning is logged."""

from __future__ import annotations

import logging
from typing import Final

import trio

__all__ = ["ThrottledLog"]

PERIOD: Final = 60.0


class ThrottledLog:
    """Logs a warning at once, and repetitions of it at most once in `period` seconds."""

    def __init__(self, logger: logging.Logger, period: float = PERIOD) -> None:
        self._logger = logger
        self._period = period
        self._next_at: float | None = None
        self._suppressed = 0

    def __call__(self, message: str, *arguments: object) -> None:
        """Log `message % arguments` with the number of suppressed repetitions, or suppress it."""
        now = trio.current_time()
        if self._next_at is not None and now < self._next_at:
            self._suppressed += 1
            return
        if self._suppressed:
            message += " (%d times since it was last logged)"
            arguments += (self._suppressed + 1,)
        self._next_at = now + self._period
        self._suppressed = 0
        self._logger.warning(message, *arguments)
