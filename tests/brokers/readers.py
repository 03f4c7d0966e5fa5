"""Programs that read from brokers and know nothing of actorchat: raw Redis commands, and pika for AMQP."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any

import coredis
import pika  # type: ignore[import-untyped]  # it ships no types
import trio

from actorchat.brokers import MemoryBroker
from actorchat.protocol import BrokerChannel, BrokerMessage
from actorchat.testing import BrokerReader

Open = Callable[[BrokerChannel], AbstractAsyncContextManager[BrokerReader]]


class RedisReader:
    """Reads a stream with XREAD."""

    def __init__(self, client: coredis.Redis[bytes], channel: BrokerChannel, last: str | bytes) -> None:
        self._client, self._channel = client, channel
        self._last: str | bytes = last

    async def read(self, count: int) -> Sequence[BrokerMessage]:
        found: list[BrokerMessage] = []
        while len(found) < count:
            streams = await self._client.xread({self._channel.value: self._last}, count=count - len(found), block=500)
            for entries in (streams or {}).values():
                for entry in entries:
                    self._last = entry.identifier
                    fields = {_bytes(key).decode(): _bytes(value) for key, value in entry.field_values.items()}
                    assert fields.keys() == {"body", "Widget-Source", "Actorchat-Id"}
                    source, id_ = fields["Widget-Source"].decode(), fields["Actorchat-Id"].decode()
                    found.append(BrokerMessage(self._channel, source, id_, fields["body"]))
        return found


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def redis_reader(port: int, after: bytes | None = None) -> Open:
    @asynccontextmanager
    async def open_reader(channel: BrokerChannel) -> AsyncIterator[RedisReader]:
        async with coredis.Redis("127.0.0.1", port, stream_timeout=10) as client:
            last = await client.xrevrange(channel.value, count=1)
            newest = last[0].identifier if last else b"0"
            yield RedisReader(client, channel, newest if after is None else after)

    return open_reader


class AmqpReader:
    """Reads a queue of its own, bound to an exchange by every source."""

    def __init__(self, channel: Any, queue: str, of: BrokerChannel) -> None:  # Any: pika has no types
        self._channel, self._queue, self._of = channel, queue, of

    async def read(self, count: int) -> Sequence[BrokerMessage]:
        found: list[BrokerMessage] = []
        while len(found) < count:
            taken = await trio.to_thread.run_sync(self._get, count - len(found))
            found += taken
            if not taken:
                await trio.sleep(0.02)
        return found

    def _get(self, most: int) -> list[BrokerMessage]:
        found: list[BrokerMessage] = []
        while len(found) < most:
            method, properties, body = self._channel.basic_get(self._queue, auto_ack=True)
            if method is None:
                break
            headers = properties.headers
            assert headers.keys() == {"Widget-Source", "Actorchat-Id"}
            assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
            assert properties.message_id == headers["Actorchat-Id"]
            assert method.routing_key == headers["Widget-Source"]
            found.append(BrokerMessage(self._of, headers["Widget-Source"], headers["Actorchat-Id"], body))
        return found


def amqp_reader(url: str) -> Open:
    names = count()

    @asynccontextmanager
    async def open_reader(channel: BrokerChannel) -> AsyncIterator[AmqpReader]:
        queue = f"reader-{id(names)}-{next(names)}"

        def connect() -> Any:  # Any: pika has no types
            connection = pika.BlockingConnection(pika.URLParameters(url))
            opened = connection.channel()
            opened.exchange_declare(channel.value, "topic", durable=True)
            opened.queue_declare(queue)
            opened.queue_bind(queue, channel.value, "#")
            return opened

        opened = await trio.to_thread.run_sync(connect)
        try:
            yield AmqpReader(opened, queue, channel)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(opened.queue_delete, queue)
                await trio.to_thread.run_sync(opened.connection.close)

    return open_reader


class MemoryReader:
    def __init__(self, messages: trio.MemoryReceiveChannel[BrokerMessage]) -> None:
        self._messages = messages

    async def read(self, count: int) -> Sequence[BrokerMessage]:
        return [await self._messages.receive() for _ in range(count)]


def memory_reader(broker: MemoryBroker) -> Open:
    @asynccontextmanager
    async def open_reader(channel: BrokerChannel) -> AsyncIterator[MemoryReader]:
        async with broker.read(frozenset({channel})) as messages:
            yield MemoryReader(messages)

    return open_reader
