"""Defines the tables that the nodes of a deployment share, and keeps them in memory for tests and simulations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Final, Protocol
from uuid import UUID

import attrs

from actorchat.chat.elsewhere import Place
from actorchat.chat.ports import StorageUnavailable

__all__ = ["MOST_INQUIRIES", "Inquiry", "MemoryTables", "NodeRow", "Tables"]

MOST_INQUIRIES: Final = 16
"""About how many inquiries there may be at a time, those with an answer that nobody has taken yet included."""


@attrs.frozen(kw_only=True)
class NodeRow:
    """One node. `state` is `starting`, `ready` or `draining`. `statistics` is JSON.

    `process` names the server in its process, see `actorchat.nodes.process`. `presence` grows with each change of the
    node's presence. `expires` is when the node's lease ends, by the clock of the tables. `alive`: it has not ended.
    `silent` is for how many seconds it has been expired, 0 if it has not.
    """

    node: str
    epoch: int
    version: str
    state: str
    address: str
    statistics: str
    process: str
    presence: int = 0
    expires: float = 0.0
    silent: float = 0.0

    @property
    def alive(self) -> bool:
        return not self.silent


@attrs.frozen
class Inquiry:
    """A request to one node that somebody waits for."""

    id: UUID
    request: bytes


class Tables(Protocol):
    """The shared tables. Every method may block, and may raise `actorchat.chat.ports.StorageUnavailable`.

    Leases and the lives of nodes are measured by one clock, that of the database.
    """

    def register(self, row: NodeRow, seconds: float, ended: int = 0) -> int | None:
        """Claim the name `row.node` for so many seconds. Its presence is empty then. Returns its new epoch.

        None if another process has the name: its lease has not expired, and its epoch is not `ended`.
        """

    def renew(self, row: NodeRow, seconds: float) -> bool:
        """Store `row` except its presence, and live on.

        False if the name belongs to another epoch, or to nobody, or if the node's presence was lost.
        """

    def nodes(self) -> Sequence[NodeRow]:
        """All nodes, by name."""

    def leave(self, node: str, process: str) -> None:
        """Delete the node with its presence and its leases, if that process has it."""

    def bury(self, silent: float) -> Sequence[str]:
        """Delete nodes that have been expired for so many seconds, with what they had, and return their names."""

    def hold(self, lease: str, node: str, epoch: int, seconds: float) -> bool:
        """Take or prolong a lease. False if another node has it."""

    def put_presence(
        self, node: str, epoch: int, number: int, here: Collection[Place], gone: Collection[Place]
    ) -> None:
        """Change the presence of a node, and set the number of its last change."""

    def presence_of(self, node: str) -> tuple[int, Sequence[Place]]:
        """The number of the node's last change of presence, and everybody who is there.

        Raises `StorageUnavailable` if that was lost, until the node has registered again.
        """

    def ask(self, inquiry: Inquiry, node: str, seconds: float) -> bool:
        """Ask a node, which may answer for so many seconds. False if there are `MOST_INQUIRIES` already."""

    def asked(self, node: str, epoch: int) -> Sequence[Inquiry]:
        """Return the node's unanswered inquiries, nothing if the epoch is not its own. Delete expired rows."""

    def answer(self, inquiry: UUID, answer: bytes) -> None:
        """Store the first answer, if the inquiry is still there."""

    def take_answer(self, inquiry: UUID) -> bytes | None:
        """The answer, None if there is none yet. It is deleted with its inquiry."""

    def close(self) -> None:
        """Close connections."""


@attrs.define
class _Node:
    row: NodeRow
    expires: float
    places: set[Place] = attrs.Factory(set)
    lost: bool = False


@attrs.define
class _Asked:
    inquiry: Inquiry
    node: str
    expires: float
    answer: bytes | None = None


