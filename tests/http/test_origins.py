"""Which pages may call, over HTTP and sockets alike."""

import pytest

from actorchat.http.origins import is_allowed_origin

ALLOWED = ("https://shop.example", "http://localhost:3000")


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "chat.example", True),
        (None, None, True),
        ("https://chat.example", "chat.example", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("HTTPS://Chat.Example", "chat.example", True),
        ("https://shop.example", "chat.example", True),
        ("http://localhost:3000", "chat.example", True),
        ("http://shop.example", "chat.example", False),
        ("https://shop.example.evil.example", "chat.example", False),
        ("https://evil.example", "chat.example", False),
        ("http://localhost:3001", "chat.example", False),
        ("null", "chat.example", False),
        ("", "", False),
        ("https://[", "chat.example", False),
        ("https://chat.example", None, False),
    ],
)
def test_an_origin_is_allowed_if_configured_or_the_servers_own(
    origin: str | None, host: str | None, allowed: bool
) -> None:
    assert is_allowed_origin(origin, host, ALLOWED) is allowed
