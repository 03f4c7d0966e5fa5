"""Finds out which client a request comes from when trusted proxies have passed it on."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import attrs
import trio
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["BehindProxies", "Client", "Proxies", "parse_network"]

_log: Final = logging.getLogger("actorchat.http")

_FORWARDED: Final = b"forwarded"
_FOR: Final = b"x-forwarded-for"
_PROTO: Final = b"x-forwarded-proto"

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of the grammar
# RFC 7239 has addresses with colons in quotes; some proxies leave them out.
_PAIR: Final = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+))')
_SPACE: Final = re.compile(r"[ \t]*")
_WITH_PORT: Final = re.compile(r"\[(.*)\](?::[^:]*)?|([^:]*)(?::[^:]*)?")
_OBFUSCATED: Final = re.compile(r"_[0-9A-Za-z._-]{1,64}")
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

REPEATED_AFTER: Final = 600.0
"""Seconds: what is wrong with a proxy is logged once in this time."""

_Headers = Iterable[tuple[bytes, bytes]]


@attrs.frozen
class Client:
    """Where a request comes from. `scheme` is how the client spoke, None if only this server's own side is known."""

    address: str
    scheme: str | None = None


@attrs.frozen
class _Hop:
    """Whom a proxy passed a request on for, as it wrote that, and how that one spoke."""

    node: str
    scheme: str | None = None


class _Malformed(ValueError):  # noqa: N818 - says what the header is
    pass


def parse_network(text: str) -> str:
    """An address or a network as the setting `trusted_proxies` has it. Raises ValueError."""
    return str(ip_network(text.strip(), strict=False))


class Proxies:
    """Believes the headers `Forwarded`, `X-Forwarded-For` and `X-Forwarded-Proto` of trusted proxies only.

    Each proxy adds the address that it was asked by at the end. So the client is the last one that is no trusted proxy;
    what stands before it the client may have made up.
    """

    def __init__(self, networks: Collection[str] = (), clock: Callable[[], float] = trio.current_time) -> None:
        """`networks` are results of `parse_network`. `clock` gives seconds; it paces what is logged."""
        self._networks = tuple(map(ip_network, networks))
        self._clock = clock
        self._logged: dict[str, float] = {}

    def client(self, peer: str, headers: _Headers) -> Client:
        """The client of a request with these headers, whose connection is from `peer`. Names are in lower case."""
        forwarded, addresses, schemes = (_joined(headers, name) for name in (_FORWARDED, _FOR, _PROTO))
        if forwarded is None and addresses is None and schemes is None:
            return Client(peer)
        if not self._trusts(peer):
            if forwarded is not None or addresses is not None:
                self._note(
                    "%s sends Forwarded or X-Forwarded-For, which are ignored: if it is your proxy, add it to"
                    " trusted_proxies under [http]; else everybody behind it counts as one address",
                    peer,
                )
            return Client(peer)
        try:
            told = [] if forwarded is None else [self._last(peer, list(_forwarded_hops(forwarded)))]
        except _Malformed:
            # The client may have spoilt what the proxy only added to.
            self._note("the proxy %s passes on a malformed Forwarded header", peer)
            return Client(peer)
        if addresses is not None or schemes is not None:
            told.append(self._last(peer, _legacy_hops(addresses or "", schemes or "")))
        if addresses is not None and len({client.address for client in told}) > 1:
            # The proxy writes one of them, and passes on what the client sent as the other.
            self._note(
                "the proxy %s passes on Forwarded and X-Forwarded-For that disagree, so neither is believed:"
                " have it remove the one that it doesn't write itself",
                peer,
            )
            return Client(peer)
        return told[0]

    def _last(self, peer: str, hops: list[_Hop]) -> Client:
        """The last hop that is no trusted proxy; the first of all if each is. A hop of unknown address is none."""
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
        if not self._networks:
            return False
        try:
            parsed = _normal(ip_address(address))
        except ValueError:
            return False
        return any(parsed.version == network.version and parsed in network for network in self._networks)

    def _note(self, text: str, peer: str) -> None:
        now = self._clock()
        if now - self._logged.get(text, -REPEATED_AFTER) >= REPEATED_AFTER:
            self._logged[text] = now
            _log.warning(text, peer)


class BehindProxies:
    """Shows the application the client that a request comes from in place of the proxy."""

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client"):
            client = self._proxies.client(scope["client"][0], scope["headers"])
            if client.address != scope["client"][0]:
                scope = {**scope, "client": (client.address, 0)}
            if client.scheme is not None:
                scope = {**scope, "scheme": client.scheme}
        await self._app(scope, receive, send)


def _joined(headers: _Headers, name: bytes) -> str | None:
    """All headers of that name as one, None if there are none."""
    values = [value for key, value in headers if key == name]
    return b",".join(values).decode("latin-1") if values else None


def _forwarded_hops(text: str) -> Iterator[_Hop]:
    """The hops of a `Forwarded` header (RFC 7239). Raises _Malformed."""
    at = 0
    while at <= len(text):
        pairs, at = _element(text, at)
        if pairs:
            yield _Hop(pairs.get("for", ""), _SCHEMES.get(pairs.get("proto", "").lower()))


def _element(text: str, at: int) -> tuple[dict[str, str], int]:
    """The parameters of the element that begins at `at`, and where the next one begins."""
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


def _legacy_hops(addresses: str, schemes: str) -> list[_Hop]:
    """The hops of `X-Forwarded-For` and `X-Forwarded-Proto`."""
    nodes = [part.strip() for part in addresses.split(",") if part.strip()]
    spoken = [_SCHEMES.get(part.strip().lower()) for part in schemes.split(",") if part.strip()]
    nodes = nodes or [""]
    if len(spoken) != len(nodes):
        # Not every proxy has added to it: the last one knew it best.
        spoken = spoken[-1:] * len(nodes) or [None] * len(nodes)
    return [_Hop(node, scheme) for node, scheme in zip(nodes, spoken, strict=True)]


def _address(node: str) -> str | None:
    """The address of a node, without its port; a name that hides it as it is; None for `unknown` and anything else."""
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
    """An IPv4 address that is written as an IPv6 one as what it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
