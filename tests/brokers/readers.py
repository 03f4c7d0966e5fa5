"""Programs that read from brokers and know nothing of actorchat: with raw Redis commands, pika, or nats-py."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
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


class NatsReader:
    """Reads what the client of NATS prints, which runs on asyncio in a process of its own."""

    def __init__(self, channel: BrokerChannel, process: trio.Process) -> None:
        assert process.stdout is not None
        self._channel, self._output = channel, process.stdout
        self._received = b""

    async def read(self, count: int) -> Sequence[BrokerMessage]:
        return [await self._next() for _ in range(count)]

    async def _next(self) -> BrokerMessage:
        subject, headers, body = json.loads(await self.line())
        assert headers["Nats-Msg-Id"] == headers["Actorchat-Id"]
        assert headers["Content-Type"] == "application/json"
        assert subject == f"{self._channel.value}.{headers['Widget-Source']}"
        return BrokerMessage(self._channel, headers["Widget-Source"], headers["Actorchat-Id"], body.encode())

    async def line(self) -> bytes:
        while b"\n" not in self._received:
            data = await self._output.receive_some()
            assert data, "the client of NATS has ended"
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line


def nats_reader(url: str) -> Open:
    @asynccontextmanager
    async def open_reader(channel: BrokerChannel) -> AsyncIterator[NatsReader]:
        command = [sys.executable, "-m", "tests.brokers.nats_client", url, channel.value]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE, check=False))
            reader = NatsReader(channel, process)
            assert await reader.line() == b"listening"
            yield reader
            nursery.cancel_scope.cancel()

    return open_reader


async def nats_history(url: str, channel: BrokerChannel) -> Sequence[tuple[str, bytes]]:
    """The id and body of each message that a stream has."""
    command = [sys.executable, "-m", "tests.brokers.nats_client", url, channel.value, "all"]
    output = (await trio.run_process(command, capture_stdout=True)).stdout
    return [(headers["Actorchat-Id"], body.encode()) for _, headers, body in map(json.loads, output.splitlines())]


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
