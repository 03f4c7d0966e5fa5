"""Keeps the tables that nodes share in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import count
from uuid import UUID

import attrs

from actorchat.chat.elsewhere import Place
from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes.tables import MOST_INQUIRIES, Inquiry, NodeRow


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
