"""Encodes a server's websocket frames, whose bytes are shared by all recipients."""

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Final

import msgspec

from actorchat.protocol.limits import MAX_CONTROL_BYTES


class CloseCode(IntEnum):
    """Why a socket is closed. The codes are API, the reason texts are not."""

    DONE = 1000
    DRAINING = 1001
    NOT_UTF8 = 1007
    MALFORMED = 1008
    TOO_BIG = 1009
    SERVER_FAILED = 1011
    RESTARTING = 1012
    OVERLOADED = 1013
    NOT_AUTHENTICATED = 4401
    NOT_ALLOWED = 4403
    NO_SUCH_CHAT = 4404
    SIGNED_OUT = 4410


COME_BACK: Final[frozenset[int]] = frozenset({1001, 1006, 1011, 1012, 1013})
"""The codes after which a client reconnects, with jitter. 1006 means that the socket ended without a close frame."""

_TEXT: Final = 0x81
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A


_pack_medium: Final = struct.Struct("!BBH").pack
_pack_large: Final = struct.Struct("!BBQ").pack


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65_536:
        return _pack_medium(first, 126, length)
    return _pack_large(first, 127, length)


def _frame(first: int, payload: bytes) -> bytes:
    return _header(first, len(payload)) + payload


def text_frame(payload: bytes) -> bytes:
    """Return one final text frame with this UTF-8 JSON."""
    return _header(_TEXT, len(payload)) + payload


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a ping frame. Raises ValueError for more than 125 bytes."""
    return _control(_PING, payload)


def pong_frame(payload: bytes = b"") -> bytes:
    """Return the answer to a ping with this payload. Raises ValueError for more than 125 bytes."""
    return _control(_PONG, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame. A reason that is too long for a control frame is cut between two characters."""
    cut = reason.encode(errors="replace")[: MAX_CONTROL_BYTES - 2].decode(errors="ignore")
    return _frame(_CLOSE, int(code).to_bytes(2) + cut.encode())


def _control(first: int, payload: bytes) -> bytes:
    if len(payload) > MAX_CONTROL_BYTES:
        raise ValueError(f"a control frame holds at most {MAX_CONTROL_BYTES} bytes, got {len(payload)}")
    return _frame(first, payload)


class Frames(msgspec.Struct, frozen=True, gc=False):
    """Concatenated text frames: ``ends[i]`` is the offset of the end of frame i in ``data``.

    A full outbox first drops frames with ``typing``.
    """

    data: bytes
    ends: tuple[int, ...]
    typing: bool = False

    @classmethod
    def of(cls, payloads: Sequence[bytes], typing: bool = False) -> "Frames":
        """Make one frame for each JSON payload, in order."""
        if len(payloads) == 1:
            frame = text_frame(payloads[0])
            return cls(frame, (len(frame),), typing)
        parts: list[bytes] = []
        ends: list[int] = []
        end = 0
        for payload in payloads:
            header = _header(_TEXT, len(payload))
            parts.append(header)
            parts.append(payload)
            end += len(header) + len(payload)
            ends.append(end)
        return cls(b"".join(parts), tuple(ends), typing)

    @classmethod
    def joined(cls, frames: Sequence[bytes], typing: bool = False) -> "Frames":
        """Concatenate frames made by `text_frame`."""
        if len(frames) == 1:
            return cls(frames[0], (len(frames[0]),), typing)
        return cls(b"".join(frames), tuple(accumulate(map(len, frames))), typing)

    def payloads(self) -> tuple[bytes, ...]:
        """The JSON payloads of the frames, in order."""
        return tuple(self._split())

    def after(self, count: int) -> "Frames":
        """Return the frames without the first ``count``."""
        if not count:
            return self
        start = self.ends[count - 1]
        return Frames(self.data[start:], tuple(end - start for end in self.ends[count:]), self.typing)

    def _split(self) -> Iterator[bytes]:
        for start, end in pairwise((0, *self.ends)):
            length = self.data[start + 1]
            header = 2 if length < 126 else 4 if length == 126 else 10
            yield self.data[start + header : end]


def join(parts: Sequence[Frames]) -> Frames:
    """Concatenate frames. The result has ``typing`` if all parts have it, and there is at least one."""
    if len(parts) == 1:
        return parts[0]
    ends: list[int] = []
    start = 0
    for part in parts:
        ends.extend([start + end for end in part.ends])
        start += len(part.data)
    typing = bool(parts) and all(part.typing for part in parts)
    return Frames(b"".join([part.data for part in parts]), tuple(ends), typing)
