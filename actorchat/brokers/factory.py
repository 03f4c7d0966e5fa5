"""Makes the adapter for a broker's URL."""

from __future__ import annotations

from actorchat.brokers.memory import MemoryBroker
from actorchat.brokers.ports import Broker
from actorchat.brokers.urls import BrokerUrl

__all__ = ["open_broker"]


def open_broker(url: BrokerUrl) -> Broker:
    """The broker at `url`, not connected yet. Its library is imported here: it is an extra."""
    if url.scheme == "memory":
        return MemoryBroker()
    if url.scheme in ("redis", "rediss"):
        from actorchat.brokers.redis import RedisBroker

        return RedisBroker(url)
    from actorchat.brokers.amqp import AmqpBroker

    return AmqpBroker(url)
