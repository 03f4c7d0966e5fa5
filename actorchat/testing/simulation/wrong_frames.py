"""Frames that no client may send, each with its fault."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

__all__ = ["WRONG", "Fault", "fault_of"]


class Fault(Enum):
    """The fault of a frame."""

    MALFORMED = auto()
    SEND = auto()
    """A malformed `send_message`."""
    TYPING = auto()
    """A malformed `update_typing`, which is answered with an error but never closes the socket."""
    UNKNOWN = auto()
    """A type that the contract does not know."""
    NOT_UTF8 = auto()
    TOO_BIG = auto()


WRONG: Final[Mapping[bytes, Fault]] = {
    b"hello": Fault.MALFORMED,
    b"": Fault.MALFORMED,
    b'{"type":"send_message"': Fault.MALFORMED,
    b"[]": Fault.MALFORMED,
    b'"send_message"': Fault.MALFORMED,
    b"{}": Fault.MALFORMED,
    b'{"type":1,"data":{}}': Fault.MALFORMED,
    b'{"type":"mark_message_read","data":{}}': Fault.MALFORMED,
    b'{"type":"mark_message_read","data":{"message_id":"7"}}': Fault.MALFORMED,
    b'{"type":"mark_message_delivered","data":{"message_id":99999999999999999999}}': Fault.MALFORMED,
    b'{"type":"update_typing","data":{"text":7,"stopped":false}}': Fault.TYPING,
    b'{"type":"send_message","data":{}}': Fault.SEND,
    b'{"type":"send_message","data":{"text":7,"attachments":[]}}': Fault.SEND,
    b'{"type":"send_message","data":{"text":"a\\u0000b","attachments":[]}}': Fault.SEND,
    b'{"type":"send_message","data":{"text":"x","attachments":["nothing"]}}': Fault.SEND,
    b'{"type":"dance","data":{}}': Fault.UNKNOWN,
    b'{"type":"message_added","data":{}}': Fault.UNKNOWN,
    b"\xff\xfe": Fault.NOT_UTF8,
    b'{"type":"' + b"x" * 70_000 + b'"}': Fault.TOO_BIG,
}
"""The fault of each text frame."""


def fault_of(payload: bytes, *, binary: bool) -> Fault | None:
    """Return the fault of a frame, or None if it has none."""
    return Fault.MALFORMED if binary else WRONG.get(payload)
