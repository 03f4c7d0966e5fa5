"""The client of a request that came through trusted proxies."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest

from actorchat.http.proxies import PROXY_HEADERS, Client, Proxies, parse_network
from actorchat.server.settings import HttpSettings, LimitSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, run_server

PROXY = "10.0.0.1"
TRUSTED = ("10.0.0.0/8", "2001:db8:ffff::/48")


def client(peer: str = PROXY, family: str | None = None, **headers: str | list[str]) -> Client:
    """The client of a request from `peer`; a list is several headers of one name.

    `family` is what the proxies write, by default what `headers` begins with.
    """
    family = family or ("forwarded" if next(iter(headers), "") == "forwarded" else "x-forwarded")
    raw = [
        (name.replace("_", "-").encode(), value.encode())
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return Proxies(TRUSTED, family, lambda: 0.0).client(peer, raw)


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("for=192.0.2.43", "192.0.2.43"),
        ("For=192.0.2.43;Proto=https;by=203.0.113.43", "192.0.2.43"),
        ('for="192.0.2.43:47011"', "192.0.2.43"),
        ("for=192.0.2.43:47011", "192.0.2.43"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ('for="[2001:DB8:CAFE:0::17]"', "2001:db8:cafe::17"),
        ('for="[::ffff:192.0.2.43]"', "192.0.2.43"),
        (r'for="\1\92.0.2.43"', "192.0.2.43"),
        ('for = 192.0.2.43 ; host="a,b;c=\\"d"', "192.0.2.43"),
        ("for=6.6.6.6, for=192.0.2.43", "192.0.2.43"),
        ("for=6.6.6.6, for=192.0.2.43, for=10.1.2.3", "192.0.2.43"),
        ('for=192.0.2.43, for="[2001:db8:ffff::5]:80", for=10.1.2.3', "192.0.2.43"),
        (["for=6.6.6.6", "for=192.0.2.43"], "192.0.2.43"),
        ("for=10.1.2.3, for=10.1.2.4", "10.1.2.3"),
        (",, for=192.0.2.43 ,;", "192.0.2.43"),
        ("for=_hidden", "_hidden"),
        ('for="_SEVKISEK:_port"', "_SEVKISEK"),
        ("for=6.6.6.6, for=unknown", PROXY),
        ("for=6.6.6.6, for=unknown, for=10.1.2.3", "10.1.2.3"),
        ("for=6.6.6.6, by=10.0.0.9", PROXY),
        ("for=6.6.6.6, for=client.example", PROXY),
        ("", PROXY),
    ],
    ids=str,
)
def test_the_last_hop_that_is_no_trusted_proxy_is_the_client(forwarded: str | list[str], address: str) -> None:
    assert client(forwarded=forwarded).address == address


@pytest.mark.parametrize(
    "malformed",
    [
        'for="6.6.6.6, for=192.0.2.43',
        'for="6.6.6.6"x, for=192.0.2.43',
        "for, for=192.0.2.43",
        "for=1.1.1.1;for=2.2.2.2",
        "=1",
        "for==",
        'for="\\',
    ],
)
def test_a_malformed_forwarded_says_nothing(malformed: str) -> None:
    """A client must not be able to hide the proxy's entry behind an unclosed quote."""
    assert client(forwarded=malformed) == Client(PROXY)


@pytest.mark.parametrize(
    ("addresses", "address"),
    [
        ("192.0.2.43", "192.0.2.43"),
        ("6.6.6.6, 192.0.2.43", "192.0.2.43"),
        ("6.6.6.6,192.0.2.43 , 10.1.2.3", "192.0.2.43"),
        ("192.0.2.43:1234", "192.0.2.43"),
        ("2001:db8:cafe::17", "2001:db8:cafe::17"),
        ("[2001:db8:cafe::17]:80", "2001:db8:cafe::17"),
        ("::ffff:192.0.2.43", "192.0.2.43"),
        (["6.6.6.6", "192.0.2.43"], "192.0.2.43"),
        ("6.6.6.6, unknown", PROXY),
        ('6.6.6.6, "x', PROXY),
        (" , ", PROXY),
    ],
    ids=str,
)
def test_x_forwarded_for_is_read_in_the_same_way(addresses: str | list[str], address: str) -> None:
    assert client(x_forwarded_for=addresses).address == address


@pytest.mark.parametrize("peer", ["192.0.2.1", "2001:db8::1", "", "not an address", "11.0.0.1"])
def test_headers_of_untrusted_peers_are_ignored(peer: str) -> None:
    assert client(peer, forwarded="for=6.6.6.6;proto=https", x_forwarded_proto="https") == Client(peer)
    assert client(peer, x_forwarded_for="6.6.6.6") == Client(peer)


@pytest.mark.parametrize("peer", [PROXY, "::ffff:10.0.0.1", "2001:db8:ffff:1::2"])
def test_a_proxy_is_trusted_by_its_network(peer: str) -> None:
    assert client(peer, x_forwarded_for="192.0.2.43").address == "192.0.2.43"


