"""Limits how often per minute a user or a network address may do something."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from actorchat.chat.limits import TokenBucket
from actorchat.transports.unfinished_requests import site_of

__all__ = ["AddressLimiter", "MinuteLimiter"]

K = TypeVar("K", bound=Hashable)

_MAX_BUCKETS: Final = 10_000
"""Buckets kept. Beyond that the least recently used is dropped: its key starts again with a full bucket."""


class MinuteLimiter(Generic[K]):
    """Grants each key `per_minute` permits a minute, with bursts of as many; 0 = unlimited.

    `now` is a monotonic time in seconds, which the caller passes in.
    """

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[K, TokenBucket] = OrderedDict()

    def take(self, key: K, now: float) -> float:
        """Take a permit and return 0, or return the seconds until there is one."""
        return self._bucket(key, now).take(now) if self._per_minute else 0.0

    def wait(self, key: K, now: float) -> float:
        """Return the seconds until there is a permit, 0 if there is one now. Takes nothing."""
        return self._bucket(key, now).wait(now) if self._per_minute else 0.0

    def give_back(self, key: K, now: float) -> None:
        """Return a permit that was taken but not used."""
        if self._per_minute:
            self._bucket(key, now).give_back()

    def _bucket(self, key: K, now: float) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = TokenBucket(self._per_minute / 60, max(1.0, self._per_minute), now)
            self._buckets[key] = bucket
            if len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket


class AddressLimiter(MinuteLimiter[str]):
    """Limits by network address. The IPv6 addresses of one /64 network count as one address."""

    def _bucket(self, key: str, now: float) -> TokenBucket:
        return super()._bucket(site_of(key), now)
