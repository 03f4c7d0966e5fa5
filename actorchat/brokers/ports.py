"""Defines what the relay needs of a message broker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from actorchat.protocol import BrokerChannel, BrokerMessage

__all__ = ["Broker", "BrokerConnection", "BrokerTail", "BrokerUnavailable"]


class BrokerUnavailable(Exception):  # noqa: N818 - a state of the broker
    """The broker takes nothing now. The text is one line that says why; it holds no password."""


class BrokerConnection(Protocol):
    """An open connection, used by one task, which opens a new connection after any error."""

    async def publish(self, messages: Sequence[BrokerMessage]) -> None:
        """Publish `messages` in order, and return when the broker has confirmed all of them.

        Raises `BrokerUnavailable`. Then, or if it is cancelled, any of them may have arrived. They are published again,
        in the same order and with the same ids.
        """

    async def ping(self) -> None:
        """Return if the broker still answers. Raises `BrokerUnavailable`."""


class Broker(Protocol):
    """A message broker that other programs read from."""

    def connect(self) -> AbstractAsyncContextManager[BrokerConnection]:
        """Connect, until the block is left. Entering it raises `BrokerUnavailable`."""


class BrokerTail(Protocol):
    """A message broker whose messages can be watched."""

    async def follow(self, channels: Collection[BrokerChannel], take: Callable[[BrokerMessage], object]) -> None:
        """Call `take` with each message that is published on `channels` from now on, until cancelled.

        This takes no messages away from other readers. Raises `BrokerUnavailable`.
        """
