"""Registers this node among the others, finds out which of them live, and holds leases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final

import attrs
import trio

from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes.tables import NodeRow, Tables
from actorchat.storage.worker_threads import Runner

__all__ = ["LIFE", "PERIOD", "Registry"]

_log = logging.getLogger("actorchat.nodes")

LIFE: Final = 10.0
"""Seconds after which a node that has not renewed its lease counts as dead."""

RENEWAL: Final = 3.0
"""Seconds between two renewals."""

PERIOD: Final = 1.0
"""Seconds between two looks at the other nodes."""

BURIAL: Final = 30.0
"""Seconds after which any node deletes a dead one."""

CUT_OFF: Final = 30.0
"""Seconds without the tables after which this node gives up its sockets, so that they go to others."""


class Registry:
    """The registration of one node. `describe()` returns its state and statistics.

    `changed(rows)` is called once a second with all other nodes, the dead ones too. `registered()` is called after each
    registration, which begins with an empty presence. `cut_off()` is called when the tables were away for `CUT_OFF`.
    """

    def __init__(
        self,
        tables: Tables,
        runner: Runner,
        row: NodeRow,
        *,
        describe: Callable[[], tuple[str, str]],
        changed: Callable[[Sequence[NodeRow]], object],
        registered: Callable[[], object],
        cut_off: Callable[[], object],
    ) -> None:
        self.tables = tables
        self.runner = runner
        self._row = row
        self._describe, self._changed, self._registered, self._cut_off = describe, changed, registered, cut_off
        self.others: tuple[NodeRow, ...] = ()
        self.reached_at: float = -inf
        self._renewed_at = -inf
        self._leases: dict[str, float] = {}
        self._left = False

    @property
    def name(self) -> str:
        return self._row.node

    @property
    def epoch(self) -> int:
        return self._row.epoch

    async def register(self) -> None:
        """Claim the node's name. Raises `StorageUnavailable`."""
        state, statistics = self._describe()
        row = attrs.evolve(self._row, state=state, statistics=statistics)
        epoch = await self.runner.run(partial(self.tables.register, row, LIFE))
        self._row = attrs.evolve(row, epoch=epoch)
        self.reached_at = self._renewed_at = trio.current_time()
        self._leases.clear()
        self._registered()

    async def run(self) -> None:
        """Renew the registration and look at the others, until cancelled."""
        told = False
        while not self._left:
            try:
                await self.look()
                told = False
            except StorageUnavailable:
                if trio.current_time() - self.reached_at >= CUT_OFF and not told:
                    told = True
                    _log.error("this node can't reach the database for %.0f s: it closes its sockets", CUT_OFF)
                    self._cut_off()
            await trio.sleep(PERIOD)

    async def look(self) -> None:
        """Renew the registration if it is time, and look at the others now. Raises `StorageUnavailable`."""
        if trio.current_time() - self._renewed_at >= RENEWAL:
            await self.renew()
        rows = await self.runner.run(self.tables.nodes)
        self.reached_at = trio.current_time()
        if any(row.silent >= BURIAL for row in rows):
            for node in await self.runner.run(partial(self.tables.bury, BURIAL)):
                _log.warning("the node %s is gone", node)
        self.others = tuple([row for row in rows if row.node != self._row.node])
        self._changed(self.others)

    async def renew(self) -> None:
        """Store the node's state now. Raises `StorageUnavailable`."""
        state, statistics = self._describe()
        self._row = attrs.evolve(self._row, state=state, statistics=statistics)
        if await self.runner.run(partial(self.tables.renew, self._row, LIFE)):
            self._renewed_at = trio.current_time()
        else:
            reasons = "it was taken for dead, another one has its name, or the database has crashed"
            _log.warning("this node registers again: %s", reasons)
            await self.register()

    async def hold(self, lease: str) -> bool:
        """Whether this node has the lease now, which it then keeps for `LIFE`, by its own clock a little less."""
        now = trio.current_time()
        if self._left:
            return False
        if now < self._leases.get(lease, -inf):
            return True
        try:
            held = await self.runner.run(partial(self.tables.hold, lease, self.name, self.epoch, LIFE))
        except StorageUnavailable:
            return False
        if held:
            self._leases[lease] = now + LIFE / 2
        return held

    async def leave(self) -> None:
        """Delete the node, which holds no lease any more. Raises `StorageUnavailable`."""
        self._left = True
        await self.runner.run(partial(self.tables.leave, self.name, self.epoch))
