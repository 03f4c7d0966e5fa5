"""Owns the two profiles and how a socket asks for one.

Refuses to know tokens: it finds the offered one and hands it on unread.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final

_BEARER: Final = "bearer."


class Profile(Enum):
    """Which events and fields a socket understands; the value is the subprotocol that asks for it."""

    STRICT = "actorchat.v1"
    EXTENDED = "actorchat.v1.ext"


_PROFILES: Final = {profile.value: profile for profile in Profile}


def select_subprotocol(offered: Sequence[str]) -> tuple[str | None, Profile, str | None]:
    """Choose from the offered subprotocols: (the one to answer with, its profile, the bearer token).

    The client's first known name wins; with none the answer is None and the profile strict.
    The token is that of the first ``bearer.<token>``, None if there is none.
    """
    chosen: str | None = None
    token: str | None = None
    for name in offered:
        if chosen is None and name in _PROFILES:
            chosen = name
        elif token is None and name.startswith(_BEARER):
            token = name.removeprefix(_BEARER)
    return chosen, Profile.STRICT if chosen is None else _PROFILES[chosen], token
