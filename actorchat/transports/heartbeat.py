"""Pings all sockets of a transport from one task, and closes those that are silent, stuck or out of date."""

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
"""If the time between two sweeps exceeds this, the process was stopped or overloaded, and has not read its sockets."""

_SESSIONS_PER_CHECKPOINT: Final = 512


async def beat(sessions: Sessions, limits: Limits, wall: Callable[[], float] = time.time) -> None:
    """Ping `sessions` and enforce their time limits until cancelled, within a second of the due time.

    Every peer is pinged each `ping_every` seconds. A peer that has sent nothing for `silence` seconds is closed with
    1011, unless this server has paused reading from it, or the peer is still receiving queued data. A peer that has
    received nothing of its queued data for `stuck` seconds is closed with 1013. A session whose `expires_at` has passed
    on the clock `wall` is closed with 4401. Time in which the process did not run does not count. Sleeps while there
    are no sessions.
    """
    running = _RunningTime(trio.current_time())
    while True:
        await sessions.wait_any()
        running.update(trio.current_time())
        await _sweep(sessions, limits, running, wall())
        await trio.sleep(_SWEEP_EVERY)


class _RunningTime:
    """Counts in `seconds` the time in which this process has run.

    `may_close` is false after a gap, because data that peers sent during the gap has not been read yet. It is never
    false twice in a row, so that a process that is always late still closes dead peers.
    """

    def __init__(self, now: float) -> None:
        self.seconds = 0.0
        self.may_close = True
        self._updated_at = now

    def update(self, now: float) -> None:
        passed, self._updated_at = now - self._updated_at, now
        self.seconds += min(passed, _LATE)
        self.may_close = passed <= _LATE or not self.may_close


async def _sweep(sessions: Sessions, limits: Limits, running: _RunningTime, wall_now: float) -> None:
    now = trio.current_time()
    ping_at = now + limits.ping_every
    seconds = running.seconds
    silent_at = seconds + limits.silence
    for count, session in enumerate(sessions, 1):
        stuck_for = session.outbox.stuck_for(seconds)
        # Queued data precedes the ping, so a slow peer that is still receiving it has not seen the ping yet.
        if session.heard or session.paused or stuck_for == 0:
            session.heard = False
            session.silent_at = silent_at
        elif seconds >= session.silent_at and running.may_close:
            session.close(CloseCode.SERVER_FAILED, "no answer to pings")
            continue
        if stuck_for is not None and stuck_for >= limits.stuck and running.may_close:
            session.give_up()
        elif wall_now >= session.expires_at:
            session.close(CloseCode.NOT_AUTHENTICATED, "the token has expired")
        elif session.ping_at == inf:
            session.ping_at = ping_at
        elif now >= session.ping_at:
            session.ping_at = ping_at
            session.ping()
        if count % _SESSIONS_PER_CHECKPOINT == 0:
            await trio.lowlevel.checkpoint()