class MemoryTables:
    """`Tables` in memory. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._epochs = count(1)
        self._nodes: dict[str, _Node] = {}
        self._leases: dict[str, tuple[str, int, float]] = {}
        self._asked: dict[UUID, _Asked] = {}

    def register(self, row: NodeRow, seconds: float, ended: int = 0) -> int | None:
        now, known = self._clock(), self._nodes.get(row.node)
        if known is not None and known.expires > now and known.row.process != row.process and known.row.epoch != ended:
            return None
        epoch = next(self._epochs)
        self._nodes[row.node] = _Node(attrs.evolve(row, epoch=epoch, presence=0), now + seconds)
        return epoch

    def renew(self, row: NodeRow, seconds: float) -> bool:
        known = self._nodes.get(row.node)
        if known is None or known.row.epoch != row.epoch or known.lost:
            return False
        known.row = attrs.evolve(row, presence=known.row.presence)
        known.expires = self._clock() + seconds
        return True

    def nodes(self) -> Sequence[NodeRow]:
        now = self._clock()
        return [
            attrs.evolve(each.row, expires=each.expires, silent=max(0.0, now - each.expires))
            for _, each in sorted(self._nodes.items())
        ]

    def leave(self, node: str, process: str) -> None:
        known = self._nodes.get(node)
        if known is not None and known.row.process == process:
            self._delete(node)

    def lose_presence(self) -> None:
        """Lose the presence of all nodes, as a database does that has crashed."""
        for node in self._nodes.values():
            node.lost, node.places = True, set()

    def _delete(self, node: str) -> None:
        del self._nodes[node]
        self._leases = {name: held for name, held in self._leases.items() if held[0] != node}

    def bury(self, silent: float) -> Sequence[str]:
        now = self._clock()
        dead = [node for node, each in self._nodes.items() if now - each.expires >= silent]
        for node in dead:
            self._delete(node)
        return dead

    def hold(self, lease: str, node: str, epoch: int, seconds: float) -> bool:
        now = self._clock()
        held = self._leases.get(lease)
        if held is not None and held[:2] != (node, epoch) and held[2] > now:
            return False
        self._leases[lease] = (node, epoch, now + seconds)
        return True

    def put_presence(
        self, node: str, epoch: int, number: int, here: Collection[Place], gone: Collection[Place]
    ) -> None:
        known = self._nodes.get(node)
        if known is not None and known.row.epoch == epoch:
            known.places.difference_update(gone)
            known.places.update(here)
            known.row = attrs.evolve(known.row, presence=number)

    def presence_of(self, node: str) -> tuple[int, Sequence[Place]]:
        known = self._nodes.get(node)
        if known is None:
            return 0, ()
        if known.lost:
            raise StorageUnavailable(f"the presence of {node} is lost")
        return known.row.presence, tuple(known.places)

    def ask(self, inquiry: Inquiry, node: str, seconds: float) -> bool:
        self._expire()
        if len(self._asked) >= MOST_INQUIRIES:
            return False
        self._asked[inquiry.id] = _Asked(inquiry, node, self._clock() + seconds)
        return True

    def asked(self, node: str, epoch: int) -> Sequence[Inquiry]:
        self._expire()
        known = self._nodes.get(node)
        if known is None or known.row.epoch != epoch:
            return ()
        return [each.inquiry for each in self._asked.values() if each.node == node and each.answer is None]

    def answer(self, inquiry: UUID, answer: bytes) -> None:
        asked = self._asked.get(inquiry)
        if asked is not None and asked.answer is None:
            asked.answer = answer

    def take_answer(self, inquiry: UUID) -> bytes | None:
        asked = self._asked.get(inquiry)
        if asked is None or asked.answer is None:
            return None
        del self._asked[inquiry]
        return asked.answer

    def _expire(self) -> None:
        now = self._clock()
        self._asked = {id_: each for id_, each in self._asked.items() if each.expires > now}

    def close(self) -> None:
        """Do nothing: there are no connections."""
