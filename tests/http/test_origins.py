"""Which pages may call, over HTTP and sockets alike."""

import httpx
import pytest
from starlette.responses import Response

from actorchat.http.origins import Origins, is_allowed_origin

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


@pytest.mark.parametrize(
    ("further", "allowed"),
    [
        ((), "authorization, content-type"),
        (("traceparent", "authorization"), "authorization, content-type, traceparent"),
    ],
)
async def test_a_preflight_names_the_headers_that_a_page_may_send(further: tuple[str, ...], allowed: str) -> None:
    app = Origins(Response("never reached"), ALLOWED, further)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://chat.example") as http:
        asked = {"Origin": ALLOWED[0], "Access-Control-Request-Method": "POST"}
        for _ in range(2):
            answer = await http.options("/api/visitors", headers=asked)
            assert answer.status_code == 204
            assert answer.headers["access-control-allow-headers"] == allowed
            assert answer.headers["access-control-allow-origin"] == ALLOWED[0]
