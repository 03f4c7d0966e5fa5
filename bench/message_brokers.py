"""Measures publishing to message brokers: rates, the lag under load, catching up, and what the commit log costs."""

from __future__ import annotations

import gc
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import uuid4

import attrs
import msgspec
import trio

from actorchat.blobs.links import SignedLinks
from actorchat.brokers import open_broker, open_relays, open_tail, parse_broker_url
from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage, Operation, ReserveChat
from actorchat.protocol import BrokerChannel, BrokerMessage, Role, User
from actorchat.storage import open_store
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from bench.load.bare_sockets import drain, open_bare_socket, text_frame
from bench.load.generator import Socket, on_load_core, on_server_core
from bench.report import Runs
from bench.run_plan import Plan
from bench.servers import actorchat_on, chat_sockets

__all__ = ["broker"]

ROOMS: Final = 300
BATCH: Final = 500
BODY: Final = b'{"text":"' + b"x" * 688 + b'"}'
RATE: Final = 1_000
"""Messages per second of the load whose lag is measured."""

WARM: Final = 0.5
"""Seconds of that load that are not counted."""

LINKS: Final = SignedLinks(b"bench", time.time, seconds=600)
TEXT: Final = "hello, is anybody there? I look for a blue one"


@attrs.frozen
class _Broker:
    name: str
    url: str

    @property
    def who(self) -> str:
        return f"actorchat, {self.name}"


def broker(plan: Plan) -> None:
    """Message brokers: publishing, lag at 1,000 messages a second, catching up, and the cost of the commit log."""
    report = plan.report
    publishing = report.runs(f"publishing {len(BODY)} bytes, {BATCH} at once", "messages/s")
    adapter = report.runs("processor time of that", "µs a message", less=True)
    catching = report.runs("catching up with the commit log", "messages/s")
    relay = report.runs("processor time of that, the relay's", "µs a message", less=True)
    lags = {name: report.runs(f"lag at {RATE:,} messages/s, {name}", "ms", less=True) for name in ("p50", "p99")}
    storing = report.runs("storing a message in SQLite, processor time", "µs a message", less=True)
    log = report.runs("of that, the commit log", "µs a message", less=True)
    report.ask_value("the commit log, µs of processor time a message", log.case, "actorchat, SQLite", 1.5, most=True)
    with TemporaryDirectory() as name, _running(plan, Path(name)) as brokers:
        for each in brokers:
            report.ask_value(f"catching up, {each.name}, messages/s", catching.case, each.who, 5_000)
            report.ask_value(f"lag, {each.name}, p99 in ms", lags["p99"].case, each.who, 1_000, most=True)
        logged = 2_000 if plan.quick else 20_000
        _fill(Path(name) / "logged.db", logged, brokers)
        for number in plan.each_round("broker", steps=3 * len(brokers) + 1):
            folder = Path(name) / f"round-{number}"
            folder.mkdir()
            for each in brokers:
                plan.step(f"broker: publishing to {each.name}")
                with on_server_core():
                    rate, microseconds = trio.run(_publish, each.url, plan.seconds)
                publishing.add(each.who, rate)
                adapter.add(each.who, microseconds)
                plan.step(f"broker: catching up, {each.name}")
                shutil.copy(Path(name) / "logged.db", folder / f"{each.name}.db")
                with on_server_core():
                    seconds, microseconds = trio.run(_catch_up, folder / f"{each.name}.db", each.url, brokers)
                catching.add(each.who, logged / seconds)
                relay.add(each.who, microseconds / logged)
                plan.step(f"broker: lag of {each.name}")
                _measure_lag(folder / each.name, each, 2 if plan.quick else 5, lags)
            plan.step("broker: the cost of the commit log")
            # Collections must not look at what earlier parts have left.
            gc.collect()
            gc.freeze()
            with on_server_core():
                without, cost = _log_cost(folder, 10 if plan.quick else 40)
            storing.add("actorchat, SQLite", without)
            storing.add("actorchat, SQLite, for a broker", without + cost)
            log.add("actorchat, SQLite", cost)


@contextmanager
def _running(plan: Plan, folder: Path) -> Iterator[Sequence[_Broker]]:
    """Run the brokers that are installed, on the load's core."""
    # Imported here, because they come with the extra `test`.
    from tests.brokers.servers import RABBITMQ, BrokerServer, Nats, RabbitMq, Valkey

    kinds: dict[str, type[Valkey | Nats | RabbitMq]] = {"Valkey": Valkey, "NATS": Nats}
    if RABBITMQ is None:
        plan.report.leave_out("actorchat, RabbitMQ", "not installed: apt-get install rabbitmq-server")
    else:
        kinds["RabbitMQ"] = RabbitMq
    servers: list[BrokerServer] = []
    brokers: list[_Broker] = []
    try:
        with on_load_core():
            for name, kind in kinds.items():
                plan.tell(f"broker: starting {name}")
                (folder / name).mkdir()
                server = kind(folder / name)
                if isinstance(server, Nats):
                    # Its default for syncing files, two minutes. The tests' server syncs each message.
                    server.jetstream = "{{store_dir: {folder}/jetstream}}"
                servers.append(server)
                server.start()
                brokers.append(_Broker(name, server.url))
                if isinstance(server, RabbitMq):
                    _bind_queue(server.url)
        yield brokers
    finally:
        for each in servers:
            if isinstance(each, RabbitMq):
                each.close()
            else:
                each.kill()


def _bind_queue(url: str) -> None:
    """Make a durable queue of messages: without one, RabbitMQ confirms what it throws away."""
    import pika  # type: ignore[import-untyped]  # it ships no types

    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.exchange_declare("message", "topic", durable=True)
    channel.queue_declare("bench", durable=True, arguments={"x-max-length": 100_000})
    channel.queue_bind("bench", "message", "#")
    connection.close()


