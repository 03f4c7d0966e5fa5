"""An actor that records the messages it receives, for tests of other actors."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

import trio

from actorchat.actors import Actor, End

__all__ = ["Probe"]

M = TypeVar("M")
E = TypeVar("E")


class Probe(Actor[M]):
    """Records every message, for a test to read in order. Spawn it with `system.spawn(lambda: probe)`."""

    def __init__(self) -> None:
        self._messages: deque[M] = deque()
        self._arrived = trio.Event()
        self.ends: list[End] = []
        """How each incarnation ended, oldest first."""

    async def receive(self, message: M) -> None:
        """Keep `message` for `expect` and `drain`."""
        self._messages.append(message)
        self._arrived.set()

    async def on_stop(self, end: End) -> None:
        """Add `end` to `ends`."""
        self.ends.append(end)

    async def expect(self, kind: type[E], *, within: float = 1.0) -> E:
        """Return the next message.

        Raises AssertionError if none arrives `within` seconds, or if it is not a `kind`.
        """
        with trio.move_on_after(within):
            while not self._messages:
                self._arrived = trio.Event()
                await self._arrived.wait()
        if not self._messages:
            raise AssertionError(f"no {kind.__name__} arrived within {within} s")
        message = self._messages.popleft()
        if not isinstance(message, kind):
            raise AssertionError(f"expected a {kind.__name__}, got {message!r}")
        return message

    def drain(self) -> list[M]:
        """Return and forget all messages that `expect` has not returned, oldest first."""
        messages = list(self._messages)
        self._messages.clear()
        return messages
