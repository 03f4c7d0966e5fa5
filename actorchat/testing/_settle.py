"""Owns the end of waiting in tests: when is everything done? Knows no time: nothing is slept for."""

from __future__ import annotations

import trio
import trio.testing

from actorchat.actors import ActorSystem

__all__ = ["settle"]


async def settle(system: ActorSystem) -> None:
    """Wait till every actor of `system` is parked on an empty inbox, no pipe runs, and no other task has work to do.

    Exact when it returns. Set timers and sleeping tasks outside the system don't count.
    """
    while True:
        await trio.testing.wait_all_tasks_blocked()
        if system.settled:
            return
        await system.wait_settled()
