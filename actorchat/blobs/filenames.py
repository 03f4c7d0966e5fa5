"""Cleans the names of uploaded files."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["MAX_NAME_BYTES", "clean_filename", "extension_of"]

MAX_NAME_BYTES: Final = 255
"""Bytes of UTF-8 in a file's name, the bound of most file systems."""

_NAMELESS: Final = "file"
_EXTENSION: Final = re.compile(r"\.([0-9A-Za-z]{1,16})")

# Kept, because they join letters and emoji, and do not change the direction of text.
_JOINERS: Final = frozenset("\u200c\u200d")
# At the ends of a name, joiners join nothing: they are invisible and would hide the extension.
_NOT_AT_ENDS: Final = ". \u200c\u200d"
_REMOVED: Final = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})


def clean_filename(name: str) -> str:
    """The last part of a path, without control, formatting and bidirectional characters, in at most 255 bytes.

    A name that is too long loses characters in front of its extension. Never empty.
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(
        character
        for character in unicodedata.normalize("NFC", last)
        if character in _JOINERS or unicodedata.category(character) not in _REMOVED
    )
    # Windows drops dots and spaces at the end, and a leading dot hides a file.
    kept = " ".join(kept.split()).strip(_NOT_AT_ENDS)
    return _shorten(kept) or _NAMELESS


def extension_of(name: str) -> str:
    """The extension of a clean name in lower case and without its dot, "" if it has none."""
    found = _EXTENSION.fullmatch(name, max(name.rfind("."), 0))
    return found[1].lower() if found else ""


def _shorten(name: str) -> str:
    encoded = name.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    extension = extension_of(name)
    end = f".{extension}".encode() if extension else b""
    start = encoded[: MAX_NAME_BYTES - len(end)].decode(errors="ignore").rstrip(_NOT_AT_ENDS)
    return start + end.decode()
