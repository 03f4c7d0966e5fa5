"""Formats the names of users and the times of messages."""

from actorchat.cli.text import one_line
from actorchat.protocol.entities import Role, User
from actorchat.protocol.times import parse_wire_time


def display_name(user: User | None) -> str:
    """The user's name, or role and id if there is none; None stands for the server."""
    if user is None:
        return "the server"
    full = one_line(" ".join(part for part in (user.firstname, user.lastname) if part))
    if full:
        return full
    return f"operator {user.id}" if user.role is Role.OPERATOR else f"visitor {user.id % 10_000:04}"


def clock_time(send_time: str) -> str:
    """Hours and minutes in the local time zone."""
    return f"{parse_wire_time(send_time).astimezone():%H:%M}"
