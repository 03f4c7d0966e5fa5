"""Causes the faults of a run: each step of the plan for `nemesis` is one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from actorchat.testing.simulation.actor_crashes import PLACES
from actorchat.testing.simulation.network import Connection
from actorchat.testing.simulation.plan import NEMESIS

if TYPE_CHECKING:
    from actorchat.testing.simulation.chat_world import ChatWorld

__all__ = ["Nemesis"]

_LINGER: Final = 2.0
"""An operation that begins within this many seconds after a fault still counts as affected by it."""


class Nemesis:
    """Causes the faults in the world's plan. Each handler returns for how many seconds its fault lasts."""

    def __init__(self, world: ChatWorld) -> None:
        self._world = world
        self._handlers: Mapping[str, Callable[[int, int, int], Awaitable[float]]] = {
            "crash": self._crash,
            "crash_draining": self._crash_draining,
            "restart": self._restart,
            "away": self._away,
            "doubt": self._doubt,
            "slow_disk": self._slow_disk,
            "unreadable": self._unreadable,
            "cut": self._cut,
            "silence": self._silence,
            "slow_net": self._slow_net,
            "refuse": self._refuse,
            "sabotage": self._sabotage,
            "kill_room": self._kill_room,
            "clock": self._jump_clock,
            "files_away": self._files_away,
        }

    async def run(self) -> None:
        world = self._world
        for step in world.plan.steps:
            if step.who != NEMESIS:
                continue
            await trio.sleep_until(step.at)
            world.log(NEMESIS, step.verb, step.a, step.b, step.c)
            lasts = await self._handlers[step.verb](step.a, step.b, step.c)
            world.coverage.fault(step.verb, trio.current_time() + lasts + _LINGER)
        await trio.sleep_until(world.plan.setup.seconds)

    def calm(self) -> None:
        """End all faults."""
        world = self._world
        world.storage.calm()
        world.blobs.calm()
        world.crashes.calm()
        world.network.calm = True
        world.network.slow = 0.0
        world.network.refuse_until = -inf

    async def _crash(self, a: int, b: int, c: int) -> float:
        self._world.nursery.start_soon(lambda: self._world.process.crash(a / 100, silent=b % 4 == 0))
        return a / 100

    async def _restart(self, a: int, b: int, c: int) -> float:
        self._world.nursery.start_soon(self._world.process.restart, a / 200)
        return a / 200

    async def _crash_draining(self, a: int, b: int, c: int) -> float:
        """Ask the server to stop, and kill it while it drains."""
        process = self._world.process
        self._world.nursery.start_soon(process.restart, a / 200)
        await trio.sleep(b / 300)
        if process.stopping:
            self._world.log("CRASH while draining")
            process.kill(silent=c % 4 == 0)
        return a / 200

    async def _away(self, a: int, b: int, c: int) -> float:
        storage = self._world.storage
        storage.faults.append("away")
        storage.failing_recovers = a % 8
        return float(a % 8)

    async def _doubt(self, a: int, b: int, c: int) -> float:
        storage = self._world.storage
        storage.faults.append("stored" if b % 2 else "forgotten")
        storage.failing_recovers = a % 8
        return float(a % 8)

    async def _slow_disk(self, a: int, b: int, c: int) -> float:
        self._world.storage.slow_until = trio.current_time() + a / 100
        return a / 100

    async def _unreadable(self, a: int, b: int, c: int) -> float:
        self._world.storage.unreadable_until = trio.current_time() + a / 250
        return a / 250

    def _connection(self, pick: int) -> Connection | None:
        connections = self._world.network.connections
        return connections[pick % len(connections)] if connections else None

    async def _cut(self, a: int, b: int, c: int) -> float:
        connection = self._connection(a)
        if connection is not None:
            connection.cut()
        return 0.0

    async def _silence(self, a: int, b: int, c: int) -> float:
        connection = self._connection(a)
        if connection is not None:
            connection.silence(up=b % 3 != 0, down=b % 3 != 1)
        return 60.0

    async def _slow_net(self, a: int, b: int, c: int) -> float:
        self._world.network.slow = a / 400 if b % 2 else 0.0
        return 10.0 if b % 2 else 0.0

    async def _refuse(self, a: int, b: int, c: int) -> float:
        self._world.network.refuse_until = trio.current_time() + a / 100
        return a / 100

    async def _sabotage(self, a: int, b: int, c: int) -> float:
        """Make one of the next calls of a method inside the chat raise."""
        self._world.crashes.ask(a % len(PLACES), 1 + b % 4)
        return 5.0

    async def _kill_room(self, a: int, b: int, c: int) -> float:
        """Kill the actor of one room, unless it has timers, which would be lost."""
        server = self._world.process.server
        if server is not None:
            system = server._parts.chats._rooms._system
            rooms = [ref for ref in system.live() if len(ref.name) == 36 and not (ref._actor and ref._actor._timers)]
            if rooms:
                rooms[a % len(rooms)].kill()
        return 0.0

    async def _files_away(self, a: int, b: int, c: int) -> float:
        self._world.blobs.away_until = trio.current_time() + a / 100
        return a / 100

    async def _jump_clock(self, a: int, b: int, c: int) -> float:
        self._world.jump_clock((a - 300) / 10)
        return 0.0
