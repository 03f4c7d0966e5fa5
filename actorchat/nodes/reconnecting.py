"""Keeps one connection of a bus open: it opens a new one, with growing delays, whenever the last one has failed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf
from random import Random
from typing import Final

import trio

__all__ = ["BusUnavailable", "Line"]

_log = logging.getLogger("actorchat.nodes")

FIRST_DELAY, LAST_DELAY = 0.05, 2.0
"""Seconds between attempts to reach the bus: the first delay, then up to the last. Half of each is random."""

WARNING_PERIOD: Final = 60.0


class BusUnavailable(Exception):  # noqa: N818 - a state of the bus
    """The bus can't be reached. The text is one line that says why; it holds no password."""


class Line:
    """The state of a bus's connection. `problem` says why there is none; `name` is used in the log."""

    def __init__(self, name: str, random: Random) -> None:
        self.problem: str | None = None
        self._name = name
        self._random = random
        self._delay = FIRST_DELAY
        self._warned_at = -inf
        self._listening = trio.Event()

    def up(self) -> None:
        """The bus is connected and listens."""
        if self.problem is not None:
            _log.warning("%s can be reached again", self._name)
        self.problem, self._delay = None, FIRST_DELAY
        self._listening.set()

    async def keep(self, connect: Callable[[], Awaitable[object]], task_status: trio.TaskStatus[None]) -> None:
        """Call `connect` again and again, until cancelled. It raises `BusUnavailable` when its connection fails."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, connect)
            await self._listening.wait()
            task_status.started()

    async def _keep(self, connect: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await connect()
            except BusUnavailable as error:
                self._down(str(error))
            await trio.sleep(self._delay * self._random.uniform(0.5, 1))
            self._delay = min(self._delay * 2, LAST_DELAY)

    def _down(self, reason: str) -> None:
        now = trio.current_time()
        if now - self._warned_at >= WARNING_PERIOD:
            self._warned_at = now
            effect = "nodes hear of each other a second later, from the database, if it can be reached"
            _log.error("%s can't be reached, %s: %s", self._name, effect, reason)
        self.problem = reason
        self._listening.set()
