"""Limits a user's typing updates to four per second; the latest wins, and a stop is never lost.

It has no clock and no timers: callers pass the time and call again when told to.
"""

from __future__ import annotations

import attrs

from actorchat.protocol import User

__all__ = ["INTERVAL", "SILENCE", "Typed", "TypingThrottle", "Typist"]

INTERVAL = 0.25
"""Seconds between two updates of one user."""

SILENCE = 6.0
"""Seconds without an update after which a user is considered to have stopped typing."""


@attrs.frozen
class Typed:
    """A typing update to send."""

    text: str
    stopped: bool


_STOP = Typed("", stopped=True)


class TypingThrottle:
    """Throttles the updates of one user in one room. `on` is true after an update was sent and until a stop is sent."""

    __slots__ = ("_pending", "_sent_at", "on")

    def __init__(self) -> None:
        self.on: bool = False
        self._sent_at = -INTERVAL
        self._pending: Typed | None = None

    def update(self, text: str, stopped: bool, now: float) -> Typed | float | None:
        """Return an update to send now, or the seconds after which to call `due`, or None if there is nothing to do."""
        if stopped and not self.on:
            self._pending = None
            return None
        typed = _STOP if stopped else Typed(text, stopped=False)
        wait = self._sent_at + INTERVAL - now
        if wait <= 0:
            return self._emit(typed, now)
        timer_is_set, self._pending = self._pending is not None, typed
        return None if timer_is_set else wait

    def due(self, now: float) -> Typed | None:
        """Return the update that had to wait, if there is one."""
        return None if self._pending is None else self._emit(self._pending, now)

    def stop(self, now: float) -> Typed | None:
        """Return the stop to send at once, if typing was on: the user sent a message, left or was silent for long."""
        self._pending = None
        return self._emit(_STOP, now) if self.on else None

    def _emit(self, typed: Typed, now: float) -> Typed:
        self.on, self._sent_at, self._pending = not typed.stopped, now, None
        return typed


@attrs.define(eq=False)
class Typist:
    """A user who is typing or was recently, with their throttle."""

    user: User
    throttle: TypingThrottle = attrs.Factory(TypingThrottle)
