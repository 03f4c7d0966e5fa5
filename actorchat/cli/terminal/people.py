"""Owns how people and their words are written in a terminal.

Refuses to know chats and screens.
"""

from typing import Final

from actorchat.protocol.entities import Role, User
from actorchat.protocol.times import parse_wire_time

QUOTED_WIDTH: Final = 60
"""Of what is only quoted, this many characters are shown."""

_KEPT: Final = frozenset("\n\u200c\u200d")
"""Scripts and emoji are joined with the latter two, and variation selectors count as printable."""

_NEWLINE: Final = " ⏎ "


def name_of(user: User | None) -> str:
    """A person's name, or what is known instead."""
    if user is None:
        return "the server"
    full = one_line(" ".join(part for part in (user.firstname, user.lastname) if part))
    if full:
        return full
    return f"operator {user.id}" if user.role is Role.OPERATOR else f"visitor {user.id % 10_000:04}"


def clean(text: str) -> str:
    """Text that cannot steer the terminal: line breaks and joiners stay, other control characters do not."""
    kept = (
        char if char in _KEPT or char.isprintable() else " " if char == "\t" else "\ufffd"
        for char in text.replace("\r\n", "\n")
    )
    return "".join(kept)


def one_line(text: str) -> str:
    """Clean text on one line."""
    return clean(text).replace("\n", _NEWLINE)


def shorten(text: str, width: int) -> str:
    """One line of at most ``width`` characters."""
    line = one_line(text)
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


def clock_of(send_time: str) -> str:
    """Hours and minutes where the terminal is."""
    return f"{parse_wire_time(send_time).astimezone():%H:%M}"
