"""Defines what nodes tell each other over a bus, and how it is encoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs
import msgspec

__all__ = [
    "MOST_WHISPERED",
    "InvalidFrame",
    "Note",
    "Outgoing",
    "Told",
    "Whisper",
    "decode_frame",
    "encode_frame",
    "encode_note",
]

MOST_WHISPERED: Final = 4_096
"""Bytes that the body of a `Whisper` may have, so that it fits into a frame of every bus."""

MOST_NOTES: Final = 1_000
MOST_BYTES: Final = 8_388_608
"""How much may wait to be sent. Over either limit the oldest notes are dropped: storage has what they told."""


class Told(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """`writer` has committed its batch `number`; the one before it in the log is `previous`.

    `payload` is that of the log, None if the receiver has to read it there.
    """

    writer: str
    number: int
    previous: int
    payload: bytes | None = None


class Whisper(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Something of `node` that storage does not have, or has later. Receivers ignore a `kind` that they don't know.

    `epoch` is that of the node's registration.
    """

    node: str
    epoch: int
    kind: str
    body: bytes


Note = Told | Whisper

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(tuple[bytes, tuple[Note, ...]])


class InvalidFrame(ValueError):  # noqa: N818 - describes a value
    """The bytes are no frame of this version of the program."""


def encode_frame(origin: bytes, notes: Sequence[bytes]) -> bytes:
    """One frame with `notes`, which are encoded already. `origin` names the bus object that sends it."""
    return _encoder.encode((origin, [msgspec.Raw(note) for note in notes]))


def decode_frame(frame: bytes) -> tuple[bytes, tuple[Note, ...]]:
    """The origin and the notes of a frame. Raises `InvalidFrame`."""
    try:
        return _decoder.decode(frame)
    except msgspec.MsgspecError as error:
        raise InvalidFrame(str(error)) from None


def encode_note(note: Note) -> bytes:
    """Encode one note. Raises ValueError for a whisper that is too large for a bus."""
    if isinstance(note, Whisper) and len(note.body) > MOST_WHISPERED:
        raise ValueError(f"a whisper has at most {MOST_WHISPERED} bytes, this one has {len(note.body)}")
    return _encoder.encode(note)


@attrs.define
class Outgoing:
    """Notes that wait to be sent, the oldest first. `dropped` counts those that were dropped over the bound."""

    dropped: int = 0
    _waiting: deque[tuple[Note, bytes]] = attrs.field(factory=deque, init=False)
    _bytes: int = attrs.field(default=0, init=False)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, note: Note) -> None:
        """Add a note. Raises ValueError for a whisper that is too large for a bus."""
        encoded = encode_note(note)
        self._waiting.append((note, encoded))
        self._bytes += len(encoded)
        while len(self._waiting) > MOST_NOTES or (self._bytes > MOST_BYTES and len(self._waiting) > 1):
            self._bytes -= len(self._waiting.popleft()[1])
            self.dropped += 1

    def take(self, size: int) -> list[bytes]:
        """The oldest notes, encoded, together of at most `size` bytes. A larger `Told` goes without its payload."""
        taken: list[bytes] = []
        while self._waiting:
            note, encoded = self._waiting[0]
            self._bytes -= len(encoded)
            if len(encoded) > size and isinstance(note, Told) and not taken:
                encoded = _encoder.encode(msgspec.structs.replace(note, payload=None))
            if taken and len(encoded) > size:
                self._bytes += len(encoded)
                break
            self._waiting.popleft()
            taken.append(encoded)
            size -= len(encoded)
        return taken
