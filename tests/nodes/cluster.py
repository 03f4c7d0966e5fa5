"""Several chat services of one process over one store, as the nodes of a deployment, on a bus with faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import Random

import attrs
import trio

from actorchat.actors import open_system
from actorchat.chat import Limits, open_chats, settle_dead_letter
from actorchat.chat.model import Policy
from actorchat.nodes import Bus, MemoryBus, Note
from actorchat.nodes.node import Node, NodeState
from actorchat.storage import open_journal
from actorchat.storage.async_log import AsyncNodeLog
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.memory import MemoryStore
from actorchat.storage.worker_threads import InPlace
from actorchat.testing import DelayedRunner
from tests.chat.harness import LINKS, ChatHarness
from tests.nodes.memory_tables import MemoryTables


@attrs.define
class BusFaults:
    """The probabilities that a note is lost or repeated, and the most seconds by which it is late."""

    lose: float = 0.0
    repeat: float = 0.0
    late: float = 0.0


class FaultyBus:
    """A `Bus` that loses, repeats and delays what it tells; delayed notes overtake each other."""

    def __init__(self, bus: Bus, faults: BusFaults, random: Random, nursery: trio.Nursery) -> None:
        self._bus, self._faults, self._random, self._nursery = bus, faults, random, nursery

    @property
    def problem(self) -> str | None:
        return self._bus.problem

    def tell(self, note: Note) -> None:
        if self._random.random() < self._faults.lose:
            return
        for _ in range(1 + (self._random.random() < self._faults.repeat)):
            self._nursery.start_soon(self._tell_late, note)

    async def _tell_late(self, note: Note) -> None:
        await trio.sleep(self._random.uniform(0, self._faults.late))
        self._bus.tell(note)

    async def run(
        self, heard: Callable[[Note], object], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self._bus.run(heard, task_status=task_status)

    async def flush(self) -> None:
        await self._bus.flush()


@attrs.define
class NodeHarness(ChatHarness):
    """One node. `life` ends it as a crash does."""

    node: Node
    life: trio.CancelScope
    faults: BusFaults


@attrs.define
class Cluster:
    """`random` decides on faults. `delay()` is how many seconds a commit or a read takes."""

    store: MemoryStore
    policy: Policy
    limits: Limits
    random: Random
    delay: Callable[[], float]
    faults: BusFaults
    nursery: trio.Nursery
    tables: MemoryTables = attrs.Factory(lambda: MemoryTables(trio.current_time))
    bus: MemoryBus = attrs.Factory(MemoryBus)
    nodes: list[NodeHarness] = attrs.Factory(list)

    async def start_node(self, faults: BusFaults | None = None) -> NodeHarness:
        """Start one more node. `faults` are those of what it tells, None for those of the cluster."""
        node: NodeHarness = await self.nursery.start(self._run_node, faults or attrs.evolve(self.faults))
        self.nodes.append(node)
        return node

    async def _run_node(self, faults: BusFaults, task_status: trio.TaskStatus[NodeHarness]) -> None:
        with trio.CancelScope() as life:
            async with AsyncExitStack() as stack:
                node = await self._open_node(stack, life, faults)
                task_status.started(node)
                await trio.sleep_forever()

    async def _open_node(self, stack: AsyncExitStack, life: trio.CancelScope, faults: BusFaults) -> NodeHarness:
        runner = DelayedRunner(InPlace(), lambda: self.delay())
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        writer = f"writer-{len(self.nodes)}"
        bus = FaultyBus(self.bus.join(), faults, self.random, nursery)
        state = NodeState(f"node-{len(self.nodes)}", "1.0")
        log = AsyncNodeLog(self.store, runner)
        node = Node(state, writer, log=log, tables=self.tables, runner=runner, bus=bus)
        await node.begin()
        journal = await stack.enter_async_context(
            open_journal(self.store, runner, clock=trio.current_time, writer=writer, committed=node.committed)
        )
        system = await stack.enter_async_context(open_system(on_dead_letter=settle_dead_letter))
        chats = await stack.enter_async_context(
            open_chats(
                system=system,
                journal=journal,
                chat_reader=AsyncReader(self.store, runner),
                policy=self.policy,
                limits=self.limits,
                links=LINKS,
                clock=trio.current_time,
                random=self.random,
                elsewhere=node,
            )
        )
        remote = chats.remote
        assert remote is not None
        await nursery.start(node.run, chats, remote)
        return NodeHarness(system, chats, nursery, node, life, faults)


@asynccontextmanager
async def open_cluster(
    count: int = 2,
    *,
    seed: int = 0,
    faults: BusFaults | None = None,
    seconds: float = 0.0,
    policy: Policy | None = None,
    limits: Limits | None = None,
    store: MemoryStore | None = None,
) -> AsyncIterator[Cluster]:
    """Start `count` nodes, and stop them all at the end of the block. A commit or a read takes up to `seconds`."""
    policy, limits = policy or Policy(), limits or Limits(messages_per_second=0)
    store = store or MemoryStore(policy, trio.current_time, nodes=True)
    async with trio.open_nursery() as nursery:
        chance = Random(seed)
        delay = partial(chance.uniform, 0.0, seconds)
        cluster = Cluster(store, policy, limits, chance, delay, faults or BusFaults(), nursery)
        for _ in range(count):
            await cluster.start_node()
        yield cluster
        nursery.cancel_scope.cancel()
