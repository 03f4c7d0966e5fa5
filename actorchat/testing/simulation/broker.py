"""A message broker with faults: it refuses batches, loses the connection within one, and acknowledges late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import attrs
import trio

from actorchat.testing.simulation.world import World

__all__ = ["Broker", "BrokerUnavailable", "Consumer", "Published"]


class BrokerUnavailable(Exception):  # noqa: N818 - a state of the broker
    """Nothing was acknowledged. Any number of messages from the start of the batch may have arrived, in order."""


@attrs.frozen
class Published:
    """One message for consumers outside the server."""

    channel: str
    body: bytes
    headers: Mapping[str, str] = attrs.field(factory=dict)
    id: str = ""


class Broker:
    """One broker of `world`: delivers at least once, and in order.

    Publishing fails at once until the time `refuse_until`. `cut_rate` is the probability that the connection is lost
    during a batch, when any part of it has arrived. `late` is the most seconds that an acknowledgement takes.
    Publishing to a channel fails while it has `capacity` messages that no consumer has received.
    """

    def __init__(self, world: World, name: str = "broker") -> None:
        self.refuse_until: float = -inf
        self.cut_rate: float = 0.0
        self.late: float = 0.0
        self.capacity = inf
        self._world, self._name = world, name
        self._random = world.random(name)
        self._channels: dict[str, list[Published]] = {}
        self._taken: dict[str, int] = {}
        self._arrived = trio.lowlevel.ParkingLot()

    def stored(self, channel: str) -> tuple[Published, ...]:
        """All messages that arrived in `channel`, in order, including duplicates."""
        return tuple(self._channels.get(channel, ()))

    async def publish(self, messages: Sequence[Published]) -> None:
        """Publish `messages` and wait until the broker has acknowledged all of them.

        Raises `BrokerUnavailable`. If it is cancelled, any number of them from the start may have arrived.
        """
        chance = self._random
        await trio.sleep(chance.uniform(0.0, 0.01))
        if trio.current_time() < self.refuse_until:
            raise BrokerUnavailable(f"{self._name} refuses")
        cut_after = chance.randrange(len(messages) + 1) if chance.random() < self.cut_rate else None
        for place, message in enumerate(messages):
            if place == cut_after:
                break
            waiting = len(self._channels.get(message.channel, ())) - self._taken.get(message.channel, 0)
            if waiting >= self.capacity:
                raise BrokerUnavailable(f"{message.channel} is full")
            self._channels.setdefault(message.channel, []).append(message)
            self._world.log(self._name, message.channel, message.id)
        self._arrived.unpark_all()
        if cut_after is not None:
            self._world.log(self._name, "cut after", cut_after, "of", len(messages))
            raise BrokerUnavailable(f"{self._name} lost the connection")
        await trio.sleep(chance.uniform(0.0, self.late))

    def consume(self, channel: str) -> Consumer:
        """Iterate over the channel's messages from the first one on, waiting for new ones."""
        return Consumer(self, channel)


class Consumer:
    """An endless async iterator over the messages of one channel; made by `Broker.consume`."""

    def __init__(self, broker: Broker, channel: str) -> None:
        self._broker, self._channel, self._place = broker, channel, 0

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Published:
        broker = self._broker
        while self._place >= len(broker.stored(self._channel)):
            await broker._arrived.park()
        await trio.lowlevel.checkpoint()
        self._place += 1
        broker._taken[self._channel] = max(broker._taken.get(self._channel, 0), self._place)
        return broker.stored(self._channel)[self._place - 1]
