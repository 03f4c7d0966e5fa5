"""Defines the database server and the bus server as far as the checker breaks them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["FailsOver", "Machine"]


class Machine(Protocol):
    """A server process of this machine. Every method may block."""

    @property
    def port(self) -> int:
        """Where it listens."""

    def kill(self) -> None:
        """End it with SIGKILL. What it has confirmed has to survive that."""

    def start(self) -> None:
        """Start it, and return when it accepts connections."""


@runtime_checkable
class FailsOver(Machine, Protocol):
    """A `Machine` with a standby that has everything that was confirmed."""

    def fail_over(self) -> None:
        """Kill it, and let the standby take over, at another `port`. Returns when there is a new standby."""
