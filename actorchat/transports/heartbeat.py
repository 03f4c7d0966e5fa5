"""Owns time on all sockets of a transport: pings, silent peers, tokens that expire. One task for all.

Refuses to know what a socket is for.
"""

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
_SESSIONS_A_TURN: Final = 512


async def beat(sessions: Sessions, limits: Limits, wall: Callable[[], float] = time.time) -> None:
    """Look after `sessions` until cancelled, each within a second of when it is due.

    A peer is pinged `ping_every` seconds after it came, and so on; one that sent nothing for `silence`
    seconds is closed with 1011, unless it is this side that does not read. `wall` is the clock of
    `expires_at`. Sleeps while there are no sessions.
    """
    while True:
        await sessions.wait_any()
        await _sweep(sessions, limits, wall())
        await trio.sleep(_SWEEP_EVERY)


async def _sweep(sessions: Sessions, limits: Limits, wall_now: float) -> None:
    now = trio.current_time()
    ping_at = now + limits.ping_every
    silent_at = now + limits.silence
    for place, session in enumerate(sessions, 1):
        if session.heard or session.paused:
            session.heard = False
            session.silent_at = silent_at
        elif now >= session.silent_at:
            session.close(CloseCode.SERVER_FAILED, "no sign of life")
            continue
        if wall_now >= session.expires_at:
            session.close(CloseCode.NOT_AUTHENTICATED, "the token has expired")
        elif session.ping_at == inf:
            session.ping_at = ping_at
        elif now >= session.ping_at:
            session.ping_at = ping_at
            session.ping()
        if place % _SESSIONS_A_TURN == 0:
            await trio.lowlevel.checkpoint()
