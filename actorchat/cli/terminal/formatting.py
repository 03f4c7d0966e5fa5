"""How people and times are written in a terminal."""

from actorchat.cli.text import one_line
from actorchat.protocol.entities import Role, User
from actorchat.protocol.times import parse_wire_time


def name_of(user: User | None) -> str:
    """A person's name, or what is known instead."""
    if user is None:
        return "the server"
    full = one_line(" ".join(part for part in (user.firstname, user.lastname) if part))
    if full:
        return full
    return f"operator {user.id}" if user.role is Role.OPERATOR else f"visitor {user.id % 10_000:04}"


def clock_of(send_time: str) -> str:
    """Hours and minutes where the terminal is."""
    return f"{parse_wire_time(send_time).astimezone():%H:%M}"
