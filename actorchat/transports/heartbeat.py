"""Looks after time on all sockets of a transport, in one task: pings, silent and stuck peers, tokens that expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Final

import trio

from actorchat.protocol import CloseCode
from actorchat.transports.ports import Limits
from actorchat.transports.session import Sessions

__all__ = ["beat"]

_SWEEP_EVERY: Final = 1.0
_LATE: Final = 2 * _SWEEP_EVERY
"""A sweep that comes later than this after the one before: this process was stopped, or had no time to read."""

_SESSIONS_A_TURN: Final = 512


async def beat(sessions: Sessions, limits: Limits, wall: Callable[[], float] = time.time) -> None:
    """Look after `sessions` until cancelled, each within a second of when it is due.

    A peer is pinged `ping_every` seconds after it came, and so on. One that sent nothing for `silence` seconds is
    closed with 1011, unless it is this side that does not read, or the peer still takes what waits for it. One that
    took nothing of that for `stuck` seconds is closed with 1013. Only time in which this process could have read
    counts. `wall` is the clock of `expires_at`. Sleeps while there are no sessions.
    """
    watch = _Watch(trio.current_time())
    while True:
        await sessions.wait_any()
        watch.look(trio.current_time())
        await _sweep(sessions, limits, watch, wall())
        await trio.sleep(_SWEEP_EVERY)


class _Watch:
    """Counts the time in which this process has run, in `seconds`.

    After a gap nobody is judged: what peers sent meanwhile has yet to be read. But for every second time, so that a
    process that is always late judges as well.
    """

    def __init__(self, now: float) -> None:
        self.seconds = 0.0
        self.judges = True
        self._looked_at = now

    def look(self, now: float) -> None:
        passed, self._looked_at = now - self._looked_at, now
        self.seconds += min(passed, _LATE)
        self.judges = passed <= _LATE or not self.judges


async def _sweep(sessions: Sessions, limits: Limits, watch: _Watch, wall_now: float) -> None:
    now = trio.current_time()
    ping_at = now + limits.ping_every
    seconds = watch.seconds
    silent_at = seconds + limits.silence
    for place, session in enumerate(sessions, 1):
        stuck_for = session.outbox.stuck_for(seconds)
        # What waits goes before the ping: a slow peer that takes it has not been asked yet.
        if session.heard or session.paused or stuck_for == 0:
            session.heard = False
            session.silent_at = silent_at
        elif seconds >= session.silent_at and watch.judges:
            session.close(CloseCode.SERVER_FAILED, "no sign of life")
            continue
        if stuck_for is not None and stuck_for >= limits.stuck and watch.judges:
            session.give_up()
        elif wall_now >= session.expires_at:
            session.close(CloseCode.NOT_AUTHENTICATED, "the token has expired")
        elif session.ping_at == inf:
            session.ping_at = ping_at
        elif now >= session.ping_at:
            session.ping_at = ping_at
            session.ping()
        if place % _SESSIONS_A_TURN == 0:
            await trio.lowlevel.checkpoint()
