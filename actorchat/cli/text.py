"""Makes untrusted text safe to print on a terminal, and shortens it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final

__all__ = ["QUOTED_WIDTH", "clean", "counted", "fit", "one_line", "shorten"]

QUOTED_WIDTH: Final = 60
"""How many characters of a quoted text are shown."""

_KEPT: Final = frozenset("\n\u200c\u200d")
"""Line breaks, and the two zero-width joiners that some scripts and emoji need."""

_DROPPED: Final = frozenset("\u00ad\u2060\ufeff") | {chr(code) for code in range(0xE0020, 0xE0080)}
"""Harmless invisible characters: soft hyphen, word joiner, byte order mark, and the tags in some flag emoji."""

_NEWLINE: Final = " ⏎ "


def clean(text: str) -> str:
    """Return `text` without anything that could control the terminal or reorder the line.

    Line breaks and joiners stay, and a tab becomes a space. Control characters (and so escape sequences), bidirectional
    overrides and lone surrogates become U+FFFD.
    """
    if text.isprintable():
        return text
    return "".join(map(_clean, text.replace("\r\n", "\n")))


def _clean(char: str) -> str:
    if char in _KEPT or char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    if char == "\t":
        return " "
    return "" if char in _DROPPED else "\ufffd"


def one_line(text: str) -> str:
    """Return `text`, cleaned, on one line: a line break becomes ⏎."""
    return clean(text).replace("\n", _NEWLINE)


def fit(text: str, width: int, measure: Callable[[str], int] = len) -> str:
    """Return `text` on one line, cut to at most `width` as `measure` counts it."""
    line = one_line(text)
    if measure(line) <= width:
        return line
    kept, room_left = "", width - 1
    for char in line:
        room_left -= measure(char)
        if room_left < 0:
            break
        kept += char
    return kept + "…" if width > 0 else ""


def shorten(text: str, width: int) -> str:
    """Return `text` on one line, cut to at most `width` characters."""
    return fit(text, width)


def counted(number: int, noun: str) -> str:
    """Return the number with its noun: "1 chat", "2 chats"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
