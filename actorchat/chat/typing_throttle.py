"""Owns when a user's typing is passed on: at most four times a second, the latest wins, a stop is never lost.

Pure values: callers bring the time and keep the timers.
"""

from __future__ import annotations

import attrs

from actorchat.protocol import User

__all__ = ["INTERVAL", "SILENCE", "Typed", "TypingThrottle", "Typist"]

INTERVAL = 0.25
"""Seconds between two updates of one user."""

SILENCE = 6.0
"""Seconds after which somebody who says nothing more has stopped."""


@attrs.frozen
class Typed:
    """What to pass on."""

    text: str
    stopped: bool


_STOP = Typed("", stopped=True)


class TypingThrottle:
    """One user in one room. `on` = the last thing passed on was no stop."""

    __slots__ = ("_pending", "_sent_at", "on")

    def __init__(self) -> None:
        self.on: bool = False
        self._sent_at = -INTERVAL
        self._pending: Typed | None = None

    def update(self, text: str, stopped: bool, now: float) -> Typed | float | None:
        """What to pass on now, or in how many seconds to call `due`, or None: nothing new to do."""
        if stopped and not self.on:
            self._pending = None
            return None
        typed = _STOP if stopped else Typed(text, stopped=False)
        wait = self._sent_at + INTERVAL - now
        if wait <= 0:
            return self._emit(typed, now)
        waiting, self._pending = self._pending is not None, typed
        return None if waiting else wait

    def due(self, now: float) -> Typed | None:
        """What waited for its turn."""
        return None if self._pending is None else self._emit(self._pending, now)

    def stop(self, now: float) -> Typed | None:
        """The user sent, left or fell silent: the stop to pass on at once, if typing was on."""
        self._pending = None
        return self._emit(_STOP, now) if self.on else None

    def _emit(self, typed: Typed, now: float) -> Typed:
        self.on, self._sent_at, self._pending = not typed.stopped, now, None
        return typed


@attrs.define(eq=False)
class Typist:
    """Somebody who was typing a moment ago."""

    user: User
    throttle: TypingThrottle = attrs.Factory(TypingThrottle)
