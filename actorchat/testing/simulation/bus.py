"""A bus between nodes that delays, loses, repeats and reorders notes, and can be partitioned."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Generic, TypeVar

import trio

from actorchat.testing.simulation.world import World

__all__ = ["Bus", "BusMember"]

T = TypeVar("T")


class Bus(Generic[T]):
    """One bus of `world`.

    `lose` and `repeat` are the probabilities that a note is lost or repeated, for each receiver. `delay` is the most
    seconds that a note takes; notes overtake each other. All notes are lost until the time `away_until`. `capacity` is
    the most notes that wait for a receiver: if there are more, the oldest is lost.
    """

    def __init__(self, world: World, name: str = "bus", *, capacity: int = 1_000) -> None:
        self.lose: float = 0.0
        self.repeat: float = 0.0
        self.delay: float = 0.01
        self.away_until: float = -inf
        self.lost: int = 0
        self._world, self._name, self._capacity = world, name, capacity
        self._random = world.random(name)
        self._subscriptions: dict[str, BusMember[T]] = {}
        self._sides: dict[str, int] = {}

    def join(self, node: str) -> BusMember[T]:
        """Join the bus as `node`. An earlier member of that name receives nothing any more."""
        subscription = self._subscriptions[node] = BusMember(self, node, self._capacity)
        return subscription

    def split(self, *sides: Iterable[str]) -> None:
        """Partition the bus: only nodes on the same side receive each other's notes.

        Nodes that are on none of `sides` form a side of their own. Without arguments the partition ends.
        """
        self._world.log(self._name, "split", [sorted(side) for side in sides])
        self._sides = {node: number for number, side in enumerate(sides) for node in side}

    def _send(self, sender: str, note: T) -> None:
        chance, network = self._random, self._world.network
        for name, subscription in self._subscriptions.items():
            if name == sender:
                continue
            apart = self._sides.get(name) != self._sides.get(sender)
            times = 2 if chance.random() < self.repeat else 1
            if apart or trio.current_time() < self.away_until or chance.random() < self.lose:
                self.lost += 1
                continue
            for _ in range(times):
                at = trio.current_time() + chance.uniform(0.0, self.delay)
                network.at(at, lambda subscription=subscription: subscription._arrive(note))  # type: ignore[misc] # a default argument binds it


class BusMember(Generic[T]):
    """One node's end of a bus."""

    def __init__(self, bus: Bus[T], node: str, capacity: int) -> None:
        self.node = node
        self._bus, self._capacity = bus, capacity
        self._notes: list[T] = []
        self._lot = trio.lowlevel.ParkingLot()

    def tell(self, note: T) -> None:
        """Send `note` to all other members, without waiting and without any guarantee."""
        self._bus._send(self.node, note)

    async def receive(self) -> T:
        """Wait for the next note and return it."""
        while not self._notes:
            await self._lot.park()
        await trio.lowlevel.checkpoint()
        return self._notes.pop(0)

    def _arrive(self, note: T) -> None:
        if self._bus._subscriptions.get(self.node) is not self:
            return
        self._notes.append(note)
        if len(self._notes) > self._capacity:
            del self._notes[0]
            self._bus.lost += 1
        self._lot.unpark()
