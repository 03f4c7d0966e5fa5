"""The live actors of a node are shown through the database, and whoever asks gets an answer or a reason."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from uuid import UUID, uuid4

import attrs
import pytest
import trio

from actorchat.actor_tree import InspectionRequest
from actorchat.chat.model import Policy
from actorchat.nodes.postgres_tables import PostgresTables
from actorchat.nodes.tables import MOST_INQUIRIES, Inquiry, NodeRow
from actorchat.server import node_inspection
from actorchat.server.inspection import InspectionFailed
from actorchat.server.node_inspection import inspect_node
from actorchat.server.serving import Server, open_server
from actorchat.server.settings import Settings
from actorchat.storage.postgres.store import PostgresStore
from tests.nodes.memory_tables import MemoryTables

CAP = 120.0
SECRET = "a-secret-for-tests-of-enough-bytes"
ROOMS = InspectionRequest(filter="Room", limit=1000)
TWO = NodeRow(node="two", epoch=0, version="1.0", state="ready", address="", statistics="{}", process="two")


@asynccontextmanager
async def two_servers(
    folder: Path, new_postgres: Callable[[], str], bus: str = "auto"
) -> AsyncIterator[tuple[Server, PostgresTables]]:
    """The second of two servers, `one` and `two`, and the tables that they share."""
    url = await trio.to_thread.run_sync(new_postgres)
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(CAP))
        servers: list[Server] = []
        for name in ("one", "two"):
            settings = Settings(storage=url, port=None, data=folder / name, secret=SECRET, node_name=name, bus=bus)
            servers.append(await stack.enter_async_context(open_server(settings)))
        yield servers[1], stack.enter_context(closing(PostgresTables(url)))


@pytest.mark.parametrize("bus", ["auto", "local"])
async def test_each_node_shows_its_own_actors_with_and_without_a_bus(
    bus: str, tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    async with two_servers(tmp_path, new_postgres, bus) as (two, tables):
        visitor = await two.connect_visitor(source="lk")
        shown = await inspect_node(tables, "two", ROOMS)
        assert [row.name for row in shown.rows] == [str(visitor.chat)]
        assert (await inspect_node(tables, "one", ROOMS)).rows == ()


async def test_a_long_answer_has_fewer_rows_and_the_count_of_all(
    tmp_path: Path, new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_servers(tmp_path, new_postgres) as (two, tables):
        for _ in range(8):
            await two.connect_visitor(source="lk")
        monkeypatch.setattr(node_inspection, "MOST_ANSWERED", 1500)
        shown = await inspect_node(tables, "two", ROOMS)
        assert 1 <= len(shown.rows) < 8
        assert shown.matched == 8


async def test_a_node_refuses_a_request_that_it_can_not_read_and_answers_the_next(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    async with two_servers(tmp_path, new_postgres) as (_, tables):
        for request in (b'{"limit": 0}', b"\xff", b"[" * 100_000):
            inquiry = Inquiry(uuid4(), request)
            assert tables.ask(inquiry, "two", 60)
            while (answer := tables.take_answer(inquiry.id)) is None:  # noqa: ASYNC110 - another server is waited for
                await trio.sleep(0.05)
            assert b"invalid request" in answer
        assert (await inspect_node(tables, "two", InspectionRequest())).matched > 0


async def test_the_names_of_the_nodes_are_told_to_who_asks_for_another_one() -> None:
    tables = MemoryTables(time.monotonic)
    with pytest.raises(InspectionFailed, match=r"^there is no node three: no server runs on this database$"):
        await inspect_node(tables, "three", ROOMS)
    for name in ("one", "two"):
        tables.register(attrs.evolve(TWO, node=name), 60)
    with pytest.raises(InspectionFailed, match=r"^there is no node three; the nodes are: one, two$"):
        await inspect_node(tables, "three", ROOMS)


async def test_a_dead_node_is_not_waited_for() -> None:
    tables = MemoryTables(time.monotonic)
    tables.register(TWO, -5)
    with pytest.raises(InspectionFailed, match=r"^the node two is dead: it has not been heard of for 15 s$"):
        await inspect_node(tables, "two", ROOMS)


async def test_a_silent_node_is_given_up_and_its_inquiry_expires(
    new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    monkeypatch.setattr(node_inspection, "NODE_SECONDS", 0.5)
    with closing(PostgresStore(url, Policy())), closing(PostgresTables(url)) as tables, trio.fail_after(CAP):
        epoch = tables.register(TWO, 600)
        assert epoch is not None
        with pytest.raises(InspectionFailed, match=r"^the node two did not answer within"):
            await inspect_node(tables, "two", ROOMS)
        while tables.asked("two", epoch):  # noqa: ASYNC110 - the database's clock is waited for
            await trio.sleep(0.05)


async def test_a_node_that_ends_before_it_answers_is_told_to_be_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_inspection, "NODE_SECONDS", 0.5)
    tables = MemoryTables(time.monotonic)
    # Its process was killed a moment ago, so its lease still runs.
    tables.register(TWO, 0.2)
    with pytest.raises(InspectionFailed, match=r"^the node two is dead: it has not been heard of for 10 s$"):
        await inspect_node(tables, "two", ROOMS)


async def test_only_so_many_wait_for_answers_at_a_time() -> None:
    tables = MemoryTables(time.monotonic)
    tables.register(TWO, 60)
    for number in range(MOST_INQUIRIES):
        tables.ask(Inquiry(UUID(int=number), b""), "two", 60)
    with pytest.raises(InspectionFailed, match=r"other inspections of nodes are running; try again$"):
        await inspect_node(tables, "two", ROOMS)


async def test_an_answer_of_another_version_is_one_line() -> None:
    tables = MemoryTables(time.monotonic)
    epoch = tables.register(TWO, 60)
    assert epoch is not None

    async def answer() -> None:
        while not (asked := tables.asked("two", epoch)):  # noqa: ASYNC110 - a table is waited for
            await trio.sleep(0.01)
        tables.answer(asked[0].id, b'{"tree": 5}')

    with trio.fail_after(CAP):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(InspectionFailed, match=r"^the node two runs a version with another answer format$"):
                await inspect_node(tables, "two", ROOMS)
