"""Tells in plain lines what a client did and saw, and which faults were played meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from actorchat.testing.checker.faults import Played
from actorchat.testing.checker.people import Console, Person

__all__ = ["tell_history"]

_MOST_FAULTS: Final = 40


def tell_history(client: Person | Console, played: Sequence[Played]) -> list[str]:
    """The last lines of the client's notes, and the faults of that time."""
    lines = client.notes.lines
    whose = f" in chat {client.chat}" if isinstance(client, Person) else ""
    since = float(lines[0].split()[0]) if lines else 0.0
    faults = [each for each in played if each.until is None or each.until >= since]
    return [
        f"--- the last that {client.name} did and saw{whose}, with the seconds of the check",
        *lines,
        "--- the faults of that time" if faults else "--- no faults at that time",
        *map(_line, faults[-_MOST_FAULTS:]),
    ]


def _line(played: Played) -> str:
    until = "the end" if played.until is None else f"{played.until:.3f}"
    return f"{played.since:9.3f} until {until}: {played.name} on {played.node}"
