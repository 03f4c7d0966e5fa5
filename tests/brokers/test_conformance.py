"""Every broker adapter passes the same suite, against the real broker."""

import pytest

from actorchat.brokers import MemoryBroker, open_broker, parse_broker_url
from actorchat.testing import check_broker
from tests.brokers.readers import amqp_reader, memory_reader, nats_reader, redis_reader
from tests.brokers.servers import Nats, RabbitMq, Valkey


async def test_the_memory_broker_passes() -> None:
    broker = MemoryBroker()
    await check_broker(broker, memory_reader(broker))


@pytest.mark.slow
async def test_the_redis_broker_passes_on_valkey(valkey: Valkey) -> None:
    await check_broker(open_broker(parse_broker_url(valkey.url)), redis_reader(valkey.port))


@pytest.mark.slow
async def test_the_amqp_broker_passes_on_rabbitmq(rabbitmq: RabbitMq) -> None:
    await check_broker(open_broker(parse_broker_url(rabbitmq.url)), amqp_reader(rabbitmq.url))


@pytest.mark.slow
async def test_the_nats_broker_passes_on_nats(nats: Nats) -> None:
    await check_broker(open_broker(parse_broker_url(nats.url)), nats_reader(nats.url))
