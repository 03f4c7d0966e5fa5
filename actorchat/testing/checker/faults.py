"""Plays faults on servers, on their connections, on the database and on the bus, chosen by a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from itertools import combinations
from random import Random
from typing import Final

import attrs
import trio

from actorchat.testing.checker.machines import FailsOver, Machine
from actorchat.testing.checker.node import NodeProcess
from actorchat.testing.checker.proxies import HeldCommit, Proxy

__all__ = ["FAULTS", "Fault", "FaultPlayer", "Part", "Played", "Scene", "all_pairs", "possible_faults"]

_REST_SECONDS: Final = (3, 10)
"""For how long a database or bus that was killed is left alone, at least and at most."""

_COMMIT_SECONDS: Final = 3.0
"""How long a fault waits for a server to commit something."""


class Part(Enum):
    """The part that a fault breaks. At most one fault breaks the same part of the same server at a time."""

    PROCESS = auto()
    DATABASE_LINE = auto()
    BUS_LINE = auto()
    DATABASE = auto()
    BUS = auto()


@attrs.frozen
class Scene:
    """The servers, the database and the bus that faults break."""

    nodes: Sequence[NodeProcess]
    database: Machine | None = None
    bus: Machine | None = None


_Play = Callable[[Scene, NodeProcess, Random], Awaitable[bool]]
"""Breaks something, and puts it right again before it returns whether there was something to break."""


@attrs.frozen
class Fault:
    """A fault. `text` says what happens, as the second half of a sentence about its part."""

    part: Part
    text: str
    play: _Play


@attrs.frozen
class Played:
    """A fault that was played on `node`, by the seconds of the check. `until` is None if it has not ended."""

    name: str
    node: str
    since: float
    until: float | None = None


# The process


async def _kill(scene: Scene, node: NodeProcess, random: Random) -> bool:
    node.kill()
    await trio.sleep(random.uniform(0, 1))
    await node.start()
    return True


async def _restart(scene: Scene, node: NodeProcess, random: Random) -> bool:
    await node.stop()
    await node.start()
    return True


async def _freeze(scene: Scene, node: NodeProcess, random: Random) -> bool:
    node.freeze()
    try:
        await trio.sleep(random.uniform(0.1, 4))
    finally:
        node.thaw()
    return True


async def _freeze_long(scene: Scene, node: NodeProcess, random: Random) -> bool:
    node.freeze()
    try:
        await trio.sleep(random.uniform(11, 14))
    finally:
        node.thaw()
    return True


async def _freeze_at_commit(scene: Scene, node: NodeProcess, random: Random) -> bool:
    held = await node.proxy.hold_commit(_COMMIT_SECONDS)
    if held is None:
        return False
    node.freeze()
    try:
        await trio.sleep(random.choice((0.2, 1, 5)))
    finally:
        node.thaw()
        held.forward()
    return True


# Its connections to the database, and to the bus


async def _cut_some_times(proxy: Proxy, random: Random) -> None:
    for _ in range(random.randint(1, 4)):
        proxy.cut()
        await trio.sleep(random.uniform(0, 0.3))


async def _stall_proxy(proxy: Proxy, random: Random) -> None:
    proxy.stall()
    try:
        await trio.sleep(random.uniform(0.1, 2))
    finally:
        proxy.flow()


async def _shut_proxy(proxy: Proxy, random: Random) -> None:
    proxy.shut()
    try:
        await trio.sleep(random.uniform(0.5, 5))
    finally:
        proxy.open()


async def _lose_notes(proxy: Proxy, random: Random) -> None:
    proxy.loss = 0.3
    try:
        await trio.sleep(random.uniform(1, 5))
    finally:
        proxy.loss = 0.0


async def _shuffle_notes(proxy: Proxy, random: Random) -> None:
    proxy.shuffle = 0.3
    try:
        await trio.sleep(random.uniform(1, 5))
    finally:
        proxy.shuffle = 0.0


def _on_database_line(play: Callable[[Proxy, Random], Awaitable[None]]) -> _Play:
    async def on_line(scene: Scene, node: NodeProcess, random: Random) -> bool:
        await play(node.proxy, random)
        return True

    return on_line


def _on_bus_line(play: Callable[[Proxy, Random], Awaitable[None]]) -> _Play:
    async def on_line(scene: Scene, node: NodeProcess, random: Random) -> bool:
        if node.bus is None:
            return False
        await play(node.bus, random)
        return True

    return on_line


# A COMMIT


def _on_commit(play: Callable[[HeldCommit, Random], Awaitable[None]]) -> _Play:
    async def on_commit(scene: Scene, node: NodeProcess, random: Random) -> bool:
        held = await node.proxy.hold_commit(_COMMIT_SECONDS)
        if held is None:
            return False
        await play(held, random)
        return True

    return on_commit


async def _lose_commit(held: HeldCommit, random: Random) -> None:
    held.lose()
    await trio.lowlevel.checkpoint()


async def _lose_answer(held: HeldCommit, random: Random) -> None:
    held.forward_unanswered()
    await trio.lowlevel.checkpoint()


async def _late_commit(held: HeldCommit, random: Random) -> None:
    await held.hang_up()
    # After three seconds the database has ended the transaction.
    await trio.sleep(random.choice((0.1, 0.6, 2, 6)))
    held.forward()


# The servers behind them


async def _kill_machine(machine: Machine | None, random: Random) -> bool:
    if machine is None:
        return False
    await trio.to_thread.run_sync(machine.kill)
    await trio.sleep(random.uniform(0, 2))
    await trio.to_thread.run_sync(machine.start)
    # Servers that were starting meanwhile get the time to start again.
    await trio.sleep(random.uniform(*_REST_SECONDS))
    return True


async def _kill_database(scene: Scene, node: NodeProcess, random: Random) -> bool:
    return await _kill_machine(scene.database, random)


async def _fail_over(scene: Scene, node: NodeProcess, random: Random) -> bool:
    if not isinstance(scene.database, FailsOver):
        return False
    await trio.to_thread.run_sync(scene.database.fail_over)
    return True


async def _kill_bus(scene: Scene, node: NodeProcess, random: Random) -> bool:
    return await _kill_machine(scene.bus, random)


async def _all_buses_away(scene: Scene, node: NodeProcess, random: Random) -> bool:
    proxies = [each.bus for each in scene.nodes if each.bus is not None]
    for proxy in proxies:
        proxy.shut()
    try:
        await trio.sleep(random.uniform(1, 10))
    finally:
        for proxy in proxies:
            proxy.open()
    return bool(proxies)


FAULTS: Final[dict[str, Fault]] = {
    "kill": Fault(Part.PROCESS, "a server is killed, and started again", _kill),
    "restart": Fault(Part.PROCESS, "a server drains, ends, and is started again", _restart),
    "freeze": Fault(Part.PROCESS, "a server does nothing for a while", _freeze),
    "freeze-long": Fault(Part.PROCESS, "a server does nothing until the others take it for dead", _freeze_long),
    "freeze-commit": Fault(Part.PROCESS, "a server freezes between its writes and COMMIT", _freeze_at_commit),
    "cut": Fault(Part.DATABASE_LINE, "its connections to the database are cut", _on_database_line(_cut_some_times)),
    "stall": Fault(Part.DATABASE_LINE, "what it and the database send is late", _on_database_line(_stall_proxy)),
    "away": Fault(Part.DATABASE_LINE, "the database can't be reached from it", _on_database_line(_shut_proxy)),
    "commit-lost": Fault(Part.DATABASE_LINE, "the connection is cut before COMMIT arrives", _on_commit(_lose_commit)),
    "answer-lost": Fault(Part.DATABASE_LINE, "the connection is cut after COMMIT", _on_commit(_lose_answer)),
    "commit-late": Fault(
        Part.DATABASE_LINE, "the connection is cut, and COMMIT arrives later", _on_commit(_late_commit)
    ),
    "bus-cut": Fault(Part.BUS_LINE, "its connections to the bus are cut", _on_bus_line(_cut_some_times)),
    "bus-stall": Fault(Part.BUS_LINE, "what it and the bus send is late", _on_bus_line(_stall_proxy)),
    "bus-away": Fault(Part.BUS_LINE, "the bus can't be reached from it", _on_bus_line(_shut_proxy)),
    "bus-loss": Fault(Part.BUS_LINE, "30 % of the notes to it are lost", _on_bus_line(_lose_notes)),
    "bus-shuffle": Fault(Part.BUS_LINE, "notes to it are repeated and reordered", _on_bus_line(_shuffle_notes)),
    "no-bus": Fault(Part.BUS, "no server can reach the bus", _all_buses_away),
    "bus-kill": Fault(Part.BUS, "the server of the bus is killed, and started again", _kill_bus),
    "database-kill": Fault(Part.DATABASE, "the database is killed, and started again", _kill_database),
    "failover": Fault(Part.DATABASE, "the database is killed, and its standby takes over", _fail_over),
}

_ON_COMMIT: Final = {"freeze-commit", "commit-lost", "answer-lost", "commit-late"}


def possible_faults(*, bus: str, database_machine: Machine | None, bus_machine: Machine | None) -> list[str]:
    """The names of the faults that can be played with that bus and these machines."""
    impossible = set[str]()
    if bus in ("auto", "local"):
        impossible |= {name for name, fault in FAULTS.items() if fault.part in (Part.BUS_LINE, Part.BUS)}
    if database_machine is None:
        impossible.add("database-kill")
    if not isinstance(database_machine, FailsOver):
        impossible.add("failover")
    if bus_machine is None:
        impossible.add("bus-kill")
    return [name for name in FAULTS if name not in impossible]


def all_pairs(names: Sequence[str]) -> list[str]:
    """Each of the faults alone, and then each pair, as `first+second`."""
    return [*names, *("+".join(pair) for pair in combinations(names, 2))]


class FaultPlayer:
    """Plays faults of `scene`, and counts them in `counts`. `played` has them in the order of their beginning.

    Each of `names` is that of a fault, or several with a plus between them that are played together. `in_turn`: each
    of them for an equal share of the time, not in any order.
    """

    def __init__(
        self, scene: Scene, names: Sequence[str], random: Random, pause: float, *, in_turn: bool = False
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.played: list[Played] = []
        self.now: tuple[str, ...] = ()
        """The names of the faults that are being played."""
        self._scene = scene
        self._names = names
        self._random = random
        self._pause = pause
        self._in_turn = in_turn
        self._broken: set[tuple[Part, str]] = set()
        self._began = 0.0

    async def run(self, seconds: float, over: Callable[[], object] = lambda: None) -> None:
        """Begin faults for so many seconds, call `over`, and return when all have been put right."""
        began = self._began = trio.current_time()
        async with trio.open_nursery() as nursery:
            while self._names and (elapsed := trio.current_time() - began) < seconds:
                turn = int(elapsed / seconds * len(self._names))
                together = self._names[turn] if self._in_turn else self._random.choice(self._names)
                self._begin(together.split("+"), nursery)
                await trio.sleep(min(self._random.expovariate(1 / self._pause), seconds - elapsed))
            await trio.sleep_until(began + seconds)
            over()

    def _begin(self, names: Sequence[str], nursery: trio.Nursery) -> None:
        """Begin the faults `names`, on one server or on several."""
        nodes = list(self._scene.nodes)
        self._random.shuffle(nodes)
        for name in names:
            part = FAULTS[name].part
            if self._random.random() < 0.5:
                self._random.shuffle(nodes)
            node = next((each for each in nodes if self._is_free(part, each, name)), None)
            if node is None:
                continue
            key = (part, "" if part in (Part.DATABASE, Part.BUS) else node.name)
            self._broken.add(key)
            if name == "freeze-commit":
                self._broken.add((Part.DATABASE_LINE, node.name))
            nursery.start_soon(self._play, name, node, key)

    def _is_free(self, part: Part, node: NodeProcess, name: str) -> bool:
        if part in (Part.DATABASE, Part.BUS):
            return (part, "") not in self._broken
        if (part, node.name) in self._broken:
            return False
        if name in _ON_COMMIT and (not node.serving or (Part.DATABASE_LINE, node.name) in self._broken):
            return False
        hit = sum(each is part for each, _ in self._broken)
        # One server at least runs, as clients need somewhere to go.
        return part is not Part.PROCESS or hit < len(self._scene.nodes) - 1

    async def _play(self, name: str, node: NodeProcess, key: tuple[Part, str]) -> None:
        where = key[1] or "all"
        index = len(self.played)
        self.played.append(Played(name, where, trio.current_time() - self._began))
        self.now = (*self.now, name)
        if await FAULTS[name].play(self._scene, node, self._random):
            self.counts[name] += 1
        self.played[index] = attrs.evolve(self.played[index], until=trio.current_time() - self._began)
        now = list(self.now)
        now.remove(name)
        self.now = tuple(now)
        self._broken.discard(key)
        if name == "freeze-commit":
            self._broken.discard((Part.DATABASE_LINE, node.name))
