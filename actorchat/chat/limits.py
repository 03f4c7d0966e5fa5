"""Limits message sizes, rates and operations in flight. All bounds of the chat are here.

Callers pass the time, so that nothing here reads a clock.
"""

from __future__ import annotations

from collections import OrderedDict
from uuid import UUID

import attrs
import trio

from actorchat.chat.model import Identity
from actorchat.chat.operations import Refused
from actorchat.protocol import RefusalCode

__all__ = ["InFlightLimiter", "Limits", "RateLimiter", "TokenBucket", "check_length", "check_message", "rate_limited"]

ROOM_INBOX = 1_024
"""Commands that wait in one room. More are refused with `overloaded`."""

ROOM_IN_FLIGHT = 1_024
"""Operations of one room that the journal has not decided. More are refused with `overloaded`."""

FEED_TYPING = 256
"""Users whose typing waits in one feed. Over it, only the end of typing is kept; the next update replaces the rest."""

FEED_SNAPSHOT = 500
"""Chats that a console gets when it connects."""

_KNOWN_BUCKETS = 10_000


@attrs.frozen(kw_only=True)
class Limits:
    """The limits of a deployment. `messages_per_second` and `burst` are per user; 0 messages a second = no limit."""

    messages_per_second: float = 10
    burst: float = 30
    text_length: int = 4_000
    attachments: int = 10
    operations_in_flight: int = 20_000


def check_length(text: str, limits: Limits) -> Refused | None:
    """The refusal of a text that is too long."""
    if len(text) > limits.text_length:
        detail = f"the text has {len(text)} characters, at most {limits.text_length} are allowed"
        return Refused(RefusalCode.TOO_LONG, detail)
    return None


def check_message(text: str, attachments: tuple[UUID, ...], limits: Limits) -> Refused | None:
    """The refusal of a message whose size is out of bounds, None if it is within them."""
    if not text and not attachments:
        return Refused(RefusalCode.EMPTY, "a message needs text or attachments")
    if (refused := check_length(text, limits)) is not None:
        return refused
    if len(attachments) > limits.attachments:
        detail = f"there are {len(attachments)} attachments, at most {limits.attachments} are allowed"
        return Refused(RefusalCode.TOO_MANY_ATTACHMENTS, detail, attachments=attachments)
    return None


def rate_limited(wait: float) -> Refused:
    """The refusal of a message that may be sent again in `wait` seconds."""
    return Refused(RefusalCode.RATE_LIMITED, "too many messages", wait)


class TokenBucket:
    """One user's allowance: `burst` at once, `rate` a second after that."""

    __slots__ = ("_burst", "_filled_at", "_known", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled_at = burst, now
        # How many there were, and when, when somebody asked how many had been spent.
        self._known: tuple[float, float] = burst, now

    @property
    def used_at(self) -> float:
        """When a token was last asked for."""
        return self._filled_at

    def spent(self, now: float) -> float:
        """How many tokens were taken since the last call."""
        known, at = self._known
        left = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._known = left, now
        return max(0.0, min(self._burst, known + (now - at) * self._rate) - left)

    def take_off(self, amount: float, now: float) -> None:
        """Take tokens that were used somewhere else. There may be fewer than none afterwards."""
        left = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._tokens, self._filled_at = max(-self._burst, left - amount), now
        self._known = self._tokens, now

    def wait(self, now: float) -> float:
        """The seconds until there is a token: 0 if there is one. Takes nothing."""
        tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        return max(0.0, (1.0 - tokens) / self._rate)

    def give_back(self) -> None:
        """Put back a token that was taken."""
        self._tokens = min(self._burst, self._tokens + 1.0)

    def take(self, now: float) -> float:
        """Take one token: 0, or the seconds until there is one."""
        tokens = self._tokens + (now - self._filled_at) * self._rate
        if tokens > self._burst:
            tokens = self._burst
        self._filled_at = now
        if tokens < 1.0:
            self._tokens = tokens
            return (1.0 - tokens) / self._rate
        self._tokens = tokens - 1.0
        return 0.0


class RateLimiter:
    """One bucket per user, shared by all its sockets and requests.

    The least recently used buckets are forgotten, long after they are full again.
    """

    def __init__(self, limits: Limits) -> None:
        self._rate, self._burst = limits.messages_per_second, max(1.0, limits.burst)
        self._buckets: OrderedDict[Identity, TokenBucket] = OrderedDict()

    def take(self, identity: Identity, now: float) -> float:
        """Take one message of the user's allowance. Returns 0, or the seconds until there is one."""
        if not self._rate:
            return 0.0
        bucket = self._buckets.get(identity)
        if bucket is None:
            bucket = self._buckets[identity] = TokenBucket(self._rate, self._burst, now)
            if len(self._buckets) > _KNOWN_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(identity)
        return bucket.take(now)

    def spent(self, since: float, now: float) -> list[tuple[Identity, float]]:
        """Return the users who have taken more than half of their allowance in the time between, with the amounts."""
        found: list[tuple[Identity, float]] = []
        for identity, bucket in reversed(self._buckets.items()):
            if bucket.used_at < since:
                # The others were used earlier.
                break
            spent = bucket.spent(now)
            if spent > (now - since) * self._rate / 2:
                found.append((identity, spent))
        return found

    def take_off(self, identity: Identity, amount: float, now: float) -> None:
        """Count what a user has taken on another node."""
        if self._rate:
            bucket = self._buckets.get(identity)
            if bucket is None:
                bucket = self._buckets[identity] = TokenBucket(self._rate, self._burst, now)
            bucket.take_off(amount, now)


class InFlightLimiter:
    """Bounds the operations of all rooms that were accepted and are not answered yet."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._in_flight = 0
        self._refusing = 0
        self._held = 0
        self._draining = False
        self._changed = trio.Event()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def draining(self) -> bool:
        return self._draining

    def take(self) -> Refused | None:
        """Count one operation, or return why not. The caller has to call `done` once for each counted operation."""
        if self._draining:
            return Refused(RefusalCode.DRAINING, "the server is restarting", 1.0)
        if self._in_flight >= self._capacity:
            return Refused(RefusalCode.OVERLOADED, "the server has too much to do", 1.0)
        self._in_flight += 1
        return None

    def take_refusal(self) -> bool:
        """Count a message that the journal is to refuse in the order of commits. False if there are too many.

        Draining does not wait for these. The caller has to call `refused` once for each counted message.
        """
        if self._refusing >= self._capacity:
            return False
        self._refusing += 1
        return True

    def refuse(self) -> None:
        """Turn an operation counted by `take` into a refusal: `refused` ends it instead of `done`."""
        self._refusing += 1
        self.done()

    def refused(self) -> None:
        self._refusing -= 1

    def done(self) -> None:
        self._in_flight -= 1
        if self._draining:
            self._changed.set()

    def hold(self) -> None:
        """Let draining wait for changes that are decided but not published, until `release`."""
        self._held += 1

    def release(self) -> None:
        self._held -= 1
        if self._draining:
            self._changed.set()

    async def drain(self) -> None:
        """Refuse all operations from now on. Returns when all accepted ones are done and published."""
        self._draining = True
        await trio.lowlevel.checkpoint()
        while self._in_flight or self._held:
            self._changed = trio.Event()
            await self._changed.wait()
