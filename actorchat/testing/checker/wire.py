"""Finds, in the bytes of connections, where the notes of a bus end and where a batch is committed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["CommitFinder", "FrameEnd", "is_note", "postgres_frame_end", "redis_frame_end"]

FrameEnd = Callable[[bytes, int], int | None]
"""Where the frame that begins at an offset ends, None if not all of it is there."""

_HEAD: Final = 5
_SIZED: Final = b"$=!"
_NESTED: Final = b"*>~"
_PAIRS: Final = b"%"
_LONGEST_HEAD: Final = 32
"""Bytes of a Redis reply that show that it is a published message."""

_PREPARED_COMMIT: Final = re.compile(rb"(_pg3_\w+)\x00COMMIT\x00")
"""The message that prepares COMMIT under a name, which is all that later messages say."""

_LOGS: Final = b"INSERT INTO commits"
"""Only the connection that commits batches sends it."""


def postgres_frame_end(data: bytes, start: int) -> int | None:
    """`FrameEnd` of what a PostgreSQL server sends without TLS."""
    if len(data) < start + _HEAD:
        return None
    end = start + 1 + int.from_bytes(data[start + 1 : start + _HEAD], "big")
    return end if end <= len(data) else None


def redis_frame_end(data: bytes, start: int) -> int | None:
    """`FrameEnd` of what a Redis or Valkey server sends."""
    line = data.find(b"\r\n", start)
    if line < 0:
        return None
    kind, end = data[start], line + 2
    if kind in _SIZED:
        size = int(data[start + 1 : line])
        end += size + 2 if size >= 0 else 0
        return end if end <= len(data) else None
    if kind in _NESTED or kind in _PAIRS:
        for _ in range(int(data[start + 1 : line]) * (2 if kind in _PAIRS else 1)):
            inner = redis_frame_end(data, end)
            if inner is None:
                return None
            end = inner
    return end


def is_note(frame: bytes) -> bool:
    """Whether the frame has what another client of the bus has told."""
    return frame[:1] == b"A" or b"$7\r\nmessage\r\n" in frame[:_LONGEST_HEAD]


class CommitFinder:
    """Looks for the COMMIT of a batch in what one connection sends to PostgreSQL."""

    def __init__(self) -> None:
        self._name = b"COMMIT"
        self._logs = False

    def commits(self, data: bytes) -> bool:
        """Whether `data`, the next bytes, has it."""
        if (found := _PREPARED_COMMIT.search(data)) is not None:
            self._name = found[1]
        self._logs = self._logs or _LOGS in data
        return self._logs and self._name + b"\0" in data
