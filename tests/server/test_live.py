"""Administrators see the live actors and the numbers of a server over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from actorchat.actor_tree import ActorTree, InspectionRequest, Tree
from actorchat.chat.accounts import Rights
from actorchat.protocol import Role, User
from actorchat.server.settings import LimitSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, customer, error_of, operator, run_server


def admin(api: ApiClient) -> str:
    return api.server.issue_token(User(9, Role.OPERATOR), sources=("lk",), rights=Rights.ADMIN)


async def test_the_tree_shows_rooms_without_what_is_said_in_them() -> None:
    async with run_server() as api:
        visitor, chat = await api.visit()
        async with api.socket(f"/ws/chats/{chat}", visitor, ("actorchat.v1.ext",)) as room:
            await api.write(visitor, chat, "a secret text")
            while "a secret text" not in await room.get_message():
                pass
            answer = await api.call("GET", f"/api/actors?q={chat}&sort=name&limit=10", admin(api))
            tree = answer.json()
            [row] = tree["rows"]
            assert (row["family"], row["kind"], row["state"]) == ("room", "Room", "running")
            assert str(chat) in row["name"]
            assert row["bound"] > row["inbox"] >= 0
            assert row["handled"] > 0
            everything = await api.call("GET", "/api/actors?limit=200", admin(api))
        assert {"room", None} <= {family["name"] for family in everything.json()["families"]}
        assert "directory" in {each["name"] for each in everything.json()["rows"]}
        assert "a secret text" not in everything.text


async def test_the_tree_is_sorted_and_paged() -> None:
    async with run_server() as api:
        for _ in range(3):
            await api.talk()
        first = (await api.call("GET", "/api/actors?sort=name&limit=2", admin(api))).json()
        second = (await api.call("GET", "/api/actors?sort=name&limit=2&page=2", admin(api))).json()
        names = [row["name"] for row in first["rows"] + second["rows"]]
        assert (names == sorted(names), len(set(names)), first["matched"] >= 4) == (True, 4, True)
        beyond = (await api.call("GET", "/api/actors?sort=name&limit=2&page=99", admin(api))).json()
        assert beyond["page"] == beyond["pages"]


@pytest.mark.parametrize(
    ("query", "path"), [("sort=size", "sort"), ("page=0", "page"), ("limit=201", "limit"), (f"q={'x' * 201}", "q")]
)
async def test_a_wrong_parameter_of_the_tree_is_named(query: str, path: str) -> None:
    async with run_server() as api:
        assert error_of(await api.call("GET", f"/api/actors?{query}", admin(api))) == (400, "malformed", path)


async def test_too_many_readers_of_the_tree_are_asked_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived: list[InspectionRequest] = []
    all_arrived, may_go_on = trio.Event(), trio.Event()
    read = ActorTree.page

    async def page(self: ActorTree, request: InspectionRequest) -> Tree:
        arrived.append(request)
        if len(arrived) == 8:
            all_arrived.set()
        async with self._one_at_a_time:
            await may_go_on.wait()
        return await read(self, request)

    monkeypatch.setattr(ActorTree, "page", page)
    statuses: list[int] = []
    async with run_server() as api, trio.open_nursery() as nursery:

        async def ask() -> None:
            statuses.append((await api.call("GET", "/api/actors", admin(api))).status_code)

        for _ in range(8):
            nursery.start_soon(ask)
        await all_arrived.wait()
        refused = await api.call("GET", "/api/actors", admin(api))
        assert error_of(refused) == (503, "overloaded", "")
        assert "Retry-After" in refused.headers
        may_go_on.set()
    assert statuses == [200] * 8


async def test_the_numbers_follow_what_happens() -> None:
    async with run_server() as api:
        before = (await api.call("GET", "/api/statistics", admin(api))).json()
        visitor, chat = await api.talk()
        async with (
            api.socket(f"/ws/chats/{chat}", visitor) as room,
            api.socket("/ws/operators", operator()) as feed,
        ):
            await room.get_message()
            await feed.get_message()
            after = (await api.call("GET", "/api/statistics", admin(api))).json()
        assert after["messages_stored"] == before["messages_stored"] + 1
        assert after["sockets"] == before["sockets"] + 2
        assert after["rooms"] == before["rooms"] + 1
        assert after["time"] > before["time"]
        assert after["storage_available"] is True
        counts = [bucket["count"] for bucket in after["commit_seconds"]]
        assert (counts == sorted(counts), counts[-1] > before["commit_seconds"][-1]["count"]) == (True, True)
        assert after["commit_seconds"][-1]["limit"] is None
        assert (after["brokers"], after["actor_restarts"], after["draining"]) == ([], 0, False)


async def test_the_numbers_name_the_brokers(tmp_path: Path) -> None:
    settings = Settings(
        storage=f"sqlite:///{tmp_path}/chat.db",
        data=tmp_path,
        port=0,
        secret=SECRET,
        broker=("memory://",),
        limits=LimitSettings(messages_per_second=0),
    )
    async with run_server(settings) as api:
        [broker] = (await api.call("GET", "/api/statistics", admin(api))).json()["brokers"]
    assert (broker["available"], broker["behind_seconds"]) == (True, 0.0)
    assert "memory" in broker["broker"]


async def test_only_administrators_see_the_live_server() -> None:
    async with run_server() as api:
        supervisor = api.server.issue_token(User(8, Role.OPERATOR), sources=["lk"], rights=Rights.SUPERVISOR)
        for path in ("/api/actors", "/api/statistics"):
            for token in (supervisor, operator(), customer()):
                answer = await api.call("GET", path, token)
                assert error_of(answer) == (403, "not_allowed", "")
                assert "administrators" in json.dumps(answer.json())
            assert error_of(await api.call("GET", path)) == (401, "not_authenticated", "")
