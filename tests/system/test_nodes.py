"""Two server processes on one PostgreSQL serve the same chats, without a bus and after one of them is killed, too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from actorchat.protocol import (
    CloseCode,
    Event,
    MessageAdded,
    ResyncRequired,
    Role,
    SendMessage,
    TypingUpdated,
    UpdateTyping,
    UserConnected,
    UserDisconnected,
)
from tests.postgres_server import PostgresServer, cut_replication, has_everything, primary_and_standby, wait_for
from tests.system.clients import Socket, open_http, open_socket
from tests.system.server_process import ServerProcess, token

pytestmark = pytest.mark.slow

CAP = 120.0
"""Seconds that a test may take."""

VISITOR, OPERATOR = token(Role.USER, 7), token(Role.OPERATOR, 1)


@contextmanager
def two_nodes(folder: Path, url: str, bus: str = "auto") -> Iterator[tuple[ServerProcess, ServerProcess]]:
    servers = [
        ServerProcess(
            folder / name,
            extra={"ACTORCHAT_STORAGE": url, "ACTORCHAT_NODE_NAME": name, "ACTORCHAT_BUS": bus},
        )
        for name in ("one", "two")
    ]
    try:
        for server in servers:
            server.start()
        yield servers[0], servers[1]
    finally:
        for server in servers:
            server.close()


async def until(socket: Socket, wanted: Callable[[Event], bool]) -> list[Event]:
    events = [await socket.next()]
    while not wanted(events[-1]):
        events.append(await socket.next())
    return events


def texts(events: list[Event]) -> list[str]:
    return [event.message.text for event in events if isinstance(event, MessageAdded)]


def listed(server: ServerProcess, url: str) -> list[dict[str, object]]:
    """What `actorchat nodes` prints."""
    command = [sys.executable, "-m", "actorchat", "nodes", "--storage", url, "--json"]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_the_actors_of_each_node_are_shown_to_who_reaches_the_database(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)

    def tree(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "actorchat", "actors", "tree", "--storage", url, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    with two_nodes(tmp_path, url) as (_, two), trio.fail_after(CAP):
        async with open_http(two.url) as http:
            chat = await http.reserve(VISITOR)
            async with open_socket(two.port, f"/ws/chats/{chat}", VISITOR):
                shown = await trio.to_thread.run_sync(tree, "--node", "two", "--filter", "Room")
                assert (shown.returncode, shown.stderr) == (0, "")
                assert shown.stdout.startswith("actorchat node two · pid ")
                assert str(chat) in shown.stdout
                found = [
                    json.loads((await trio.to_thread.run_sync(tree, "--node", name, "--json")).stdout)
                    for name in ("one", "two")
                ]
                assert [str(chat) in {row["name"] for row in each["rows"]} for each in found] == [False, True]
                assert found[0]["pid"] != found[1]["pid"]
        unknown = await trio.to_thread.run_sync(tree, "--node", "three")
        assert (unknown.returncode, unknown.stderr) == (
            1,
            "actorchat: there is no node three; the nodes are: one, two\n",
        )


@pytest.mark.parametrize("bus", ["auto", "local"])
async def test_a_chat_goes_through_both_nodes(bus: str, tmp_path: Path, new_postgres: Callable[[], str]) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    with two_nodes(tmp_path, url, bus) as (one, two), trio.fail_after(CAP):
        async with open_http(one.url) as http, open_socket(two.port, "/ws/operators?source=lk", OPERATOR) as console:
            chat = await http.reserve(VISITOR)
            async with open_socket(one.port, f"/ws/chats/{chat}", VISITOR) as visitor:
                await visitor.send(SendMessage("hello", (), "first"))
                await console.until_message("hello")
                async with open_socket(two.port, f"/ws/chats/{chat}?after=-1", OPERATOR) as operator:
                    assert texts(await operator.until_message("hello")) == ["hello"]
                    await until(visitor, lambda event: isinstance(event, UserConnected) and event.user.id == 1)
                    await operator.send(SendMessage("good day", (), "second"))
                    assert texts(await visitor.until_message("good day")) == ["good day"]
                    for number in range(20):
                        await visitor.send(SendMessage(f"v{number}", (), f"v{number}"))
                        await operator.send(SendMessage(f"o{number}", (), f"o{number}"))
                    await visitor.send(SendMessage("end", (), "end"))
                    await operator.send(SendMessage("bye", (), "bye"))
                    seen = [texts([*await socket.until_message("end")]) for socket in (visitor, operator)]
                    stored = [message.text for message in await http.history(VISITOR, chat)]
                    for found in seen:
                        start = stored.index(found[0])
                        assert found == stored[start : start + len(found)]
                    if bus == "auto":
                        await visitor.send(UpdateTyping("hm", stopped=False))
                        await until(console, lambda event: isinstance(event, TypingUpdated) and event.text == "hm")
        rows = await trio.to_thread.run_sync(listed, one, url)
        assert [(row["node"], row["state"]) for row in rows] == [("one", "ready"), ("two", "ready")]
        assert await trio.to_thread.run_sync(two.stop) == 0
        rows = await trio.to_thread.run_sync(listed, one, url)
        assert [row["node"] for row in rows] == ["one"]


async def test_chats_go_on_over_a_cut_bus_and_a_killed_node(
    tmp_path: Path, new_postgres: Callable[[], str], postgres_server: PostgresServer
) -> None:
    url = await trio.to_thread.run_sync(new_postgres)

    def cut_bus() -> None:
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'actorchat bus' AND datname = current_database()",
            url.rpartition("/")[2],
        )

    with two_nodes(tmp_path, url) as (one, two), trio.fail_after(CAP):
        async with open_http(one.url) as http:
            chat = await http.reserve(VISITOR)
            async with open_socket(one.port, f"/ws/chats/{chat}", VISITOR) as visitor:
                visitor.peer.answers_pings = True
                async with open_socket(two.port, f"/ws/chats/{chat}", OPERATOR) as operator:
                    for number in range(10):
                        if number % 3 == 0:
                            await trio.to_thread.run_sync(cut_bus)
                        await operator.send(SendMessage(f"o{number}", (), f"o{number}"))
                        await visitor.until_message(f"o{number}")
                        await visitor.send(SendMessage(f"v{number}", (), f"v{number}"))
                        await operator.until_message(f"v{number}")
                    await trio.to_thread.run_sync(two.kill)
                # The lease of the dead node ends.
                await until(visitor, lambda event: isinstance(event, UserDisconnected) and event.user.id == 1)
                async with open_socket(one.port, f"/ws/chats/{chat}?after=-1", OPERATOR) as operator:
                    seen = texts(await operator.until_message("v9"))
                    assert seen == [f"{side}{number}" for number in range(10) for side in "ov"]
                    await operator.send(SendMessage("still here", (), "last"))
                    assert texts(await visitor.until_message("still here"))[-1] == "still here"
            await trio.to_thread.run_sync(two.start)
            async with open_socket(two.port, "/ws/operators?source=lk", OPERATOR) as console:
                await http.post(VISITOR, chat, text="welcome back")
                await console.until_message("welcome back")
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{one.url}/health/ready")
            assert (answer.status_code, answer.json()["bus"]) == (200, "ok")


def test_of_two_servers_with_one_name_one_runs(tmp_path: Path, new_postgres: Callable[[], str]) -> None:
    extra = {"ACTORCHAT_STORAGE": new_postgres(), "ACTORCHAT_NODE_NAME": "one"}
    first, second = (ServerProcess(tmp_path / name, extra=extra) for name in ("first", "second"))
    try:
        first.start()
        with pytest.raises(
            AssertionError, match=rf"the node one is running already at 127\.0\.0\.1:{first.port}: give"
        ):
            second.start()
        # A server that has crashed starts again under its name.
        first.kill()
        first.start()
        os.kill(first.pid, signal.SIGSTOP)
        second.start()
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait() == 1
        reason = (
            f"actorchat: another server at 127.0.0.1:{second.port} has taken over the node name one, so this one ends"
        )
        assert reason in first.log.splitlines()[-1]
        assert "Traceback" not in first.log + second.log
        assert [row["address"] for row in listed(second, extra["ACTORCHAT_STORAGE"])] == [f"127.0.0.1:{second.port}"]
    finally:
        first.close()
        second.close()


async def test_after_a_failover_that_lost_messages_every_node_shows_what_is_stored(tmp_path: Path) -> None:
    def fail_over(primary: PostgresServer, standby: PostgresServer) -> None:
        primary.kill()
        standby.execute("SELECT pg_promote()")

    with primary_and_standby() as (primary, standby):
        url = f"postgresql://actorchat@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        quiet_visitor = token(Role.USER, 8)
        with two_nodes(tmp_path, url) as (one, two), trio.fail_after(CAP):
            async with open_http(one.url) as http, AsyncExitStack() as stack:
                chat, quiet = await http.reserve(VISITOR), await http.reserve(quiet_visitor)
                for each, whose in ((chat, VISITOR), (quiet, quiet_visitor)):
                    await http.post(whose, each, text="kept")
                opened = [
                    await stack.enter_async_context(open_socket(server.port, target, whose))
                    for server, target, whose in (
                        (one, f"/ws/chats/{chat}?after=-1", VISITOR),
                        (two, f"/ws/chats/{chat}?after=-1", OPERATOR),
                        (two, "/ws/operators?source=lk", OPERATOR),
                        (one, f"/ws/chats/{quiet}?after=-1", quiet_visitor),
                        (two, f"/ws/chats/{quiet}?after=-1", OPERATOR),
                    )
                ]
                *ahead, still_there, elsewhere = opened
                for socket in opened[:2]:
                    await socket.until_message("kept")
                await trio.to_thread.run_sync(wait_for, lambda: has_everything(primary, standby))
                await trio.to_thread.run_sync(cut_replication, standby)
                await ahead[0].send(SendMessage("lost", (), "lost"))
                for socket in ahead:
                    await socket.until_message("lost")
                await trio.to_thread.run_sync(fail_over, primary, standby)
                for socket in ahead[:2]:
                    await until(socket, lambda event: isinstance(event, ResyncRequired) and event.last_index == 0)
                assert [await socket.gone() for socket in ahead] == [CloseCode.RESTARTING] * 3
                # The other chat lost nothing, and its sockets go on.
                await still_there.send(SendMessage("here", (), "here"))
                for socket in (still_there, elsewhere):
                    await socket.until_message("here")
                async with (
                    open_socket(two.port, f"/ws/chats/{chat}?after=-1", OPERATOR) as operator,
                    open_socket(one.port, f"/ws/chats/{chat}?after=-1", VISITOR) as visitor,
                ):
                    await visitor.send(SendMessage("again", (), "again"))
                    for socket in (visitor, operator):
                        assert texts(await socket.until_message("again")) == ["kept", "again"]
                async with httpx.AsyncClient(trust_env=False) as client:
                    for server in (one, two):
                        assert (await client.get(f"{server.url}/health/ready")).json()["storage_losses"] == 1
                        assert "actorchat_storage_losses_total 1.0" in (await client.get(f"{server.url}/metrics")).text
            assert "may have lost commits: the history of the database was" in one.log + two.log
            assert f"chat {chat} was shown as it is not stored" in one.log
            assert f"chat {quiet}" not in one.log + two.log

            def all_listed() -> bool:
                return [row["losses"] for row in listed(one, url)] == [1, 1]

            await trio.to_thread.run_sync(wait_for, all_listed)
