"""Defines the ports of nodes: the bus between them, and the tables that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from actorchat.nodes.notes import Note

__all__ = ["Bus"]


class Bus(Protocol):
    """Carries notes to the other nodes of a deployment, fast and without any guarantee.

    It may lose, repeat and reorder notes. A node does not hear its own.
    """

    @property
    def problem(self) -> str | None:
        """Why the bus can't be reached now, in one line without passwords; None if it can."""

    def tell(self, note: Note) -> None:
        """Send `note` to all other nodes soon. Never blocks; over a bound the oldest notes that wait are dropped.

        Raises ValueError for a whisper with more than `MOST_WHISPERED` bytes.
        """

    async def run(
        self, heard: Callable[[Note], object], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Send what was told, and call `heard` with each note of other nodes, until cancelled.

        It reconnects by itself. It has started when it listens, or when the first attempt to connect has failed.
        `heard` must neither block nor raise.
        """

    async def flush(self) -> None:
        """Return when everything that was told is sent, or while the bus can't be reached."""
