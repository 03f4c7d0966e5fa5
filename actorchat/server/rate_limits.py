"""Limits how often a minute something may be done, by person or by network address."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from actorchat.chat.limits import TokenBucket
from actorchat.transports.unfinished_requests import site_of

__all__ = ["AddressLimiter", "MinuteLimiter"]

K = TypeVar("K", bound=Hashable)

_KNOWN: Final = 10_000
"""Keys with a bucket; over it the one not seen for longest starts with a full one again."""


class MinuteLimiter(Generic[K]):
    """`per_minute` for each key, so many at once too; 0 = no limit. Callers bring the time, in seconds."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[K, TokenBucket] = OrderedDict()

    def take(self, key: K, now: float) -> float:
        """Take one: 0, or the seconds until there is one again."""
        return self._bucket(key, now).take(now) if self._per_minute else 0.0

    def wait(self, key: K, now: float) -> float:
        """The seconds until one can be taken: 0 if there is one. Takes nothing."""
        return self._bucket(key, now).wait(now) if self._per_minute else 0.0

    def give_back(self, key: K, now: float) -> None:
        """Put back one that was taken, and not needed."""
        if self._per_minute:
            self._bucket(key, now).give_back()

    def _bucket(self, key: K, now: float) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = TokenBucket(self._per_minute / 60, max(1.0, self._per_minute), now)
            self._buckets[key] = bucket
            if len(self._buckets) > _KNOWN:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket


class AddressLimiter(MinuteLimiter[str]):
    """By network address. The addresses of one customer of an IPv6 provider are one."""

    def _bucket(self, key: str, now: float) -> TokenBucket:
        return super()._bucket(site_of(key), now)
