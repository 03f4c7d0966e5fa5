"""Finds the client of a request that trusted proxies have forwarded, from the headers that they add."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import attrs
import trio
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["FORWARDED", "PROXY_HEADERS", "BehindProxies", "Client", "Proxies", "parse_network"]

_log: Final = logging.getLogger("actorchat.http")

_FORWARDED: Final = b"forwarded"
_FOR: Final = b"x-forwarded-for"
_PROTO: Final = b"x-forwarded-proto"

PROXY_HEADERS: Final = ("x-forwarded", "forwarded")
"""The header families that proxies write: `X-Forwarded-For` with `X-Forwarded-Proto`, or `Forwarded` (RFC 7239)."""

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of the grammar
# RFC 7239 requires quotes around addresses with colons. Some proxies omit them.
_PAIR: Final = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+))')
_SPACE: Final = re.compile(r"[ \t]*")
_WITH_PORT: Final = re.compile(r"\[(.*)\](?::[^:]*)?|([^:]*)(?::[^:]*)?")
_OBFUSCATED: Final = re.compile(r"_[0-9A-Za-z._-]{1,64}")
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

REPEATED_AFTER: Final = 600.0
"""A problem with a proxy is logged at most once in this many seconds."""

_Headers = Iterable[tuple[bytes, bytes]]


@attrs.frozen
class Client:
    """The client of a request. `scheme` is the client's, `http` or `https`, None if no proxy has reported it."""

    address: str
    scheme: str | None = None


@attrs.frozen
class _Hop:
    """The sender of a request as one proxy has recorded it, with the scheme of that request."""

    node: str
    scheme: str | None = None


class _Malformed(ValueError):  # noqa: N818 - describes the header
    pass


def parse_network(text: str) -> str:
    """Normalize an entry of the setting `trusted_proxies`, an address or a network. Raises ValueError."""
    return str(ip_network(text.strip(), strict=False))


