"""Broker and server are killed again and again under load: nothing is lost, and each chat's order holds.

`pytest tests/brokers --broker-seconds=60` sends for a minute; by default it is a few seconds.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import coredis
import pytest
import trio

from actorchat.brokers import Broker, open_broker, open_relays, parse_broker_url
from actorchat.protocol import BrokerChannel, BrokerMessage, Role
from tests.brokers.readers import Open, amqp_reader, nats_history, nats_reader, redis_reader
from tests.brokers.servers import Nats, RabbitMq, Valkey
from tests.brokers.test_relay import LINKS, Place
from tests.system.server_process import ServerProcess, token

ROOMS: Final = 20
KILLS: Final = ("broker", "broker", "server", "broker")
MANY_KILLS: Final = ("broker",) * 5 + ("server",) * 2
SECONDS: Final = 3.0
CAP: Final = 120.0


@pytest.fixture
def seconds(pytestconfig: pytest.Config) -> float:
    value: float | None = pytestconfig.getoption("--broker-seconds", None)
    return SECONDS if value is None else value


@pytest.fixture(params=["valkey", "nats"])
def broker(request: pytest.FixtureRequest) -> Valkey | Nats:
    broker: Valkey | Nats = request.getfixturevalue(f"own_{request.param}")
    return broker


@pytest.fixture
def server(tmp_path: Path, broker: Valkey | Nats) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "data", extra={"ACTORCHAT_BROKER": broker.url})
    yield server
    with suppress(AssertionError):
        server.kill()


class Rooms:
    """Visitors who write over HTTP, and repeat what they got no answer to."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.chats: dict[UUID, str] = {}
        self.sent = 0
        self.done = False

    async def open(self) -> None:
        for number in range(ROOMS):
            visitor = token(Role.USER, 100 + number)
            answer = await self._call("POST", "/api/visitors", visitor, {"source": "lk"})
            self.chats[UUID(answer["chat"]["uuid"])] = visitor

    async def talk(self) -> None:
        """Until `done`, and until each has an answer."""
        async with trio.open_nursery() as nursery:
            for chat, visitor in self.chats.items():
                nursery.start_soon(self._write, chat, visitor)

    async def _write(self, chat: UUID, visitor: str) -> None:
        for number in count():
            if self.done:
                return
            body = {"text": f"message {number}", "client_id": str(number)}
            await self._call("POST", f"/api/chats/{chat}/messages", visitor, body)
            self.sent += 1
            await trio.sleep(0.02)

    async def history(self) -> dict[str, list[int]]:
        """The ids of each chat's messages, in its order."""
        stored: dict[str, list[int]] = {}
        for chat, visitor in self.chats.items():
            ids: list[int] = []
            after, more = -1, True
            while more:
                page = await self._call("GET", f"/api/chats/{chat}/messages?limit=200&after={after}", visitor)
                ids += [message["id"] for message in page["messages"]]
                after, more = page["to_index"], page["has_more"]
            stored[str(chat)] = ids
        return stored

    # Any: what comes is JSON.
    async def _call(self, method: str, path: str, visitor: str, body: object = None) -> Any:
        while True:
            with suppress(OSError, HTTPException):
                status, answer = await trio.to_thread.run_sync(self._ask, method, path, visitor, body)
                if status in (200, 201):
                    return answer
                assert status == 503, answer
            await trio.sleep(0.05)

    def _ask(self, method: str, path: str, visitor: str, body: object) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        try:
            headers = {"Authorization": f"Bearer {visitor}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


class Consumer:
    """Takes entries as a consumer should, and fails at once if a chat's order is broken."""

    def __init__(self) -> None:
        self.got: dict[str, list[int]] = defaultdict(list)
        self.repeats = 0
        self._last: dict[str, tuple[int, ...]] = {}

    def take(self, id_: str, body: bytes) -> None:
        chat, *place = id_.split("/")
        position = tuple(map(int, place))
        if position <= self._last.get(chat, (0,)):
            self.repeats += 1
            return
        self._last[chat] = position
        self.got[chat].append(json.loads(body)["id"])


async def published(broker: Valkey | Nats) -> Consumer:
    """Everything that the broker has."""
    consumer = Consumer()
    if isinstance(broker, Nats):
        for id_, body in await nats_history(broker.url, BrokerChannel.MESSAGE):
            consumer.take(id_, body)
        return consumer
    valkey = broker
    async with coredis.Redis("127.0.0.1", valkey.port) as client:
        for entry in await client.xrange("message"):
            fields = {bytes(key): bytes(value) for key, value in entry.field_values.items()}  # type: ignore[arg-type]
            consumer.take(fields[b"Actorchat-Id"].decode(), fields[b"body"])
    return consumer


@pytest.mark.slow
async def test_every_message_arrives_once_and_in_order_though_broker_and_server_are_killed(
    server: ServerProcess, broker: Valkey | Nats, seconds: float
) -> None:
    chance = random.Random(seed := random.randrange(2**32))
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    kills = chance.sample(many := MANY_KILLS if seconds > SECONDS else KILLS, len(many))
    with trio.fail_after(CAP + 3 * seconds):
        # The broker is away when the server starts for the first time.
        await trio.to_thread.run_sync(server.start)
        rooms = Rooms(server)
        await rooms.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rooms.talk)
            for what in kills:
                await trio.to_thread.run_sync(broker.start)
                await trio.sleep(chance.uniform(0.5, 1.5) * seconds / len(kills))
                if what == "server":
                    await trio.to_thread.run_sync(server.kill)
                    await trio.to_thread.run_sync(server.start)
                await trio.to_thread.run_sync(broker.kill)
            rooms.done = True
        await trio.to_thread.run_sync(broker.start)
        stored = await rooms.history()
        assert rooms.sent > ROOMS
        while True:
            consumer = await published(broker)
            if sum(map(len, consumer.got.values())) >= sum(map(len, stored.values())):
                break
            await trio.sleep(0.2)
    assert consumer.got == stored


