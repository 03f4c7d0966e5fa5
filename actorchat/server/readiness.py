"""Says whether a server can be sent requests, for `/health/ready`."""

from __future__ import annotations

from actorchat.http.problems import Problem
from actorchat.nodes.node import Node
from actorchat.server.parts import State
from actorchat.storage import Journal
from actorchat.storage.async_reader import AsyncReader

__all__ = ["Readiness"]


class Readiness:
    """Whether a server works. `node` is None if no other servers use its storage."""

    def __init__(self, state: State, journal: Journal, chat_reader: AsyncReader, node: Node | None) -> None:
        self._state = state
        self._journal = journal
        self._chat_reader = chat_reader
        self._node = node

    def problem(self) -> Problem | None:
        """Return why the server should not be sent requests now, None if it should."""
        if self._state.draining:
            return Problem("draining", "the server is stopping")
        if self._journal.statistics().away:
            return Problem("storage_unavailable", "storage is unavailable")
        if self._chat_reader.unreadable:
            return Problem("storage_unavailable", "storage can't be read")
        if self._node is not None and not self._node.reaches_database:
            return Problem("storage_unavailable", "the other servers can't be told that this one is here")
        return None
