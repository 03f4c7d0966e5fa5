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
from actorchat.nodes.process import has_ended
from actorchat.nodes.tables import NodeRow, Tables
from actorchat.storage.worker_threads import Runner

__all__ = ["LIFE", "PERIOD", "NameTaken", "Registry"]

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

CLAIM_PERIOD: Final = 0.5
"""Seconds between two attempts to claim a name that another process has."""

PATIENCE: Final = 20.0
"""Seconds after which a claim is given up, also if the other process is stopping: that takes ten seconds at most."""


class NameTaken(Exception):  # noqa: N818 - says what happened
    """Another node that lives has the name: `holder`."""

    def __init__(self, holder: NodeRow) -> None:
        super().__init__(holder.node)
        self.holder = holder


class Registry:
    """The registration of one node. `describe()` returns its state and statistics.

    `changed(rows)` is called once a second with all other nodes, the dead ones too. `registered()` is called after each
    registration, which begins with an empty presence. `cut_off()` is called when the tables were away for `CUT_OFF`,
    `replaced(holder)` when another process has taken over the name: this node is registered no more.
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
        replaced: Callable[[NodeRow], object],
    ) -> None:
        self.tables = tables
        self.runner = runner
        self._row = row
        self._describe, self._changed, self._registered = describe, changed, registered
        self._cut_off, self._replaced = cut_off, replaced
        self.others: tuple[NodeRow, ...] = ()
        self.reached_at: float = -inf
        """When the tables were last reached while they had this registration, in Trio's clock."""
        self._renewed_at = -inf
        self._leases: dict[str, float] = {}
        self._left = False
        self._due = trio.Event()

    @property
    def name(self) -> str:
        return self._row.node

    @property
    def epoch(self) -> int:
        return self._row.epoch

    async def register(self) -> None:
        """Claim the node's name. Raises `NameTaken` and `StorageUnavailable`.

        If another process has the name, this waits until its lease runs out or it has left, or it is seen to have
        ended. If it renews its lease instead, it lives. A process that is stopping is waited for. `PATIENCE` bounds it.
        """
        first: NodeRow | None = None
        ended = 0
        deadline = trio.current_time() + PATIENCE
        while not self._left and not await self._claim(ended):
            holder = await self._holder()
            if holder is not None:
                if first is None:
                    first = holder
                    _log.warning("the node name %s is in use: waiting until it is free", self.name)
                if has_ended(holder.process):
                    ended = holder.epoch
                    continue
                lives = (holder.epoch, holder.expires) != (first.epoch, first.expires)
                if (lives and holder.state != "draining") or trio.current_time() >= deadline:
                    raise NameTaken(holder)
            await trio.sleep(CLAIM_PERIOD)

    async def _holder(self) -> NodeRow | None:
        """The node that has this one's name, whatever its process is."""
        rows = await self.runner.run(self.tables.nodes)
        return next((row for row in rows if row.node == self.name), None)

    async def _claim(self, ended: int) -> bool:
        state, statistics = self._describe()
        row = attrs.evolve(self._row, state=state, statistics=statistics)
        epoch = await self.runner.run(partial(self.tables.register, row, LIFE, ended))
        if epoch is None:
            return False
        self._row = attrs.evolve(row, epoch=epoch)
        self.reached_at = self._renewed_at = trio.current_time()
        self._leases.clear()
        self._registered()
        return True

    async def run(self) -> None:
        """Renew the registration and look at the others, until cancelled or until another process has the name."""
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
            except NameTaken as error:
                self._left = True
                self._replaced(error.holder)
            with trio.move_on_after(PERIOD):
                await self._due.wait()
            self._due = trio.Event()

    def announce(self) -> None:
        """Let `run` store the node's state now, and not only with the next renewal."""
        self._due.set()

    async def look(self) -> None:
        """Renew the registration if it is time, and look at the others. Raises `NameTaken` and `StorageUnavailable`."""
        if trio.current_time() - self._renewed_at >= RENEWAL or self._describe()[0] != self._row.state:
            await self.renew()
        rows = await self.runner.run(self.tables.nodes)
        self.reached_at = trio.current_time()
        if any(row.silent >= BURIAL for row in rows):
            for node in await self.runner.run(partial(self.tables.bury, BURIAL)):
                _log.warning("the node %s is gone", node)
        self.others = tuple([row for row in rows if row.node != self._row.node])
        self._changed(self.others)

    async def renew(self) -> None:
        """Store the node's state now. Raises `NameTaken` and `StorageUnavailable`."""
        if self._left:
            return
        state, statistics = self._describe()
        row = attrs.evolve(self._row, state=state, statistics=statistics)
        if await self.runner.run(partial(self.tables.renew, row, LIFE)):
            # Another call may have registered again meanwhile.
            if row.epoch == self.epoch:
                self._row, self._renewed_at = row, trio.current_time()
        elif not self._left:
            _log.warning("this node registers again: %s", await self._loss())
            await self.register()

    async def _loss(self) -> str:
        """Why the tables don't have this registration any more."""
        holder = await self._holder()
        if holder is None:
            return "it was taken for dead"
        if holder.process != self._row.process:
            return "another server has its name"
        if holder.epoch != self.epoch:
            return "its last registration was not answered"
        return "the database has crashed and has lost who is present"

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
        """Delete the node, which holds no lease any more. Raises `StorageUnavailable`.

        Calls that are under way come first, so that none of them registers the node again.
        """
        self._left = True
        await self.runner.run(partial(self.tables.leave, self.name, self._row.process))
