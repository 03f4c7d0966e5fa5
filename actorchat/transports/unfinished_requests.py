"""Keeps the connections whose first request has not come whole, and chooses which of them gives way to a newcomer."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final, Generic, TypeVar

__all__ = ["UnfinishedRequests", "site_of"]

_SITE_PREFIX: Final = 64
"""Bits of an IPv6 address that a provider gives one customer: the customer chooses the rest."""

T = TypeVar("T")


def site_of(address: str) -> str:
    """What one customer of a provider has: an IPv4 address, or an IPv6 network of /64. Other text stays as it is."""
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
    """Members by the address that they came from. Every method takes constant time, whatever the number of members."""

    def __init__(self) -> None:
        self._sites: dict[T, str] = {}
        self._members: dict[str, dict[T, None]] = {}
        # Sites by how many members they have, each in the order in which it came to have so many.
        self._by_count: list[dict[str, None]] = [{}]

    def __len__(self) -> int:
        return len(self._sites)

    def add(self, member: T, address: str) -> None:
        """Take a member; it must not be there yet."""
        site = site_of(address)
        self._sites[member] = site
        members = self._members.setdefault(site, {})
        members[member] = None
        self._move(site, len(members) - 1, len(members))

    def discard(self, member: T) -> None:
        """Forget a member, if it is there."""
        site = self._sites.pop(member, None)
        if site is None:
            return
        members = self._members[site]
        del members[member]
        self._move(site, len(members) + 1, len(members))
        if not members:
            del self._members[site]

    def choose(self) -> T:
        """The oldest member of the address that has most. Raises LookupError if there is no member.

        So an address displaces only its own members as long as it has more than any other.
        """
        if not self._sites:
            raise LookupError("there is no member")
        return next(iter(self._members[next(iter(self._by_count[-1]))]))

    def postpone(self, member: T) -> None:
        """Make it the youngest of its address, and its address the last of those that have as many."""
        site = self._sites[member]
        members = self._members[site]
        del members[member]
        members[member] = None
        sites = self._by_count[len(members)]
        del sites[site]
        sites[site] = None

    @property
    def addresses(self) -> int:
        """How many addresses the members are of."""
        return len(self._members)

    @property
    def most(self) -> tuple[str, int]:
        """The address that has most members, and how many. Raises LookupError if there is no member."""
        if not self._sites:
            raise LookupError("there is no member")
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