class CuttingProxy:
    """Passes bytes to a port, and cuts each connection after some of them."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self._port, self._chance = port, chance
        self.port = 0
        self._cuts = 0
        self.cut_often = trio.Event()
        self.whole = False

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._pass, listeners)

    async def _pass(self, near: trio.SocketStream) -> None:
        rest = 2**60 if self.whole else self._chance.randrange(2_000, 40_000)

        async def copy(source: trio.SocketStream, target: trio.SocketStream, limit: int) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while limit > 0 and (data := await source.receive_some(min(limit, 4_096))):
                    await target.send_all(data)
                    limit -= len(data)
            if limit <= 0:
                self._cuts += 1
                if self._cuts >= 4:
                    self.cut_often.set()
            nursery.cancel_scope.cancel()

        async with near, await trio.open_tcp_stream("127.0.0.1", self._port) as far, trio.open_nursery() as nursery:
            nursery.start_soon(copy, near, far, rest)
            nursery.start_soon(copy, far, near, 2**60)


async def check_cuts(port: int, url: str, open_reader: Open) -> Consumer:
    """Publish through lines that are cut in the middle of batches; read directly."""
    place, chance = Place(), random.Random(5)
    proxy = CuttingProxy(port, chance)
    with trio.fail_after(CAP):
        async with open_reader(BrokerChannel.MESSAGE) as reader, trio.open_nursery() as nursery:
            await nursery.start(proxy.serve)
            broker: Broker = open_broker(parse_broker_url(url.replace(str(port), str(proxy.port))))
            async with open_relays({"b": broker}, place.log, links=LINKS, keep=1e9, random=random.Random(1)) as relays:
                place.relays = relays
                for batch in range(60):
                    place.say(*(f"{batch}/{number}" for number in range(20)))
                    await trio.sleep(0.01)
                await proxy.cut_often.wait()
                proxy.whole = True
                consumer = Consumer()
                while len(consumer.got[str(UUID(int=1))]) < 60 * 20:
                    message: BrokerMessage
                    for message in await reader.read(1):
                        consumer.take(message.id, message.body)
            nursery.cancel_scope.cancel()
    # Ids of messages ascend in commit order.
    [ids] = consumer.got.values()
    assert ids == sorted(set(ids))
    assert len(ids) == 60 * 20
    return consumer


@pytest.mark.slow
async def test_a_line_to_valkey_that_is_cut_in_a_batch_costs_nothing_but_repeats(valkey: Valkey) -> None:
    await check_cuts(valkey.port, valkey.url, redis_reader(valkey.port))


@pytest.mark.slow
async def test_a_line_to_rabbitmq_that_is_cut_in_a_batch_costs_nothing_but_repeats(rabbitmq: RabbitMq) -> None:
    assert (await check_cuts(rabbitmq.port, rabbitmq.url, amqp_reader(rabbitmq.url))).repeats


@pytest.mark.slow
async def test_a_line_to_nats_that_is_cut_in_a_batch_costs_nothing_at_all(nats: Nats) -> None:
    # The server itself drops what it already has.
    assert not (await check_cuts(nats.port, nats.url, nats_reader(nats.url))).repeats
