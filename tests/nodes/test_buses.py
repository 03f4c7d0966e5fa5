"""Every bus passes the conformance checks, on a real server where it has one."""

import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
import trio.testing

from actorchat.brokers.urls import parse_broker_url
from actorchat.nodes import MemoryBus, Note, Told, postgres_bus
from actorchat.nodes.notes import encode_frame, encode_note
from actorchat.nodes.postgres_bus import PostgresBus
from actorchat.nodes.redis_bus import RedisBus
from actorchat.storage.postgres.connecting import Connection
from actorchat.testing import check_bus
from actorchat.testing.checker.proxies import Proxy
from tests.brokers.servers import Valkey
from tests.postgres_server import PostgresServer


async def test_the_memory_bus_passes() -> None:
    await check_bus(MemoryBus().join)


async def test_the_postgres_bus_passes_on_postgresql(postgres_server: PostgresServer) -> None:
    url = await trio.to_thread.run_sync(postgres_server.new_database)

    async def cut() -> None:
        await trio.to_thread.run_sync(
            postgres_server.execute,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'actorchat bus'",
        )

    await check_bus(partial(PostgresBus, url, "actorchat test"), cut)


def be_late(meanwhile: Callable[[], object]) -> None:
    time.sleep(0.2)
    meanwhile()
    time.sleep(0.2)


async def test_a_note_that_is_read_together_with_an_answer_is_heard_at_once(postgres_server: PostgresServer) -> None:
    url = await trio.to_thread.run_sync(postgres_server.new_database)
    bus = PostgresBus(url, "actorchat test")
    heard_something = trio.Event()
    frame = b64encode(encode_frame(b"12345678", [encode_note(Told("two", 1, 0))])).decode()
    with psycopg.connect(url, autocommit=True) as other, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(bus.run, lambda _: heard_something.set())
            for _ in range(5):
                heard_something = trio.Event()
                await trio.testing.wait_all_tasks_blocked(0.1)
                bus.tell(Told("one", 1, 0))
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                # The loop is late: the answer and the note behind it have arrived when it reads.
                be_late(lambda: other.execute("SELECT pg_notify('actorchat test', %s)", (frame,)))
                await heard_something.wait()
            nursery.cancel_scope.cancel()


class FailingBus(PostgresBus):
    """Its connection fails in the moment in which `scope` is cancelled."""

    scope = trio.CancelScope()

    async def _receive(self, *_: object) -> None:
        await trio.testing.wait_all_tasks_blocked()
        self.scope.cancel()
        raise psycopg.OperationalError("the connection is lost")


async def test_a_connection_that_fails_while_the_bus_is_cancelled_is_no_error(postgres_server: PostgresServer) -> None:
    url = await trio.to_thread.run_sync(postgres_server.new_database)
    bus = FailingBus(url, "actorchat test")
    with trio.fail_after(10), trio.CancelScope() as bus.scope:
        await bus.run(lambda _: None)
    assert bus.scope.cancelled_caught


async def test_notes_that_a_lost_connection_has_left_are_sent_over_the_next_one(
    postgres_server: PostgresServer, valkey: Valkey
) -> None:
    url = await trio.to_thread.run_sync(postgres_server.new_database)
    for open_bus in (
        partial(PostgresBus, url, "actorchat test"),
        partial(RedisBus, parse_broker_url(valkey.url), "left notes"),
    ):
        one, two = open_bus(), open_bus()
        heard = trio.Event()
        with trio.fail_after(4):
            async with trio.open_nursery() as nursery:
                await nursery.start(two.run, lambda note, heard=heard: heard.set())
                one.tell(Told("one", 1, 0))
                # It was woken by that note, and its connection failed before it was sent.
                one._wake = trio.Event()
                nursery.start_soon(one.run, lambda _: None)
                await heard.wait()
                nursery.cancel_scope.cancel()


