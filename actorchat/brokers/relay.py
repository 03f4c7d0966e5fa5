"""Publishes the commit log to brokers, each at its own pace, and remembers how far each one has confirmed."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from itertools import islice
from math import inf
from random import Random, SystemRandom
from typing import Final

import attrs
import trio

from actorchat.brokers.connection_support import answered_within
from actorchat.brokers.log_age import LogAge
from actorchat.brokers.message_builder import GROUPS_PER_SECOND, MessageBuilder
from actorchat.brokers.ports import Broker, BrokerConnection, BrokerUnavailable
from actorchat.chat.commit_log import MOST_TRIMMED, CommitLog, LogEntry
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
LEASE_PERIOD: Final = 1.0
"""Seconds after which a server asks again whether it is to publish, instead of another one."""

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


Lease = Callable[[], Awaitable[bool]]
"""Returns whether this server publishes, and not another one on the same database."""

Observe = Callable[[str, int], AbstractContextManager[object]]
"""Returns the block in which so many messages are published to the broker of that name."""


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
        observe: Observe | None,
        lease: Lease | None,
    ) -> None:
        self.name = name
        self.holds = lease is None
        self._lease = lease
        self.position = position
        self.published = self.outages = 0
        self.problem: str | None = None
        self.idle = trio.Event()
        self._broker = broker
        self._log = log
        self._links = links
        self._clock = clock
        self._random = random
        self._observe = observe
        self._wake = trio.Event()
        self._delay = FIRST_DELAY
        self._warned_at, self._told = -inf, False
        self._away_since = 0.0
        # The commit time of the oldest entry that was read and is not confirmed.
        self._oldest: float | None = None
        self._skipped = 0

    def wake(self) -> None:
        """Wake the relay, because something was committed."""
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
        """Publish the log until cancelled. While the broker is unavailable, retry with growing delays."""
        while True:
            try:
                await self._wait_for_lease()
                await self._publish_all()
            except BrokerUnavailable as error:
                await self._away(str(error))
            except StorageUnavailable:
                # The journal logs that storage is unavailable.
                await trio.sleep(1.0)
            except Exception as error:
                if trio.current_time() - self._warned_at >= WARNING_PERIOD:
                    _log.exception("publishing to %s failed", self.name)
                await self._away(f"{type(error).__name__}: {error}")

    async def _wait_for_lease(self) -> None:
        """Return when this server publishes, and not another one on the same database."""
        if self._lease is None:
            return
        while not await self._lease():
            self.holds = False
            self._oldest = None
            self.idle.set()
            await trio.sleep(LEASE_PERIOD)
        if not self.holds:
            self.position = (await self._log.positions()).get(self.name, self.position)
            self.holds = True

    async def _publish_all(self) -> None:
        async with self._broker.connect() as connection:
            builder, read = MessageBuilder(self._links, self._skip), self.position
            await self._ping(connection)
            while self._lease is None or await self._lease():
                self._wake = trio.Event()
                entries = await self._log.entries(after=read, size=PAGE_BYTES)
                messages: list[BrokerMessage] = []
                for entry in entries:
                    if self._oldest is None:
                        self._oldest = entry.time
                    messages += builder.add(entry)
                    read = entry.seq
                await self._publish(connection, messages)
                # Only after publishing: a broker that is full still accepts connections.
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
        with answered_within(PING_SECONDS):
            await connection.ping()

    async def _publish(self, connection: BrokerConnection, messages: Sequence[BrokerMessage]) -> None:
        rest = iter(messages)
        while batch := list(islice(rest, MOST_AT_ONCE)):
            observed = nullcontext() if self._observe is None else self._observe(self.name, len(batch))
            with observed, answered_within(PUBLISH_SECONDS):
                await connection.publish(batch)
            self.published += len(batch)

    def _skip(self, entry: LogEntry, error: Exception) -> None:
        """Log once that an entry is left out: it is read again with each new connection."""
        if entry.seq > self._skipped:
            self._skipped = entry.seq
            _log.error(
                "commit %d in the log (%d bytes) can't be read and is not published to %s: %s",
                entry.seq,
                len(entry.payload),
                self.name,
                error,
            )

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


class Relays:
    """The relays of all configured brokers, made by `open_relays`."""

    def __init__(self, relays: Sequence[_Relay], log: CommitLog, keep: float, clock: Callable[[], float]) -> None:
        self._relays = relays
        self._log = log
        self._keep = keep
        self._age = LogAge(keep, clock)
        self._recorded = {relay.name: relay.position for relay in relays}
        self._recorded_at = -inf

    def committed(self) -> None:
        """Wake all relays, because something was committed."""
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
        positions = {relay.name: relay.position for relay in self._relays if relay.holds}
        if not positions:
            return
        now = trio.current_time()
        if positions == self._recorded and now - self._recorded_at < WARNING_PERIOD:
            return
        lost, more = 0, True
        try:
            while more:
                trimmed = await self._log.record(positions, expired=self._age.expired())
                self._age.note(trimmed.newest)
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
    observe: Observe | None = None,
    lease: Lease | None = None,
) -> AsyncIterator[Relays]:
    """Publish what is in `log` to `brokers`, by name, until the block is left.

    `links` signs the links to files. Entries that wait for longer than `keep` seconds are dropped. `clock` returns
    epoch seconds. `observe` makes the block in which a batch is published. With a `lease`, only the server that has it
    publishes. Leaving this block publishes the last commits, for `FLUSH_SECONDS` at most. Raises `StorageUnavailable`.
    """
    random = random or SystemRandom()
    positions = await log.positions()
    made = [
        _Relay(name, broker, log, links, positions.get(name, 0), clock, random, observe, lease)
        for name, broker in brokers.items()
    ]
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
    # One short transaction, so that the next start does not publish the same entries again.
    with trio.CancelScope(shield=True):
        await relays.record()
