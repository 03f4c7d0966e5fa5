"""Makes text from elsewhere safe to print: names, messages, file names and errors, on one line or several."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final

__all__ = ["QUOTED_WIDTH", "clean", "counted", "fit", "one_line", "shorten"]

QUOTED_WIDTH: Final = 60
"""Of what is only quoted, this many characters are shown."""

_KEPT: Final = frozenset("\n\u200c\u200d")
"""Scripts and emoji are joined with the latter two, and variation selectors count as printable."""

_DROPPED: Final = frozenset("\u00ad\u2060\ufeff") | {chr(code) for code in range(0xE0020, 0xE0080)}
"""Harmless marks that are not seen: soft hyphens, word joiners, byte order marks, and the tags of some flags."""

_NEWLINE: Final = " ⏎ "


def clean(text: str) -> str:
    """`text` without anything that could steer the terminal or reorder the line.

    Line breaks and joiners stay, a tab is a space. Control characters, escape sequences, bidirectional overrides and
    halves of surrogate pairs become U+FFFD.
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
    """`text`, cleaned, on one line."""
    return clean(text).replace("\n", _NEWLINE)


def fit(text: str, width: int, measure: Callable[[str], int] = len) -> str:
    """One line of `text` that is at most `width` wide; `measure` says how wide a text is."""
    line = one_line(text)
    if measure(line) <= width:
        return line
    kept, left = "", width - 1
    for char in line:
        left -= measure(char)
        if left < 0:
            break
        kept += char
    return kept + "…" if width > 0 else ""


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    return fit(text, width)


def counted(number: int, noun: str) -> str:
    """The number and the noun: "1 chat", "2 chats"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