def stall_after_connecting(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold back what `proxy` forwards from the moment in which the next connection is open."""
    connect = Connection.connect

    def connect_and_stall(**parameters: Any) -> Connection:  # Any: of psycopg
        connection = connect(**parameters)
        monkeypatch.setattr(Connection, "connect", connect)
        trio.from_thread.run_sync(proxy.stall)
        return connection

    monkeypatch.setattr(Connection, "connect", connect_and_stall)


@asynccontextmanager
async def stalled_bus(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, more_hosts: str = ""
) -> AsyncIterator[tuple[PostgresBus, Proxy]]:
    """A bus that has noticed that its first host hung after the connect, and the proxy that holds back the bytes."""
    monkeypatch.setattr(postgres_bus, "_ANSWER_SECONDS", 1.0)
    url = await trio.to_thread.run_sync(server.new_database)
    proxy = Proxy(lambda: server.port)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            hosts = f":{proxy.port}{more_hosts}/"
            bus = PostgresBus(url.replace(f":{server.port}/", hosts) + "?connect_timeout=2", "actorchat test")
            stall_after_connecting(proxy, monkeypatch)
            await nursery.start(bus.run, lambda _: None)
            assert "no answer within 1 s" in (bus.problem or "")
            yield bus, proxy
            nursery.cancel_scope.cancel()


async def test_a_server_that_hangs_after_the_connect_is_a_problem_until_it_answers(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stalled_bus(postgres_server, monkeypatch) as (bus, proxy):
        proxy.flow()
        while bus.problem is not None:
            bus.tell(Told("one", 1, 0))
            await trio.sleep(0.05)


async def test_a_bus_whose_first_host_hangs_after_the_connect_goes_to_the_next_host(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stalled_bus(postgres_server, monkeypatch, f",127.0.0.1:{postgres_server.port}") as (bus, _):
        while bus.problem is not None:  # noqa: ASYNC110 - the bus reconnects by itself
            await trio.sleep(0.05)


async def test_each_host_has_the_time_to_connect_that_the_url_gives_it(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_bus, "_ANSWER_SECONDS", 1.0)
    url = await trio.to_thread.run_sync(postgres_server.new_database)
    with socket.create_server(("127.0.0.1", 0)) as silent, trio.fail_after(30):
        hosts = f":{silent.getsockname()[1]},127.0.0.1:{postgres_server.port}/"
        bus = PostgresBus(url.replace(f":{postgres_server.port}/", hosts) + "?connect_timeout=2", "actorchat test")
        async with trio.open_nursery() as nursery:
            await nursery.start(bus.run, lambda _: None)
            assert bus.problem is None
            nursery.cancel_scope.cancel()


async def test_nobody_waits_for_a_bus_whose_first_connection_fails(postgres_server: PostgresServer) -> None:
    url = await trio.to_thread.run_sync(postgres_server.new_database)
    bus = PostgresBus(url.replace(url.rpartition("/")[2], "nowhere"), "actorchat test")
    bus.tell(Told("one", 1, 0))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.run, lambda _: None)
            await bus.flush()
            nursery.cancel_scope.cancel()


async def test_the_redis_bus_passes_on_valkey(valkey: Valkey) -> None:
    async def cut() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", valkey.port) as stream:
            await stream.send_all(b"CLIENT KILL TYPE PUBSUB\r\nCLIENT KILL TYPE NORMAL SKIPME YES\r\n")
            await stream.receive_some()

    await check_bus(partial(RedisBus, parse_broker_url(valkey.url), "actorchat test"), cut)


async def test_a_bus_whose_server_is_away_says_why_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Valkey(tmp_path)
    one, two = (RedisBus(parse_broker_url(server.url), "actorchat test") for _ in range(2))
    heard: list[Note] = []
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                # Both have started although nobody listens there.
                await nursery.start(one.run, heard.append)
                await nursery.start(two.run, heard.append)
                assert "connection" in (one.problem or "")
                # The database may be away, too.
                assert "from the database, if it can be reached" in caplog.text
                await one.flush()
                for _ in range(2):
                    await trio.to_thread.run_sync(server.start)
                    heard.clear()
                    while not heard:
                        one.tell(Told("one", 1, 0))
                        await trio.sleep(0.05)
                    assert (one.problem, two.problem) == (None, None)
                    server.kill()
                    while one.problem is None or two.problem is None:
                        one.tell(Told("one", 2, 1))
                        two.tell(Told("two", 2, 1))
                        await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
    finally:
        server.kill()