class Proxies:
    """Reads one family of forwarding headers from trusted proxies, and ignores these headers from everyone else.

    Each proxy appends the address from which it received the request. So the client is the last address that is not a
    trusted proxy. The client may have forged everything before that. It may also have forged the headers of the other
    family, which the proxies pass on unchanged.
    """

    def __init__(
        self,
        networks: Collection[str] = (),
        headers: str = PROXY_HEADERS[0],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """`networks` are results of `parse_network`, `headers` the family in `PROXY_HEADERS` that the proxies write.

        `clock` returns seconds and limits how often is logged.
        """
        self._networks = tuple(map(ip_network, networks))
        self._reads_forwarded = headers == "forwarded"
        self._clock = clock
        self._logged: dict[str, float] = {}

    def client(self, peer: str, headers: _Headers) -> Client:
        """Return the client of a request from the address `peer`. The names of `headers` are in lower case."""
        forwarded, addresses, schemes = (_joined(headers, name) for name in (_FORWARDED, _FOR, _PROTO))
        if forwarded is None and addresses is None and schemes is None:
            return Client(peer)
        if not self._trusts(peer):
            if forwarded is not None or addresses is not None:
                self._log(
                    "%s sends Forwarded or X-Forwarded-For, which are ignored: if it is your proxy, add it to"
                    " trusted_proxies under [http]; otherwise all clients behind it count as one address",
                    peer,
                )
            return Client(peer)
        if self._reads_forwarded:
            return self._from_forwarded(peer, forwarded, ignored=addresses is not None)
        return self._from_x_forwarded(peer, addresses, schemes, ignored=forwarded is not None)

    def _from_forwarded(self, peer: str, forwarded: str | None, *, ignored: bool) -> Client:
        """Read `Forwarded`. `ignored`: the request has headers of the other family."""
        if forwarded is None:
            if ignored:
                self._log(
                    "the proxy %s sends X-Forwarded-For and no Forwarded: if it writes X-Forwarded-For itself, set"
                    ' proxy_headers = "x-forwarded" under [http]',
                    peer,
                )
            return Client(peer)
        try:
            return self._last(peer, list(_forwarded_hops(forwarded)))
        except _Malformed:
            # The client may have sent the malformed part, to which the proxy has only appended.
            self._log("the proxy %s sends a malformed Forwarded header, which is ignored", peer)
            return Client(peer)

    def _from_x_forwarded(self, peer: str, addresses: str | None, schemes: str | None, *, ignored: bool) -> Client:
        """Read `X-Forwarded-For` and `X-Forwarded-Proto`. `ignored`: the request has headers of the other family."""
        if addresses is None and ignored:
            self._log(
                "the proxy %s sends Forwarded and no X-Forwarded-For: if it writes Forwarded itself, set"
                ' proxy_headers = "forwarded" under [http]',
                peer,
            )
        if addresses is None and schemes is None:
            return Client(peer)
        return self._last(peer, _x_forwarded_hops(addresses or "", schemes or ""))

    def _last(self, peer: str, hops: list[_Hop]) -> Client:
        """Return the last hop that is not a trusted proxy, or the first hop if all are.

        An unknown address ends the search: the trusted proxy after it, or the peer, then counts as the client.
        """
        found = Client(peer)
        for hop in reversed(hops):
            address = _address(hop.node)
            if address is None:
                return Client(found.address, hop.scheme)
            found = Client(address, hop.scheme)
            if not self._trusts(address):
                break
        return found

    def _trusts(self, address: str) -> bool:
        if address == LOCAL_PEER:
            # Only programs that may use the Unix socket can connect.
            return True
        if not self._networks:
            return False
        try:
            parsed = _normal(ip_address(address))
        except ValueError:
            return False
        return any(parsed.version == network.version and parsed in network for network in self._networks)

    def _log(self, text: str, peer: str) -> None:
        now = self._clock()
        if now - self._logged.get(text, -REPEATED_AFTER) >= REPEATED_AFTER:
            self._logged[text] = now
            _log.warning(text, peer)


LOCAL_PEER: Final = "unix"
"""The address of a client of a Unix socket, as in `actorchat.transports.unix_socket`."""

FORWARDED: Final = "actorchat.forwarded"
"""The key in the scope of a request whose client was named by a trusted proxy."""


class BehindProxies:
    """ASGI middleware: replaces the address and scheme of a trusted proxy by those of the client."""

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = scope["client"][0] if scope.get("client") else LOCAL_PEER
            client = self._proxies.client(peer, scope["headers"])
            if client.address != peer:
                scope = {**scope, "client": (client.address, 0), FORWARDED: True}
            if client.scheme is not None:
                scope = {**scope, "scheme": client.scheme}
        await self._app(scope, receive, send)


def _joined(headers: _Headers, name: bytes) -> str | None:
    """Join all headers with that name to one value, None if there are none."""
    values = [value for key, value in headers if key == name]
    return b",".join(values).decode("latin-1") if values else None


def _forwarded_hops(text: str) -> Iterator[_Hop]:
    """Parse a `Forwarded` header (RFC 7239). Raises _Malformed."""
    at = 0
    while at <= len(text):
        pairs, at = _element(text, at)
        if pairs:
            yield _Hop(pairs.get("for", ""), _SCHEMES.get(pairs.get("proto", "").lower()))


def _element(text: str, at: int) -> tuple[dict[str, str], int]:
    """Parse the element at the offset `at`, and return its parameters and the offset of the next element."""
    pairs: dict[str, str] = {}
    while True:
        at = _after_space(text, at)
        if at == len(text) or text[at] == ",":
            return pairs, at + 1
        if text[at] == ";":
            at += 1
            continue
        pair = _PAIR.match(text, at)
        if pair is None or pair[1].lower() in pairs:
            raise _Malformed
        pairs[pair[1].lower()] = pair[3] if pair[2] is None else re.sub(r"\\(.)", r"\1", pair[2])
        at = _after_space(text, pair.end())
        if at < len(text) and text[at] not in ",;":
            raise _Malformed


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


def _x_forwarded_hops(addresses: str, schemes: str) -> list[_Hop]:
    """Parse `X-Forwarded-For` and `X-Forwarded-Proto`."""
    nodes = [part.strip() for part in addresses.split(",") if part.strip()] or [""]
    known = [_SCHEMES.get(part.strip().lower()) for part in schemes.split(",") if part.strip()]
    if len(known) != len(nodes):
        # Some proxies replace the scheme instead of appending it. The last value is from the nearest proxy.
        known = known[-1:] * len(nodes) or [None] * len(nodes)
    return [_Hop(node, scheme) for node, scheme in zip(nodes, known, strict=True)]


def _address(node: str) -> str | None:
    """Return the address of a node without its port, or its obfuscated name; None for `unknown` and anything else."""
    try:
        return str(_normal(ip_address(node)))
    except ValueError:
        pass
    match = _WITH_PORT.fullmatch(node)
    name = "" if match is None else match[1] or match[2] or ""
    if _OBFUSCATED.fullmatch(name):
        return name
    try:
        return str(_normal(ip_address(name)))
    except ValueError:
        return None


def _normal(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Convert an IPv4-mapped IPv6 address to IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
