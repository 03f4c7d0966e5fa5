"""Servers on one database have different names, and know at once what another one has changed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from math import inf
from pathlib import Path

import attrs
import pytest
import trio

from actorchat.chat.accounts import Rights
from actorchat.http.ports import Caller
from actorchat.nodes import registry
from actorchat.nodes.node import Node
from actorchat.nodes.postgres_tables import PostgresTables
from actorchat.nodes.tables import NodeRow
from actorchat.protocol import CloseCode, MessageAdded, Role, User, WidgetConfig
from actorchat.server import serving, starting
from actorchat.server.auth import Tokens
from actorchat.server.bootstrap import ServerEnded, StartFailed
from actorchat.server.embedded import LocalSocket
from actorchat.server.serving import Server, open_server
from actorchat.server.settings import KeySettings, Settings
from tests.system.clients import open_socket

CAP = 120.0
SECRET = "a-secret-for-tests-of-enough-bytes"
ADMIN = Caller(User(1, Role.OPERATOR), frozenset({"lk"}), inf, by_token=False, rights=Rights.ADMIN)
ANNA = User(7, Role.USER, firstname="Anna")


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - another server is waited for
        await trio.sleep(0.02)


async def test_what_one_server_changes_counts_on_the_other(tmp_path: Path, new_postgres: Callable[[], str]) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(CAP))
        servers: list[Server] = []
        for name in ("one", "two"):
            settings = Settings(storage=url, port=None, data=tmp_path / name, secret=SECRET, node_name=name)
            servers.append(await stack.enter_async_context(open_server(settings)))
        one, two = (server._parts for server in servers)
        anna = await servers[1].connect_visitor(source="lk", user=ANNA)

        account = await one.accounts.add("olga", rights=Rights.OPERATOR, sources=("lk",))
        await until(lambda: two.accounts.get(account.id) == account)

        assert (await two.documents.widget("lk")).config == WidgetConfig()
        config = WidgetConfig(title="Ask us")
        await one.documents.set_widget("lk", config)
        while (await two.documents.widget("lk")).config != config:  # noqa: ASYNC110 - another server is waited for
            await trio.sleep(0.02)

        block = await one.blocks.add(ADMIN, user=ANNA.id, address=None, reason="", seconds=None)
        await until(lambda: two.blocks.blocks_user(ANNA))
        await until(lambda: anna.close_code is not None)
        assert anna.close_code == CloseCode.NOT_ALLOWED
        await one.blocks.remove(block.id)
        await until(lambda: not two.blocks.blocks_user(ANNA))


async def test_a_late_word_of_a_sign_out_leaves_sockets_with_newer_tokens_open(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    olga = User(3, Role.OPERATOR)
    with trio.fail_after(CAP):
        async with open_server(Settings(storage=url, port=0, data=tmp_path, secret=SECRET)) as server:
            token = server.issue_token(olga, sources=("lk",))
            async with open_socket(server.port, "/ws/operators?source=lk", token) as socket:
                await socket.next()
                for at in (time.time() - 60, time.time() + 60):
                    assert socket.peer.close_code is None
                    server._parts.chats.people.on_sign_out(olga, at)
                assert await socket.gone() == CloseCode.SIGNED_OUT


async def test_a_disabled_account_has_no_sockets_on_any_server_however_new_their_tokens_are(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(CAP))
        one, two = [
            await stack.enter_async_context(
                open_server(Settings(storage=url, port=0, data=tmp_path / name, secret=SECRET))
            )
            for name in ("one", "two")
        ]
        accounts = one._parts.accounts
        olga = await accounts.add("olga", rights=Rights.OPERATOR, sources=("lk",))
        # As if it was issued after the account was disabled, and before this server has heard of that.
        token = Tokens(SECRET, now=lambda: time.time() + 20).issue(User(olga.id, Role.OPERATOR), ("lk",), 60)
        socket = await stack.enter_async_context(open_socket(two.port, "/ws/operators?source=lk", token))
        await socket.next()
        await accounts.change(olga, disabled=True)
        assert await socket.gone() == CloseCode.SIGNED_OUT


async def test_a_server_with_another_secret_than_the_nodes_that_run_does_not_start(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    other = "another-secret-for-tests-of-enough-bytes"

    def settings(name: str, secret: str | None, *previous: str) -> Settings:
        keys = KeySettings(previous_secrets=previous)
        return Settings(storage=url, port=None, data=tmp_path / name, secret=secret, node_name=name, keys=keys)

    with trio.fail_after(CAP):
        async with open_server(settings("one", SECRET)):
            for secret in (other, None):
                with pytest.raises(StartFailed, match="another secret than the node one"):
                    async with open_server(settings("two", secret)):
                        pass
            # While the secret is being replaced, one of both is enough.
            async with open_server(settings("two", other, SECRET)) as two:
                assert two._parts.node is not None
                assert [row.node for row in two._parts.node.registry.others] == ["one"]


async def test_a_server_whose_bus_differs_from_that_of_others_says_so(
    tmp_path: Path, new_postgres: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)

    def settings(name: str, bus: str) -> Settings:
        return Settings(storage=url, port=None, data=tmp_path / name, secret=SECRET, node_name=name, bus=bus)

    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(CAP))
        await stack.enter_async_context(open_server(settings("one", "auto")))
        # Its `url` is another way to the same bus.
        await stack.enter_async_context(open_server(settings("two", url)))
        assert "ACTORCHAT_BUS" not in caplog.text
        await stack.enter_async_context(open_server(settings("three", "local")))
    [warning] = [record.getMessage() for record in caplog.records if "ACTORCHAT_BUS" in record.getMessage()]
    assert warning == (
        "the bus of this node is local, but that of other nodes is not: one (postgres), two (postgres). They hear of"
        " each other a second later: give all nodes the same `bus` (ACTORCHAT_BUS)"
    )


def listed(server: Server) -> list[NodeRow]:
    node = server._parts.node
    assert node is not None
    return list(node.registry.tables.nodes())


async def test_a_server_with_the_name_of_a_node_that_runs_does_not_start(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)

    def settings(folder: str) -> Settings:
        return Settings(storage=url, port=0, data=tmp_path / folder, secret=SECRET, node_name="one")

    with trio.fail_after(CAP):
        async with open_server(settings("first")) as server:
            before = listed(server)
            with pytest.raises(
                StartFailed, match=rf"the node one is running already at 127\.0\.0\.1:{server.port}: give"
            ):
                async with open_server(settings("second")):
                    pass
            assert [(row.node, row.epoch) for row in listed(server)] == [(row.node, row.epoch) for row in before]
        async with open_server(settings("second")) as server:
            assert [row.node for row in listed(server)] == ["one"]


async def test_a_server_whose_name_was_taken_over_stores_what_it_has_accepted_and_ends(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    settings = Settings(storage=url, port=None, data=tmp_path, secret=SECRET, node_name="one")
    sockets: list[LocalSocket] = []

    async def run_until_replaced() -> None:
        async with open_server(settings) as server:
            sockets.append(await server.connect_visitor(source="lk", user=ANNA))
            await sockets[0].send_message("hello")
            [row] = listed(server)
            other = attrs.evolve(row, process="another", address="there")
            # As after a time in which this process was frozen.
            epoch = tables.register(other, 600, row.epoch)
            assert epoch is not None
            while True:
                await trio.sleep(0.5)
                tables.renew(attrs.evolve(other, epoch=epoch), 600)

    with trio.fail_after(CAP), closing(PostgresTables(url)) as tables:
        with pytest.raises(
            ServerEnded, match="another server at there has taken over the node name one, so this one ends"
        ):
            await run_until_replaced()
        assert sockets[0].close_code == CloseCode.DRAINING
        assert [row.process for row in tables.nodes()] == ["another"]
        tables.leave("one", "another")
        async with open_server(settings) as server:
            anna = await server.connect_visitor(source="lk", user=ANNA, after=-1)
            texts = [event.message.text async for event in until_message(anna)]
            assert texts == ["hello"]


async def until_message(socket: LocalSocket) -> AsyncIterator[MessageAdded]:
    async for event in socket:
        if isinstance(event, MessageAdded):
            yield event
            return


async def test_names_that_servers_make_are_different_on_one_machine(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    with trio.fail_after(CAP):
        async with AsyncExitStack() as stack:
            # Workers of one server have a setting in common.
            for folder, name, workers in (("one", "", 1), ("two", "", 1), ("3", "named", 2), ("4", "named", 2)):
                settings = Settings(
                    storage=url, port=0, data=tmp_path / folder, secret=SECRET, node_name=name, workers=workers
                )
                await stack.enter_async_context(open_server(settings))
            tables = stack.enter_context(closing(PostgresTables(url)))
            names = [row.node for row in tables.nodes()]
            assert len(set(names)) == 4
            assert len([name for name in names if name.startswith("named-")]) == 2


async def test_a_server_that_stops_is_listed_as_draining_at_once_and_then_no_more(
    tmp_path: Path, new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    monkeypatch.setattr(registry, "RENEWAL", inf)
    finish = trio.Event()
    states: list[str] = []
    with trio.fail_after(CAP), closing(PostgresTables(url)) as tables:
        settings = Settings(storage=url, port=None, data=tmp_path, secret=SECRET)
        async with trio.open_nursery() as nursery, open_server(settings) as server:
            monkeypatch.setattr(server._parts.chats, "drain", finish.wait)
            assert [row.state for row in tables.nodes()] == ["ready"]

            async def watch() -> None:
                while states[-1:] != ["draining"]:
                    await trio.sleep(0.01)
                    states.extend(row.state for row in tables.nodes())
                finish.set()

            nursery.start_soon(watch)
        assert server.drained
        assert tables.nodes() == []


async def test_a_server_that_drains_for_too_long_stays_listed_until_its_lease_ends(
    tmp_path: Path, new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    monkeypatch.setattr(serving, "DRAIN_SECONDS", 0.2)
    with trio.fail_after(CAP), closing(PostgresTables(url)) as tables:
        async with open_server(Settings(storage=url, port=None, data=tmp_path, secret=SECRET)) as server:
            monkeypatch.setattr(server._parts.chats, "drain", trio.sleep_forever)
            before = [(row.node, row.epoch) for row in tables.nodes()]
        assert not server.drained
        assert [(row.node, row.epoch) for row in tables.nodes()] == before != []


async def test_a_server_whose_database_does_not_answer_stops_without_asking_it(
    tmp_path: Path, new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    with trio.fail_after(CAP), closing(PostgresTables(url)) as tables:
        async with open_server(Settings(storage=url, port=None, data=tmp_path, secret=SECRET)) as server:
            monkeypatch.setattr(Node, "database_answers", False)
            before = [(row.node, row.epoch) for row in tables.nodes()]
        assert server.drained
        assert [(row.node, row.epoch) for row in tables.nodes()] == before != []


async def test_a_server_that_does_not_start_is_not_listed(
    tmp_path: Path, new_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)

    async def fail(*_: object) -> None:
        raise StartFailed("the broker is unknown")

    monkeypatch.setattr(starting, "_open_relays", fail)
    with trio.fail_after(CAP), closing(PostgresTables(url)) as tables:
        with pytest.raises(StartFailed, match="the broker is unknown"):
            async with open_server(Settings(storage=url, port=None, data=tmp_path, secret=SECRET)):
                pass
        assert tables.nodes() == []


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_the_address_of_a_node_has_the_port_that_the_system_has_chosen(
    host: str, shown: str, tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    with trio.fail_after(CAP):
        async with open_server(Settings(storage=url, host=host, port=0, data=tmp_path, secret=SECRET)) as server:
            assert [row.address for row in listed(server)] == [f"{shown}:{server.port}"]
