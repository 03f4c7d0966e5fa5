"""Owns how many anonymous visitors one network address may make: the only call that needs no token.

Refuses to know proxies: behind one, all callers have the proxy's address.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from actorchat.chat.limits import TokenBucket
from actorchat.transports.openings import site_of

__all__ = ["AddressLimiter"]

_KNOWN: Final = 10_000
"""Addresses with a bucket; over it the one not seen for longest starts with a full one again."""


class AddressLimiter:
    """`per_minute` for each address, so many at once too; 0 = no limit. Callers bring the time."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str, now: float) -> float:
        """Take one: 0, or the seconds until there is one again."""
        if not self._per_minute:
            return 0.0
        site = site_of(address)
        bucket = self._buckets.get(site)
        if bucket is None:
            bucket = TokenBucket(self._per_minute / 60, max(1.0, self._per_minute), now)
            self._buckets[site] = bucket
            if len(self._buckets) > _KNOWN:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(site)
        return bucket.take(now)
