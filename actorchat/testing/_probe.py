"""Owns an actor that only remembers what it gets, for tests of other actors. Knows no transport and no server."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

import trio

from actorchat.actors import Actor, End

__all__ = ["Probe"]

M = TypeVar("M")
E = TypeVar("E")


class Probe(Actor[M]):
    """Takes any message, and gives them to the test in order: `system.spawn(lambda: probe)`."""

    def __init__(self) -> None:
        self._messages: deque[M] = deque()
        self._arrived = trio.Event()
        self.ends: list[End] = []
        """How each of its incarnations ended."""

    async def receive(self, message: M) -> None:
        """Keep `message` for `expect` and `drain`."""
        self._messages.append(message)
        self._arrived.set()

    async def on_stop(self, end: End) -> None:
        """Add `end` to `ends`."""
        self.ends.append(end)

    async def expect(self, kind: type[E], *, within: float = 1.0) -> E:
        """The next message, which must be a `kind` and come `within` seconds. AssertionError otherwise."""
        with trio.move_on_after(within):
            while not self._messages:
                self._arrived = trio.Event()
                await self._arrived.wait()
        if not self._messages:
            raise AssertionError(f"no {kind.__name__} came within {within} s")
        message = self._messages.popleft()
        if not isinstance(message, kind):
            raise AssertionError(f"expected a {kind.__name__}, got {message!r}")
        return message

    def drain(self) -> list[M]:
        """All messages not yet taken, oldest first."""
        messages = list(self._messages)
        self._messages.clear()
        return messages
