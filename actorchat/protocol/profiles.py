"""Defines the two protocol profiles, and selects one from the subprotocols that a client offers."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

_BEARER: Final = "bearer."


class Profile(Enum):
    """Which events and fields a socket understands. The value is the subprotocol that selects it."""

    STRICT = "actorchat.v1"
    EXTENDED = "actorchat.v1.ext"


_PROFILES: Final = {profile.value: profile for profile in Profile}


def select_subprotocol(offered: Sequence[str]) -> tuple[str | None, Profile, str | None]:
    """Select from the offered subprotocols, and return the selected name, its profile and the bearer token.

    The first known name wins. Without one, the name is None and the profile is strict. The token is that of the first
    ``bearer.<token>``, or None.
    """
    chosen: str | None = None
    token: str | None = None
    for name in offered:
        if chosen is None and name in _PROFILES:
            chosen = name
        elif token is None and name.startswith(_BEARER):
            token = name.removeprefix(_BEARER)
    return chosen, Profile.STRICT if chosen is None else _PROFILES[chosen], token