def test_headers_that_the_proxies_dont_write_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """A proxy passes on the other family as the client forged it."""
    forged = "for=6.6.6.6;proto=http"
    x_forwarded = {"x_forwarded_for": "192.0.2.43", "x_forwarded_proto": "https"}
    assert client(PROXY, "x-forwarded", forwarded=forged, **x_forwarded) == Client("192.0.2.43", "https")
    assert client(PROXY, "x-forwarded", forwarded=forged, x_forwarded_proto="https") == Client(PROXY, "https")
    written = "for=192.0.2.43;proto=https"
    assert client(PROXY, "forwarded", forwarded=written, x_forwarded_for="6.6.6.6") == Client("192.0.2.43", "https")
    assert client(PROXY, "forwarded", forwarded="for=192.0.2.43", x_forwarded_proto="https").scheme is None


def test_a_proxy_that_writes_only_the_other_headers_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert client(PROXY, "x-forwarded", forwarded="for=6.6.6.6") == Client(PROXY)
    assert client(PROXY, "forwarded", x_forwarded_for="6.6.6.6") == Client(PROXY)
    first, second = caplog.messages
    assert 'proxy_headers = "forwarded"' in first
    assert 'proxy_headers = "x-forwarded"' in second


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        ({"forwarded": "for=192.0.2.43;proto=https"}, "https"),
        ({"forwarded": "for=6.6.6.6;proto=http, for=192.0.2.43;proto=HTTPS, for=10.1.2.3;proto=http"}, "https"),
        ({"forwarded": "for=192.0.2.43"}, None),
        ({"x_forwarded_for": "192.0.2.43", "x_forwarded_proto": "https"}, "https"),
        ({"x_forwarded_for": "192.0.2.43, 10.1.2.3", "x_forwarded_proto": "https, http"}, "https"),
        ({"x_forwarded_for": "6.6.6.6, 192.0.2.43", "x_forwarded_proto": "wss"}, "https"),
        ({"x_forwarded_for": "192.0.2.43", "x_forwarded_proto": "gopher"}, None),
        ({"x_forwarded_proto": "https"}, "https"),
        ({}, None),
    ],
    ids=str,
)
def test_the_clients_scheme_comes_from_the_same_header(headers: dict[str, str], scheme: str | None) -> None:
    assert client(**headers).scheme == scheme


def test_a_misconfigured_proxy_is_logged_at_intervals(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    proxies = Proxies((), clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for now[0] in (0.0, 1.0, 599.0, 600.0, 601.0):
            for peer in ("127.0.0.1", "127.0.0.2"):
                assert proxies.client(peer, [(b"x-forwarded-for", b"192.0.2.1")]).address == peer
    assert len(caplog.records) == 2
    assert "add it to trusted_proxies" in caplog.text


@pytest.mark.parametrize(
    ("text", "network"),
    [("127.0.0.1", "127.0.0.1/32"), ("10.1.2.3/8", "10.0.0.0/8"), (" ::1 ", "::1/128"), ("0.0.0.0/0", "0.0.0.0/0")],
)
def test_networks_are_addresses_or_cidrs(text: str, network: str) -> None:
    assert parse_network(text) == network


# Over real connections


def settings(limits: LimitSettings, *proxies: str, headers: str = "x-forwarded") -> Settings:
    http = HttpSettings(trusted_proxies=proxies, proxy_headers=headers)
    return Settings(storage="memory://", port=0, secret=SECRET, limits=limits, http=http)


@asynccontextmanager
async def one_visitor_a_minute(network: str, headers: str) -> AsyncIterator[ApiClient]:
    """A server that allows each address one visitor a minute, and trusts `network` to write `headers`."""
    async with run_server(settings(LimitSettings(visitors_per_minute=1), network, headers=headers)) as api:
        yield api


@pytest.mark.parametrize("network", ["127.0.0.0/8", "192.0.2.0/24"])
@pytest.mark.parametrize("written", PROXY_HEADERS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("X-Forwarded-For", "192.0.2.{}"),
        ("Forwarded", 'for="[2001:db8:{}::1]:80";proto=https'),
        ("Forwarded", "for=_c{}"),
    ],
)
async def test_the_visitors_behind_a_trusted_proxy_have_limits_of_their_own(
    network: str, written: str, name: str, text: str
) -> None:
    statuses = []
    async with one_visitor_a_minute(network, written) as api:
        for visitor in (1, 2, 3, 2, 4):
            headers = {name: text.format(visitor)}
            answer = await api.call("POST", "/api/visitors", json={"source": "lk"}, headers=headers)
            statuses.append(answer.status_code)
    believed = network.startswith("127") and name.lower().startswith(written)
    assert statuses == ([201, 201, 201, 429, 201] if believed else [201, 429, 429, 429, 429])


@pytest.mark.parametrize("transport", ["reactor", "trio-websocket"])
async def test_a_sockets_peer_is_the_client_behind_the_proxy(transport: str) -> None:
    trusting = settings(LimitSettings(messages_per_second=0), "127.0.0.0/8")
    async with run_server(attrs.evolve(trusting, transport=transport)) as api:
        visitor, chat = await api.visit()
        forwarded = {"X-Forwarded-For": "6.6.6.6, 192.0.2.43"}
        async with api.socket(f"/ws/chats/{chat}", visitor, **forwarded) as socket:
            await socket.get_message()
            [session] = api.server._parts.websockets.sessions
            assert session.peer == "192.0.2.43"
