"""Makes the adapter for a broker's URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actorchat.brokers.memory import MemoryBroker
from actorchat.brokers.ports import Broker, BrokerTail
from actorchat.brokers.urls import BrokerUrl

if TYPE_CHECKING:
    from actorchat.brokers.amqp import AmqpBroker
    from actorchat.brokers.nats import NatsBroker
    from actorchat.brokers.redis import RedisBroker

__all__ = ["open_broker", "open_tail"]


def open_broker(url: BrokerUrl) -> Broker:
    """The broker at `url`, not connected yet. Its library is imported here: it is an extra."""
    return MemoryBroker() if url.scheme == "memory" else _adapter(url)


def open_tail(url: BrokerUrl) -> BrokerTail:
    """Open a reader of the broker at `url`. Raises ValueError for `memory://`, which no other process reaches."""
    if url.scheme == "memory":
        raise ValueError("memory:// is in the server's own process")
    return _adapter(url)


def _adapter(url: BrokerUrl) -> RedisBroker | AmqpBroker | NatsBroker:
    if url.scheme in ("redis", "rediss"):
        from actorchat.brokers.redis import RedisBroker

        return RedisBroker(url)
    if url.scheme in ("nats", "tls"):
        from actorchat.brokers.nats import NatsBroker

        return NatsBroker(url)
    from actorchat.brokers.amqp import AmqpBroker

    return AmqpBroker(url)
