"""Encodes a position in a list of chats as an opaque cursor, and decodes it."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from actorchat.chat.ports import ListPlace

__all__ = ["cursor_of", "place_of"]

_PLACE: Final = re.compile(rb"1 ([0-9]{1,16}) (-?[0-9]{1,16})")


def cursor_of(place: ListPlace) -> str:
    """Encode `place` as text that needs no quoting in a URL and never looks like a UUID."""
    return urlsafe_b64encode(b"1 %d %d" % (place.start, place.place)).rstrip(b"=").decode()


def place_of(cursor: str) -> ListPlace:
    """Decode a cursor of `cursor_of`. Raises ValueError for any other text."""
    text = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ValueError("not a cursor of a list")
    return ListPlace(int(match[1]), int(match[2]))
