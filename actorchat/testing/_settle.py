"""Waits in tests, without sleeping, until an actor system has nothing left to do."""

from __future__ import annotations

import trio
import trio.testing

from actorchat.actors import ActorSystem

__all__ = ["settle"]


async def settle(system: ActorSystem) -> None:
    """Wait until every inbox of `system` is empty, no pipe runs, and every task in the process is blocked.

    All of that is true when it returns. It does not wait for timers that are set, nor for tasks that sleep.
    """
    while True:
        await trio.testing.wait_all_tasks_blocked()
        if system.settled:
            return
        await system.wait_settled()
