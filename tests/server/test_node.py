"""Servers on one database know at once which accounts, blocks and widgets another one has changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from math import inf
from pathlib import Path

import pytest
import trio

from actorchat.chat.accounts import Rights
from actorchat.http.ports import Caller
from actorchat.protocol import CloseCode, Role, User, WidgetConfig
from actorchat.server.auth import Tokens
from actorchat.server.bootstrap import StartFailed
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
