"""One node among others: it tells them what it commits and who is here, and shows what they tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from actorchat.chat.elsewhere import RemotePeople
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.service import ChatService
from actorchat.nodes.follower import Follower
from actorchat.nodes.notes import Note, Told, Whisper
from actorchat.nodes.ports import Bus
from actorchat.nodes.presence import KIND as PRESENCE
from actorchat.nodes.presence import Presence
from actorchat.nodes.process import name_process
from actorchat.nodes.registry import LIFE, PERIOD, Registry
from actorchat.nodes.tables import NodeRow, Tables
from actorchat.nodes.whispers import RATES, TYPING, Whispers
from actorchat.storage.async_log import AsyncNodeLog
from actorchat.storage.worker_threads import Runner

__all__ = ["Node", "NodeState"]

FLUSH_SECONDS = 2.0
"""The longest wait for the bus at the end. Nothing is lost without it: other nodes read the log."""

START_OVER_RETRY = 1.0
"""Seconds before everything is read again, if storage was away."""


@attrs.define
class NodeState:
    """The state of this node that other nodes and the operators of the deployment see.

    `bus` is the kind of its bus. `statistics()` returns JSON. `cut_off()` is called when the database was away for
    long, `replaced(holder)` when another process has taken over the name.
    """

    name: str
    version: str
    address: str = ""
    bus: str = ""
    state: str = "starting"
    statistics: Callable[[], str] = lambda: "{}"
    cut_off: Callable[[], object] = lambda: None
    replaced: Callable[[NodeRow], object] = lambda _: None
    process: str = attrs.field(factory=name_process)


class Node:
    """The connections of one node, whose journal commits under the name `writer`.

    It is `actorchat.chat.ports.Elsewhere` for its chats. Call `begin`, then read storage and make the chats, then
    `run`.
    """

    def __init__(
        self, state: NodeState, writer: str, *, log: AsyncNodeLog, tables: Tables, runner: Runner, bus: Bus
    ) -> None:
        self.state = state
        self.bus = bus
        self._log = log
        self._follower = Follower(log, writer)
        self._told = 0
        self.on_foreign_commit: Callable[[], object] = lambda: None
        """Called when another node has told of a commit."""
        self._starts_over = trio.Event()
        self.losses: int = 0
        """How often storage went back, as this node has heard of it."""
        self._presence: Presence | None = None
        self._whispers: Whispers | None = None
        row = NodeRow(
            node=state.name,
            epoch=0,
            version=state.version,
            state=state.state,
            address=state.address,
            statistics="{}",
            process=state.process,
        )
        self.registry: Registry = Registry(
            tables,
            runner,
            row,
            describe=lambda: (state.state, state.statistics()),
            changed=self._nodes_changed,
            registered=self._registered,
            cut_off=lambda: state.cut_off(),
            replaced=lambda holder: state.replaced(holder),
        )

    @property
    def reaches_database(self) -> bool:
        """Whether the other nodes know that this one lives."""
        return trio.current_time() - self.registry.reached_at < LIFE

    @property
    def database_answers(self) -> bool:
        """Whether the database has answered one of the latest looks at the other nodes."""
        return trio.current_time() - self.registry.reached_at < 3 * PERIOD

    @property
    def lag(self) -> float:
        """For how many seconds a commit of another node has been known here and not shown."""
        return self._follower.lag

    async def begin(self) -> None:
        """Take note of what is committed before anything is read, and register.

        Raises `NameTaken` and `StorageUnavailable`.
        """
        await self.registry.register()
        await self._follower.begin()

    def committed(self) -> None:
        """Tell the other nodes what the journal has committed last."""
        # First, because the outcomes of that commit are reported next.
        self._follower.compare_epochs()
        logged = self._log.last_logged()
        if logged is not None and logged.number > self._told:
            self._told = logged.number
            self.bus.tell(Told(logged.writer, logged.number, logged.previous, logged.payload))

    async def caught_up(self) -> None:
        await self._follower.caught_up()

    async def holds(self, lease: str) -> bool:
        await trio.lowlevel.checkpoint()
        return await self.registry.hold(lease)

    async def run(
        self,
        chats: ChatService,
        remote: RemotePeople,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Hear and apply what other nodes tell, until cancelled. It has started when it hears them."""
        self._presence = Presence(self.registry, self._whisper, remote, chats.chat_reader)
        self._whispers = Whispers(self._whisper, remote, chats.limiter, chats.show_remote_typing)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.bus.run, self._heard)
            went_back = partial(self._went_back, chats)
            self._follower.apply_to(chats.foreign_commits, lambda: self._starts_over.set(), went_back)
            nursery.start_soon(self._follower.run)
            nursery.start_soon(chats.people.foreign.run)
            nursery.start_soon(self._start_over, chats)
            nursery.start_soon(self._presence.run)
            nursery.start_soon(self._whispers.run)
            nursery.start_soon(self.registry.run)
            task_status.started()

    async def flush(self) -> None:
        """Send what was told, for `FLUSH_SECONDS` at most."""
        with trio.move_on_after(FLUSH_SECONDS):
            await self.bus.flush()

    def _whisper(self, kind: str, body: bytes) -> None:
        self.bus.tell(Whisper(self.registry.name, self.registry.epoch, kind, body))

    def _heard(self, note: Note) -> None:
        if isinstance(note, Told):
            self._follower.heard(note)
            self.on_foreign_commit()
        elif note.node == self.registry.name or self._presence is None or self._whispers is None:
            return
        elif note.kind == PRESENCE:
            self._presence.heard(note)
        elif note.kind in (TYPING, RATES):
            self._whispers.heard(note)

    def _nodes_changed(self, rows: Sequence[NodeRow]) -> None:
        if self._presence is not None:
            self._presence.look(rows)

    def _registered(self) -> None:
        if self._presence is not None:
            self._presence.registered()

    def _went_back(self, chats: ChatService) -> None:
        """Storage has lost commits that rooms and consoles here may have shown."""
        self.losses += 1
        chats.storage_went_back()
        self._starts_over.set()

    async def _start_over(self, chats: ChatService) -> None:
        while True:
            await self._starts_over.wait()
            self._starts_over = trio.Event()
            try:
                await chats.start_over()
            except StorageUnavailable:
                await trio.sleep(START_OVER_RETRY)
                self._starts_over.set()
