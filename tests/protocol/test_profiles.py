"""The offered subprotocols determine a socket's profile and token."""

import pytest

from actorchat.protocol import Profile, select_subprotocol

STRICT = "actorchat.v1"
EXTENDED = "actorchat.v1.ext"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], (None, Profile.STRICT, None)),
        ([STRICT], (STRICT, Profile.STRICT, None)),
        ([EXTENDED], (EXTENDED, Profile.EXTENDED, None)),
        (["mqtt"], (None, Profile.STRICT, None)),
        (["mqtt", EXTENDED], (EXTENDED, Profile.EXTENDED, None)),
        ([EXTENDED, STRICT], (EXTENDED, Profile.EXTENDED, None)),
        ([STRICT, EXTENDED], (STRICT, Profile.STRICT, None)),
        (["bearer.a.b.c"], (None, Profile.STRICT, "a.b.c")),
        ([EXTENDED, "bearer.a.b.c"], (EXTENDED, Profile.EXTENDED, "a.b.c")),
        (["bearer.a.b.c", STRICT], (STRICT, Profile.STRICT, "a.b.c")),
        (["bearer.a", "bearer.b"], (None, Profile.STRICT, "a")),
        (["bearer."], (None, Profile.STRICT, "")),
    ],
)
def test_the_first_known_subprotocol_and_the_first_token_win(
    offered: list[str], chosen: tuple[str | None, Profile, str | None]
) -> None:
    assert select_subprotocol(offered) == chosen
