"""Publishes what was committed to message brokers, for other programs.

The relay reads the commit log and hands what it finds to a `Broker`: in memory, on Redis streams, over AMQP or to NATS.
"""

from actorchat.brokers.factory import open_broker, open_tail
from actorchat.brokers.memory import MemoryBroker
from actorchat.brokers.ports import Broker, BrokerConnection, BrokerTail, BrokerUnavailable
from actorchat.brokers.relay import Relays, RelayStatistics, open_relays
from actorchat.brokers.urls import BrokerUrl, InvalidBrokerUrl, parse_broker_url

__all__ = [
    "Broker",
    "BrokerConnection",
    "BrokerTail",
    "BrokerUnavailable",
    "BrokerUrl",
    "InvalidBrokerUrl",
    "MemoryBroker",
    "RelayStatistics",
    "Relays",
    "open_broker",
    "open_relays",
    "open_tail",
    "parse_broker_url",
]
