"""Counts the operations in flight of all sockets of a transport."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["InFlightOperations"]


class InFlightOperations:
    """The number of operations that were accepted and are not answered yet.

    `on_none`, if set, is called when the last one is answered.
    """

    __slots__ = ("in_flight", "on_none")

    def __init__(self) -> None:
        self.in_flight: int = 0
        self.on_none: Callable[[], None] | None = None
