"""Pauses reading from a connection while the handler of a large body is behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import trio
from starlette.requests import Request

from actorchat.http.problems import Problem

__all__ = ["PACE_STATE", "BodyPace", "large_body"]

PACE_STATE: Final = "body_pace"
"""The key of the connection's `BodyPace` in the state of a request."""

MAX_BUFFERED: Final = 262_144
"""Bytes of a large body that are buffered before reading pauses."""

STALL_SECONDS: Final = 15.0
"""A body is refused if nothing of it arrives for this long."""

MIN_BYTES_PER_SECOND: Final = 8_192
"""The average rate at which a body must arrive, after the first `STALL_SECONDS`."""


class BodyPace:
    """Limits how much of a large body is buffered on one connection. Without a large body it limits nothing."""

    __slots__ = ("_active", "_buffered", "_changed", "_handler_waits")

    def __init__(self) -> None:
        self._active = self._handler_waits = False
        self._buffered = 0
        self._changed = trio.Event()

    @property
    def active(self) -> bool:
        """Whether a large body arrives."""
        return self._active

    def begin(self) -> None:
        """Start limiting."""
        self._active, self._buffered = True, 0

    def end(self) -> None:
        """Stop limiting."""
        self._active = False
        self._changed.set()

    def received(self, size: int) -> None:
        """Count bytes read from the connection.

        They include chunk headers, which never reach the handler. So `wait` also returns if the handler waits.
        """
        if self._active:
            self._buffered += size

    def handler_waits(self, waits: bool, size: int = 0) -> None:
        """Note that the handler waits for the next part, or no longer waits, after it received `size` bytes."""
        self._handler_waits = waits
        self._buffered -= size
        self._changed.set()

    async def wait(self) -> None:
        """Wait until more may be read."""
        while self._active and self._buffered > MAX_BUFFERED and not self._handler_waits:
            self._changed = trio.Event()
            await self._changed.wait()


async def large_body(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the body in parts, and read it only as fast as the caller iterates. The caller closes the generator.

    Raises Problem 408 if the body arrives too slowly, and Starlette's ClientDisconnect if the client is gone.
    """
    pace = request.scope.get("state", {}).get(PACE_STATE) or BodyPace()
    pace.begin()
    begun, size = trio.current_time(), 0
    try:
        async with aclosing(request.stream()) as stream:
            while True:
                pace.handler_waits(True)
                with trio.move_on_after(STALL_SECONDS) as stalled:
                    part = await anext(stream, None)
                if stalled.cancelled_caught:
                    raise Problem("timeout", f"nothing of the body arrived for {STALL_SECONDS:.0f} s")
                if part is None:
                    return
                pace.handler_waits(False, len(part))
                size += len(part)
                if size < (trio.current_time() - begun - STALL_SECONDS) * MIN_BYTES_PER_SECOND:
                    raise Problem("timeout", f"the body arrived at less than {MIN_BYTES_PER_SECOND} bytes per second")
                yield part
    finally:
        pace.end()
