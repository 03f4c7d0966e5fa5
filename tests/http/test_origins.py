"""Which origins may call, over HTTP and websockets."""

import httpx
import pytest
from starlette.responses import Response

from actorchat.http.cors import Cors
from actorchat.http.origins import REPEATED_AFTER, AllowedOrigins, InvalidOrigin, parse_origin

ALLOWED = (
    "https://shop.example",
    "http://localhost:3000",
    "https://*.wild.example",
    "http://*.wild.example:8080",
    "capacitor://localhost",
)


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
        ("https://chat.example", "chat.example:443", True),
        ("http://chat.example", "chat.example:80", True),
        ("https://chat.example:443", "chat.example", True),
        ("http://chat.example", "chat.example:443", False),
        ("https://chat.example:8443", "chat.example:443", False),
        ("https://chat.example:8443", "chat.example:8443", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]", "[::1]:80", True),
        ("https://[::1]", "[::2]", False),
        ("https://shop.example:443", "chat.example", True),
        ("https://xn--80aswg.example", "xn--80aswg.example", True),
        ("https://a.wild.example", "chat.example", True),
        ("https://b.a.wild.example:443", "chat.example", True),
        ("http://a.wild.example:8080", "chat.example", True),
        ("https://wild.example", "chat.example", False),
        ("https://.wild.example", "chat.example", False),
        ("https://evilwild.example", "chat.example", False),
        ("https://a.wild.example.evil.example", "chat.example", False),
        ("http://a.wild.example", "chat.example", False),
        ("https://a.wild.example:8443", "chat.example", False),
        ("capacitor://localhost", "chat.example", True),
        ("ionic://localhost", "localhost", False),
        ("https://user@shop.example", "chat.example", False),
        ("https://a/.wild.example", "chat.example", False),
    ],
)
def test_the_servers_own_and_configured_origins_are_allowed(
    origin: str | None, host: str | None, allowed: bool
) -> None:
    assert AllowedOrigins(ALLOWED).allow(origin, host) is allowed


@pytest.mark.parametrize("origin", ["null", "file://", "ionic://localhost", "chrome-extension://abcdefgh"])
def test_origins_of_apps_are_allowed_if_configured(origin: str) -> None:
    assert not AllowedOrigins().allow(origin, "chat.example")
    assert AllowedOrigins([parse_origin(origin)]).allow(origin, "chat.example")


@pytest.mark.parametrize(
    ("entry", "origin"),
    [
        ("https://Shop.Example/", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("http://shop.example:443", "http://shop.example:443"),
        ("https://shop.example:0443", "https://shop.example"),
        ("https://shop.example:", "https://shop.example"),
        ("https://магазин.рф", "https://xn--80aairftm.xn--p1ai"),
        ("https://faß.example", "https://xn--fa-hia.example"),
        ("https://*.Müller.example:8443", "https://*.xn--mller-kva.example:8443"),
        ("http://[0:0:0:0:0:0:0:1]:8000", "http://[::1]:8000"),
        ("http://192.168.0.1:8000", "http://192.168.0.1:8000"),
        ("Capacitor://localhost", "capacitor://localhost"),
        ("app://localhost:3000", "app://localhost:3000"),
        ("NULL", "null"),
    ],
)
def test_an_entry_is_written_as_browsers_serialise_it(entry: str, origin: str) -> None:
    assert parse_origin(entry) == origin
    assert AllowedOrigins([origin]).allow(origin.replace("*", "a"), None)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("shop.example", "with its scheme"),
        ("*", "with its scheme"),
        ("", "with its scheme"),
        ("https://", "expected a host"),
        ("https://shop.example/path", "without a path"),
        ("https://shop.example?x", "without a path"),
        ("https://user:secret@shop.example", "must not contain a user name"),
        ("wss://shop.example", "not with wss://"),
        ("https://*", "first part of the host"),
        ("https://*.", "expected a host"),
        ("https://a.*.example", "first part of the host"),
        ("https://shop*.example", "first part of the host"),
        ("https://shop.example:99999", "invalid port 99999"),
        ("https://shop.example:0", "invalid port 0"),
        ("https://shop.example:http", "is not a host"),
        ("https://shop example", "is not a host"),
        ("https://shop..example", "is not a host"),
        ("http://::1", "is not a host"),
        ("http://[::g]", "is not an IPv6 address"),
        ("http://127.1", "is not an IPv4 address"),
        ("https://\u2028.example", "xn--"),
        ("capacitor://", "expected one host"),
        ("capacitor://*", "expected one host"),
    ],
)
def test_an_entry_that_can_never_match_is_refused_with_the_reason(entry: str, why: str) -> None:
    with pytest.raises(InvalidOrigin, match=why):
        parse_origin(entry)


def test_a_refused_origin_is_logged_once_with_what_to_configure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    origins = AllowedOrigins(clock=lambda: now)
    for _ in range(3):
        origins.log_refusal("https://Shop.example", "chat.example")
    (line,) = caplog.messages
    assert "'https://Shop.example'" in line
    assert "'chat.example'" in line
    assert 'origins = ["https://shop.example"]' in line
    now = REPEATED_AFTER
    origins.log_refusal("https://Shop.example", "chat.example")
    assert len(caplog.messages) == 2


def test_any_number_of_refused_origins_is_logged_a_few_times_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    origins = AllowedOrigins(clock=lambda: now)
    for second in range(60):
        now = second
        for number in range(100):
            origins.log_refusal(f"https://{second}-{number}.example/" + "x" * 1000, None)
    assert len(caplog.messages) <= 20
    assert max(map(len, caplog.messages)) < 500
    assert "not an origin that could be allowed" in caplog.messages[0]


@pytest.mark.parametrize(
    ("further", "allowed"),
    [
        ((), "authorization, content-type, idempotency-key, if-none-match"),
        (("traceparent", "authorization"), "authorization, content-type, idempotency-key, if-none-match, traceparent"),
    ],
)
async def test_a_preflight_names_the_headers_that_a_page_may_send(further: tuple[str, ...], allowed: str) -> None:
    app = Cors(Response("never reached"), AllowedOrigins(ALLOWED), further)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://chat.example") as http:
        asked = {"Origin": ALLOWED[0], "Access-Control-Request-Method": "POST"}
        for _ in range(2):
            answer = await http.options("/api/visitors", headers=asked)
            assert answer.status_code == 204
            assert answer.headers["access-control-allow-headers"] == allowed
            assert answer.headers["access-control-allow-origin"] == ALLOWED[0]
