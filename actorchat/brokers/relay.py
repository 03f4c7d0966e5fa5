"""Publishes the commit log to brokers, each at its own pace, and remembers how far each one has confirmed."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import islice
from math import inf
from random import Random, SystemRandom
from typing import Final

import attrs
import trio

from actorchat.brokers.bodies import GROUPS_PER_SECOND, MessageBuilder
from actorchat.brokers.ports import Broker, BrokerConnection, BrokerUnavailable
from actorchat.chat.commit_log import MOST_TRIMMED, CommitLog
from actorchat.chat.links import Links
from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import BrokerMessage

__all__ = ["RelayStatistics", "Relays", "open_relays"]

_log = logging.getLogger("actorchat.brokers")

PAGE_BYTES: Final = 1_048_576
"""Bytes of log that a relay reads at a time; a single larger entry is read alone."""

MOST_AT_ONCE: Final = 500
"""Messages that are published before the broker's answer is waited for."""

FIRST_DELAY, LAST_DELAY = 0.25, 30.0
"""Seconds between attempts to reach a broker: the first delay, then up to the last. Half of each is random."""

PING_SECONDS: Final = 10.0
PUBLISH_SECONDS: Final = 30.0
PING_PERIOD: Final = 15.0
"""Seconds after which an idle broker is asked whether it is there."""

RECORD_PERIOD: Final = 1.0
"""Seconds between two records of positions: what was published since the last one is published again after a crash."""

WARNING_PERIOD: Final = 60.0
FLUSH_SECONDS: Final = 1.0
"""How many seconds `open_relays` may spend at its end to publish the last commits."""


@attrs.frozen(kw_only=True)
class RelayStatistics:
    """One broker, as of now. `published` since the start, repeats included.

    `behind` is how many seconds ago the oldest commit was made that the broker has not confirmed, 0 if it has them all.
    `problem` says why the broker can't be reached, None if it can.
    """

    broker: str
    published: int
    behind: float
    outages: int
    problem: str | None