async def _publish(url: str, seconds: float) -> tuple[float, float]:
    """Messages per second that the adapter publishes, and the processor time of each in microseconds."""
    run = uuid4()
    async with open_broker(parse_broker_url(url)).connect() as connection:
        published, began, busy = 0, time.perf_counter(), time.thread_time()
        while time.perf_counter() - began < seconds:
            messages = [
                BrokerMessage(BrokerChannel.MESSAGE, "lk", f"{run}/{published + number}", BODY)
                for number in range(BATCH)
            ]
            await connection.publish(messages)
            published += BATCH
        return published / (time.perf_counter() - began), (time.thread_time() - busy) / published * 1e6


def _fill(path: Path, count: int, brokers: Sequence[_Broker]) -> None:
    """Store `count` messages that none of `brokers` has confirmed."""
    store = SqliteStore(path, Policy(), brokers=[each.url for each in brokers])
    room = _Rooms(store)
    for _ in range(0, count, ROOMS):
        room.say()
    store.close()


async def _catch_up(path: Path, url: str, brokers: Sequence[_Broker]) -> tuple[float, float]:
    """Publish what is logged at `path`. Returns the seconds that it takes, and the microseconds of processor time."""
    async with open_store(f"sqlite:///{path}", Policy(), brokers=[each.url for each in brokers]) as storage:
        assert storage.log is not None
        began, busy = time.perf_counter(), time.process_time()
        async with open_relays({url: open_broker(parse_broker_url(url))}, storage.log, links=LINKS, keep=1e9) as relays:
            await relays.flush()
            took = time.perf_counter() - began, (time.process_time() - busy) * 1e6
            [statistics] = relays.statistics()
            if statistics.problem is not None:
                raise RuntimeError(f"{url} took no messages: {statistics.problem}")
            return took


def _measure_lag(folder: Path, broker: _Broker, seconds: float, lags: dict[str, Runs]) -> None:
    """The time from a message's way into a socket until another program has it from the broker."""
    with actorchat_on(folder, "--broker", broker.url) as (port, _), on_load_core():
        sockets = chat_sockets(port, folder, ROOMS, 1, 1)
        milliseconds, busy = trio.run(partial(_send_and_follow, port, sockets, broker.url, seconds))
    milliseconds.sort()
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        lags[name].add(broker.who, milliseconds[int(len(milliseconds) * share)], busy)


async def _send_and_follow(port: int, sockets: Sequence[Socket], url: str, seconds: float) -> tuple[list[float], float]:
    """The lags in milliseconds, and this process's share of its core."""
    lags: list[float] = []
    expected, warming = int(RATE * seconds), int(RATE * WARM)
    # Times are counted from when a message is due, so that a late sender hides nothing.
    begun, all_here = 0, trio.Event()

    def due(number: int) -> int:
        return begun + number * 1_000_000_000 // RATE

    def take(message: BrokerMessage) -> None:
        now, sent = time.monotonic_ns(), int(msgspec.json.decode(message.body)["text"])
        if sent >= due(warming):
            lags.append((now - sent) / 1e6)
            if len(lags) == expected:
                all_here.set()

    with trio.fail_after(seconds + 60):
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            nursery.start_soon(open_tail(parse_broker_url(url)).follow, [BrokerChannel.MESSAGE], take)
            streams = [await stack.enter_async_context(await open_bare_socket(port, socket)) for socket in sockets]
            for stream in streams:
                nursery.start_soon(drain, stream)
            await trio.sleep(1)
            begun, busy = time.monotonic_ns(), time.process_time()
            for number in range(warming + expected):
                await trio.sleep(max(0, due(number) - time.monotonic_ns()) / 1e9)
                text = b'{"type":"send_message","data":{"text":"%d"}}' % due(number)
                await streams[number % len(streams)].send_all(text_frame(text))
            share = (time.process_time() - busy) / (time.monotonic_ns() - begun) * 1e9
            await all_here.wait()
            nursery.cancel_scope.cancel()
    return lags, share


class _Rooms:
    """Commits a message to each of many chats, as busy rooms do."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._number = 0
        self._chats = [(uuid4(), User(1_000 + each, Role.USER, "", "", f"Visitor {each}")) for each in range(ROOMS)]
        self._commit([ReserveChat(chat, "lk", owner) for chat, owner in self._chats])

    def say(self) -> float:
        """Returns the processor time of the commit, in microseconds a message."""
        key = str(self._number)
        operations: list[Operation] = [AddMessage(chat, owner, TEXT, client_id=key) for chat, owner in self._chats]
        busy = time.thread_time()
        self._commit(operations)
        return (time.thread_time() - busy) / ROOMS * 1e6

    def _commit(self, operations: Sequence[Operation]) -> None:
        self._number += 1
        self._store.commit(operations, Batch("bench", self._number, time.time()))


def _log_cost(folder: Path, batches: int) -> tuple[float, float]:
    """The processor time of a message without the commit log, and what the log adds to it, in microseconds.

    Batches are stored in turn without and with the log, so that both have the same moments of the machine.
    """
    stores = [
        SqliteStore(folder / f"{name}.db", Policy(), brokers=brokers)
        for name, brokers in (("without", ()), ("with", ("redis://bench",)))
    ]
    try:
        without, with_log = (_Rooms(store) for store in stores)
        for _ in range(3):
            without.say()
            with_log.say()
        pairs = [(without.say(), with_log.say()) for _ in range(batches)]
    finally:
        for store in stores:
            store.close()
    return statistics.median(each for each, _ in pairs), statistics.median(more - less for less, more in pairs)
