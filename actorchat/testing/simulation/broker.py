"""A broker that refuses, loses its connection within a batch and acknowledges late: at least once, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import attrs
import trio

from actorchat.testing.simulation.world import World

__all__ = ["Broker", "BrokerUnavailable", "Consumer", "Published"]


class BrokerUnavailable(Exception):  # noqa: N818 - a state of the broker
    """Nothing was acknowledged. Each message of the batch may have arrived, a first part of them in order."""


@attrs.frozen
class Published:
    """One message for outsiders."""

    channel: str
    body: bytes
    headers: Mapping[str, str] = attrs.field(factory=dict)
    id: str = ""


class Broker:
    """One broker of `world`.

    `refuse_until`: publishing fails at once up to that moment. `cut_rate`: how likely the connection is lost in a
    batch, after some of it or all of it arrived. `late`: seconds that an acknowledgement may take. `capacity`: with so
    many messages in a channel that no consumer has taken, publishing fails.
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
        """Everything that arrived, in order, repeats included."""
        return tuple(self._channels.get(channel, ()))

    async def publish(self, messages: Sequence[Published]) -> None:
        """Return when the broker has acknowledged all of `messages`. Raises `BrokerUnavailable`.

        Cancelled, any first part of them may have arrived.
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
        """The channel's messages from its first, one after the other, for ever."""
        return Consumer(self, channel)


class Consumer:
    """An outsider's reading of one channel; made by `Broker.consume`."""

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
