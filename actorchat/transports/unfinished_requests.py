"""Tracks connections with an incomplete request head, and chooses which one to close for a new connection."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final, Generic, TypeVar

__all__ = ["UnfinishedRequests", "site_of"]

_SITE_PREFIX: Final = 64
"""The prefix length of the network that IPv6 providers usually assign to one customer."""

T = TypeVar("T")


def site_of(address: str) -> str:
    """Return the key under which an address counts: an IPv4 address itself, for IPv6 its /64 network.

    Other text is returned unchanged.
    """
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), _SITE_PREFIX), strict=False))


class UnfinishedRequests(Generic[T]):
    """Connections grouped by address (see `site_of`). Every method takes constant time."""

    def __init__(self) -> None:
        self._sites: dict[T, str] = {}
        self._connections: dict[str, dict[T, None]] = {}
        # Sites by their number of connections, in the order in which they reached that number.
        self._by_count: list[dict[str, None]] = [{}]

    def __len__(self) -> int:
        return len(self._sites)

    def add(self, connection: T, address: str) -> None:
        """Add a connection, which must not be present yet."""
        site = site_of(address)
        self._sites[connection] = site
        group = self._connections.setdefault(site, {})
        group[connection] = None
        self._move(site, len(group) - 1, len(group))

    def discard(self, connection: T) -> None:
        """Remove a connection if it is present."""
        site = self._sites.pop(connection, None)
        if site is None:
            return
        group = self._connections[site]
        del group[connection]
        self._move(site, len(group) + 1, len(group))
        if not group:
            del self._connections[site]

    def choose(self) -> T:
        """Return the oldest connection of the address with the most. Raises LookupError if there is none.

        A client that opens many connections from one address thereby loses its own first.
        """
        if not self._sites:
            raise LookupError("there is no connection")
        return next(iter(self._connections[next(iter(self._by_count[-1]))]))

    def postpone(self, connection: T) -> None:
        """Move the connection behind all others of its address, and the address behind others with as many."""
        site = self._sites[connection]
        group = self._connections[site]
        del group[connection]
        group[connection] = None
        sites = self._by_count[len(group)]
        del sites[site]
        sites[site] = None

    @property
    def addresses(self) -> int:
        """The number of different addresses."""
        return len(self._connections)

    @property
    def most(self) -> tuple[str, int]:
        """The address with the most connections, and their number. Raises LookupError if there is no connection."""
        if not self._sites:
            raise LookupError("there is no connection")
        return next(iter(self._by_count[-1])), len(self._by_count) - 1

    def _move(self, site: str, before: int, after: int) -> None:
        counts = self._by_count
        if after == len(counts):
            counts.append({})
        if before:
            del counts[before][site]
        if after:
            counts[after][site] = None
        while len(counts) > 1 and not counts[-1]:
            counts.pop()
