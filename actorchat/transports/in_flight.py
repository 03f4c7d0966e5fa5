"""Owns how many operations of a transport's sockets are in flight."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["InFlightOperations"]


class InFlightOperations:
    """Counts what sockets were granted and is not answered yet.

    `on_none`, if set, is called when the last is answered.
    """

    __slots__ = ("in_flight", "on_none")

    def __init__(self) -> None:
        self.in_flight: int = 0
        self.on_none: Callable[[], None] | None = None
