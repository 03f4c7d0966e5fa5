"""Keeps batches that the bus told before one that precedes them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

from actorchat.nodes.notes import Told

__all__ = ["MOST_EARLY", "MOST_EARLY_BYTES", "EarlyBatches"]

MOST_EARLY: Final = 2_000
"""How many batches may wait. If there are more, the oldest are dropped: the log has them."""

MOST_EARLY_BYTES: Final = 8_388_608
"""How many bytes the payloads of these batches may have. If they have more, the oldest are dropped."""


@attrs.define
class EarlyBatches:
    """Batches that wait, by the batch of their writer that they follow. Each method but `all` takes constant time."""

    bytes: int = attrs.field(default=0, init=False)
    _waiting: OrderedDict[tuple[str, int], Told] = attrs.field(factory=OrderedDict, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, told: Told) -> None:
        """Keep a batch. One without a payload is not kept: it has to be read from the log."""
        if told.payload is None:
            return
        self.take(told.writer, told.previous)
        self._waiting[told.writer, told.previous] = told
        self.bytes += len(told.payload)
        while len(self._waiting) > MOST_EARLY or self.bytes > MOST_EARLY_BYTES:
            self._removed(self._waiting.popitem(last=False)[1])

    def take(self, writer: str, number: int) -> Told | None:
        """Remove and return the batch that follows the batch `number` of `writer`."""
        told = self._waiting.pop((writer, number), None)
        if told is not None:
            self._removed(told)
        return told

    def drop(self, told: Told) -> None:
        """Remove this batch, if it is still there."""
        if self._waiting.get((told.writer, told.previous)) is told:
            self.take(told.writer, told.previous)

    def clear(self) -> None:
        """Remove all."""
        self._waiting.clear()
        self.bytes = 0

    def all(self) -> tuple[Told, ...]:
        """All batches, those that have waited longest first."""
        return tuple(self._waiting.values())

    def _removed(self, told: Told) -> None:
        self.bytes -= len(told.payload or b"")
