"""Carries notes between nodes of one process, for tests and simulations."""

from __future__ import annotations

from collections.abc import Callable

import trio

from actorchat.nodes.notes import Note, Outgoing, decode_frame, encode_frame, encode_note

__all__ = ["MemoryBus", "MemoryBusMember"]

_FRAME_BYTES = 65_536


class MemoryBus:
    """The bus itself. Each node joins it; notes arrive in order, and none is lost below the bound."""

    def __init__(self) -> None:
        self._members: set[MemoryBusMember] = set()

    def join(self) -> MemoryBusMember:
        """One node's end: a `Bus`."""
        return MemoryBusMember(self._members)


class MemoryBusMember:
    """A `Bus`, made by `MemoryBus.join`."""

    def __init__(self, members: set[MemoryBusMember]) -> None:
        self.problem: str | None = None
        self._members = members
        self._arrived = Outgoing()
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    def tell(self, note: Note) -> None:
        encode_note(note)
        for member in self._members:
            if member is not self:
                member._arrived.add(note)
                member._wake.set()
                if member._idle.is_set():
                    member._idle = trio.Event()

    async def run(
        self, heard: Callable[[Note], object], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self._members.add(self)
        try:
            task_status.started()
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._arrived:
                    for note in decode_frame(encode_frame(b"", self._arrived.take(_FRAME_BYTES)))[1]:
                        heard(note)
                self._idle.set()
        finally:
            self._members.discard(self)
            self._idle.set()

    async def flush(self) -> None:
        for member in tuple(self._members):
            if member is not self:
                await member._idle.wait()
