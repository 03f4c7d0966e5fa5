"""Holds the reading of a connection back while a handler is behind with a large body."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import trio
from starlette.requests import Request

from actorchat.http.problems import Problem

__all__ = ["PACE_STATE", "BodyPace", "large_body"]

PACE_STATE: Final = "body_pace"
"""Where a request's state has the pace of its connection."""

MOST_UNREAD: Final = 262_144
"""Bytes of a large body that wait for their handler."""

STALL_SECONDS: Final = 15.0
"""A body of which nothing comes for this long is cut off."""

SLOWEST: Final = 8_192
"""Bytes a second that must come on average, once `STALL_SECONDS` have passed."""


class BodyPace:
    """The pace of one connection. Without a large body it holds nothing back."""

    __slots__ = ("_awaited", "_changed", "_held", "_unread")

    def __init__(self) -> None:
        self._held = self._awaited = False
        self._unread = 0
        self._changed = trio.Event()

    def begin(self) -> None:
        """From now on the body is read no faster than it is taken."""
        self._held, self._unread = True, 0

    def end(self) -> None:
        """Hold nothing back any more."""
        self._held = False
        self._changed.set()

    def received(self, size: int) -> None:
        """So many bytes came. What frames them is counted too, so the body may go on while it is waited for."""
        if self._held:
            self._unread += size

    def awaited(self, awaited: bool, size: int = 0) -> None:
        """The handler waits for the next part, or has taken one of `size` bytes."""
        self._awaited = awaited
        self._unread -= size
        self._changed.set()

    async def wait(self) -> None:
        """Return when more may be read."""
        while self._held and self._unread > MOST_UNREAD and not self._awaited:
            self._changed = trio.Event()
            await self._changed.wait()


async def large_body(request: Request) -> AsyncGenerator[bytes, None]:
    """The body in parts, at the caller's pace: little of it is in memory.

    Raises Problem 408 if it comes too slowly, and what Starlette raises if the client is gone. To be closed.
    """
    pace = request.scope.get("state", {}).get(PACE_STATE) or BodyPace()
    pace.begin()
    begun, size = trio.current_time(), 0
    try:
        async with aclosing(request.stream()) as stream:
            while True:
                pace.awaited(True)
                with trio.move_on_after(STALL_SECONDS) as stalled:
                    part = await anext(stream, None)
                if stalled.cancelled_caught:
                    raise Problem("timeout", f"nothing of the body came for {STALL_SECONDS:.0f} s")
                if part is None:
                    return
                pace.awaited(False, len(part))
                size += len(part)
                if size < (trio.current_time() - begun - STALL_SECONDS) * SLOWEST:
                    raise Problem("timeout", f"the body came with less than {SLOWEST} bytes a second")
                yield part
    finally:
        pace.end()
