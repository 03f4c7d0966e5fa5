"""Defines the tables that the nodes of a deployment share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Protocol
from uuid import UUID

import attrs

from actorchat.chat.elsewhere import Place

__all__ = ["MOST_INQUIRIES", "Inquiry", "NodeRow", "Tables"]

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