class _Relay:
    """Publishes the log to one broker, which has confirmed everything up to the entry `position`."""

    def __init__(
        self,
        name: str,
        broker: Broker,
        log: CommitLog,
        links: Links,
        position: int,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self.name = name
        self.position = position
        self.published = self.outages = 0
        self.problem: str | None = None
        self.idle = trio.Event()
        self._broker = broker
        self._log = log
        self._links = links
        self._clock = clock
        self._random = random
        self._wake = trio.Event()
        self._delay = FIRST_DELAY
        self._warned_at, self._told = -inf, False
        self._away_since = 0.0
        # The commit time of the oldest entry that is not confirmed, as far as it was read.
        self._oldest: float | None = None

    def wake(self) -> None:
        """Something was committed."""
        self._wake.set()
        if self.idle.is_set():
            self.idle = trio.Event()

    def statistics(self) -> RelayStatistics:
        behind = 0.0 if self._oldest is None else max(0.0, self._clock() - self._oldest)
        return RelayStatistics(
            broker=self.name,
            published=self.published,
            behind=behind,
            outages=self.outages,
            problem=self.problem,
        )

    async def run(self) -> None:
        """Publish what is logged, until cancelled. While the broker is away it is tried again and again."""
        while True:
            try:
                await self._publish_all()
            except BrokerUnavailable as error:
                await self._away(str(error))
            except StorageUnavailable:
                # The journal tells that storage is away.
                await trio.sleep(1.0)
            except Exception as error:
                if trio.current_time() - self._warned_at >= WARNING_PERIOD:
                    _log.exception("publishing to %s failed", self.name)
                await self._away(f"{type(error).__name__}: {error}")

    async def _publish_all(self) -> None:
        async with self._broker.connect() as connection:
            builder, read = MessageBuilder(self._links), self.position
            await self._ping(connection)
            while True:
                self._wake = trio.Event()
                entries = await self._log.entries(after=read, size=PAGE_BYTES)
                messages: list[BrokerMessage] = []
                for entry in entries:
                    if self._oldest is None:
                        self._oldest = entry.time
                    messages += builder.add(entry)
                    read = entry.seq
                await self._publish(connection, messages)
                # Not before: a broker that is full accepts connections.
                self._reached()
                self._confirmed(builder.complete_before(read))
                self._oldest = builder.waiting_since
                if not entries:
                    await self._wait(connection, builder, read)

    async def _wait(self, connection: BrokerConnection, builder: MessageBuilder, read: int) -> None:
        """Everything that was read is published: wait for more. A group ends when its time is over."""
        wake = self._wake
        if builder.waits:
            with trio.move_on_after(1 / GROUPS_PER_SECOND):
                await wake.wait()
                return
            await self._publish(connection, builder.flush())
            self._confirmed(read)
        self._oldest = None
        if not wake.is_set():
            self.idle.set()
        with trio.move_on_after(PING_PERIOD):
            await wake.wait()
            return
        await self._ping(connection)

    async def _ping(self, connection: BrokerConnection) -> None:
        with _limit(PING_SECONDS):
            await connection.ping()

    async def _publish(self, connection: BrokerConnection, messages: Sequence[BrokerMessage]) -> None:
        rest = iter(messages)
        while batch := list(islice(rest, MOST_AT_ONCE)):
            with _limit(PUBLISH_SECONDS):
                await connection.publish(batch)
            self.published += len(batch)

    def _confirmed(self, position: int) -> None:
        self.position = max(self.position, position)

    def _reached(self) -> None:
        if self.problem is not None:
            self.problem = None
            self._delay = FIRST_DELAY
            if self._told:
                self._told = False
                seconds = trio.current_time() - self._away_since
                _log.warning("%s takes messages again, after %.0f s", self.name, seconds)

    async def _look_how_far_behind(self) -> None:
        with suppress(StorageUnavailable):
            for entry in await self._log.entries(after=self.position, size=1):
                self._oldest = entry.time

    async def _away(self, reason: str) -> None:
        now = trio.current_time()
        if self.problem is None:
            self._away_since = now
            self.outages += 1
        self.problem = reason
        if now - self._warned_at >= WARNING_PERIOD:
            self._warned_at, self._told = now, True
            _log.error("%s takes no messages, they wait in storage: %s", self.name, reason)
        await self._look_how_far_behind()
        await trio.sleep(self._delay * self._random.uniform(0.5, 1))
        self._delay = min(self._delay * 2, LAST_DELAY)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise `BrokerUnavailable` if the block takes longer."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise BrokerUnavailable(f"no answer within {seconds:.0f} s")


class Relays:
    """The relays of all configured brokers, made by `open_relays`."""

    def __init__(self, relays: Sequence[_Relay], log: CommitLog, keep: float, clock: Callable[[], float]) -> None:
        self._relays = relays
        self._log = log
        self._keep = keep
        self._clock = clock
        self._recorded = {relay.name: relay.position for relay in relays}
        self._recorded_at = -inf

    def committed(self) -> None:
        """Something was committed: publish it."""
        for relay in self._relays:
            relay.wake()

    def statistics(self) -> tuple[RelayStatistics, ...]:
        """Return one entry for each broker, in the order of the settings."""
        return tuple(relay.statistics() for relay in self._relays)

    async def flush(self) -> None:
        """Return when every broker that can be reached has everything that was committed."""
        for relay in self._relays:
            if relay.problem is None:
                await relay.idle.wait()

    async def keep_log(self) -> None:
        """Record positions and trim the log, until cancelled."""
        while True:
            await trio.sleep(RECORD_PERIOD)
            await self.record()

    async def record(self) -> None:
        """Store positions that have moved, and delete entries that nobody needs any more or that are too old."""
        positions = {relay.name: relay.position for relay in self._relays}
        now = trio.current_time()
        if positions == self._recorded and now - self._recorded_at < WARNING_PERIOD:
            return
        lost, more = 0, True
        try:
            while more:
                trimmed = await self._log.record(positions, expired=self._clock() - self._keep)
                lost += trimmed.lost
                more = trimmed.deleted >= MOST_TRIMMED
                self._recorded, self._recorded_at = positions, now
                await trio.lowlevel.checkpoint()
        except StorageUnavailable:
            # It is tried again in a moment.
            return
        finally:
            if lost:
                _log.error(
                    "%d commits are not published any more: they waited for longer than broker_keep, %.0f s",
                    lost,
                    self._keep,
                )


@asynccontextmanager
async def open_relays(
    brokers: Mapping[str, Broker],
    log: CommitLog,
    *,
    links: Links,
    keep: float,
    clock: Callable[[], float] = time.time,
    random: Random | None = None,
) -> AsyncIterator[Relays]:
    """Publish what is in `log` to `brokers`, by name, until the block is left.

    `links` signs the links to files. What waits for longer than `keep` seconds is dropped. `clock` gives epoch seconds.
    Leaving the block publishes what was committed last, for `FLUSH_SECONDS` at most. Raises `StorageUnavailable`.
    """
    random = random or SystemRandom()
    positions = await log.positions()
    made = [_Relay(name, broker, log, links, positions.get(name, 0), clock, random) for name, broker in brokers.items()]
    relays = Relays(made, log, keep, clock)
    async with trio.open_nursery() as nursery:
        for relay in made:
            nursery.start_soon(relay.run)
        nursery.start_soon(relays.keep_log)
        try:
            yield relays
            with trio.move_on_after(FLUSH_SECONDS):
                await relays.flush()
        finally:
            nursery.cancel_scope.cancel()
    # One short transaction: what is published is not published again after the next start.
    with trio.CancelScope(shield=True):
        await relays.record()
