"""The host, path and query of a request's target."""

import pytest

from actorchat.http.request_target import split_target


@pytest.mark.parametrize(
    ("target", "split"),
    [
        ("/api/chats?limit=1", (None, "/api/chats?limit=1")),
        ("//evil.example/api", (None, "//evil.example/api")),
        ("*", (None, "*")),
        ("http://chat.example", ("chat.example", "/")),
        ("http://chat.example?limit=1", ("chat.example", "/?limit=1")),
        ("https://chat.example:8443/api/chats?to=http://x", ("chat.example:8443", "/api/chats?to=http://x")),
        ("HTTP://[::1]:8000/api", ("[::1]:8000", "/api")),
        ("ftp://chat.example/", (None, "ftp://chat.example/")),
    ],
)
def test_a_target_in_absolute_form_is_split(target: str, split: tuple[str | None, str]) -> None:
    assert split_target(target) == split
