"""Blocked visitors and addresses, visitors that have to be signed in, and the origins of single sources."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from trio_websocket import ConnectionRejected

from actorchat.chat.accounts import Rights
from actorchat.chat.blocks import Block, normal_network
from actorchat.protocol import Role, User
from actorchat.server.auth import FIRST_ANONYMOUS_ID
from actorchat.server.environment import Environment
from actorchat.server.settings import BlockedSettings, HttpSettings, InvalidSettings, LimitSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, customer, error_of, operator, run_server
from tests.server.test_accounts import Clock, close_code, settings_in


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[ApiClient]:
    settings = settings_in(tmp_path, request.param, http=HttpSettings(trusted_proxies=("127.0.0.1",)))
    async with run_server(settings, Environment(wall=clock)) as api:
        yield api


def supervisor(api: ApiClient, sources: tuple[str, ...] = ("lk",), rights: Rights = Rights.SUPERVISOR) -> str:
    return api.server.issue_token(User(5, Role.OPERATOR), sources=sources, rights=rights)


async def block(api: ApiClient, token: str | None = None, **body: Any) -> httpx.Response:  # Any: JSON
    return await api.call("POST", "/api/blocks", token or supervisor(api), body)


def behind(address: str) -> Mapping[str, str]:
    return {"X-Forwarded-For": address}


def id_of(visit: httpx.Response) -> int:
    return int(visit.json()["user"]["id"])


async def test_the_sockets_of_a_blocked_visitor_end_and_everything_is_refused_until_the_block_is_removed(
    api: ApiClient,
) -> None:
    visit = await api.call("POST", "/api/visitors", json={"source": "lk"})
    token, chat = visit.json()["token"], visit.json()["chat"]["uuid"]
    await api.call("POST", f"/api/chats/{chat}/messages", token, {"text": "spam"})
    other, other_chat = await api.talk()
    async with (
        api.socket(f"/ws/chats/{chat}", token) as room,
        api.socket(f"/ws/chats/{other_chat}", other) as not_affected,
        api.socket(f"/ws/chats/{chat}", operator()) as desk,
    ):
        answer = await block(api, user=id_of(visit), reason="advertising")
        assert answer.status_code == 201
        assert await close_code(room) == 4403
        assert (not_affected.closed, desk.closed) == (None, None)
    for path in ("/api/chats", f"/api/chats/{chat}/messages"):
        assert error_of(await api.call("GET", path, token)) == (403, "blocked", "")
    assert error_of(await api.call("POST", "/api/visitors", token, {"source": "lk"})) == (403, "blocked", "")
    with pytest.raises(ConnectionRejected) as refused:
        async with api.socket(f"/ws/chats/{chat}", token):
            pass
    assert refused.value.status_code == 403
    async with api.socket(f"/ws/chats/{chat}", None, ("actorchat.v1", f"bearer.{token}")) as browser:
        assert await close_code(browser) == 4403
    [listed] = (await api.call("GET", "/api/blocks", supervisor(api))).json()
    assert (listed["user"], listed["address"], listed["reason"], listed["by"], listed["until"]) == (
        id_of(visit),
        None,
        "advertising",
        5,
        None,
    )
    assert (await api.call("DELETE", f"/api/blocks/{listed['id']}", supervisor(api))).status_code == 204
    assert (await api.call("GET", "/api/chats", token)).status_code == 200
    assert error_of(await api.call("DELETE", f"/api/blocks/{listed['id']}", supervisor(api)))[0] == 404


async def test_visitors_of_a_blocked_network_are_refused_and_operators_are_not(api: ApiClient) -> None:
    token, chat = await api.talk()
    async with (
        api.socket(f"/ws/chats/{chat}", token, **behind("203.0.113.9")) as near,
        api.socket(f"/ws/chats/{chat}", token, **behind("198.51.100.9")) as far,
        api.socket("/ws/operators", operator(), **behind("203.0.113.9")) as feed,
    ):
        answer = await block(api, address="203.0.113.200/24")
        assert answer.json()["address"] == "203.0.113.0/24"
        assert await close_code(near) == 4403
        assert (far.closed, feed.closed) == (None, None)
    for address, status in (("203.0.113.9", 403), ("203.0.114.9", 200), ("::ffff:cb00:7101", 403)):
        assert (await api.call("GET", "/api/chats", token, headers=behind(address))).status_code == status
    new = await api.call("POST", "/api/visitors", json={"source": "lk"}, headers=behind("203.0.113.77"))
    assert error_of(new) == (403, "blocked", "")
    assert (await api.call("GET", "/api/chats", operator(), headers=behind("203.0.113.9"))).status_code == 200


async def test_a_block_ends_by_itself(api: ApiClient, clock: Clock) -> None:
    token, _ = await api.talk()
    await block(api, address="203.0.113.9", seconds=60)
    headers = behind("203.0.113.9")
    assert error_of(await api.call("GET", "/api/chats", token, headers=headers))[0] == 403
    clock.ahead += 61
    assert (await api.call("GET", "/api/chats", token, headers=headers)).status_code == 200
    assert (await api.call("GET", "/api/blocks", supervisor(api))).json() == []
    await block(api, address="203.0.113.10")
    assert len((await api.call("GET", "/api/blocks", supervisor(api))).json()) == 1


async def test_blocking_again_replaces_the_reason_and_the_end(api: ApiClient) -> None:
    first = await block(api, address="203.0.113.9", reason="a", seconds=60)
    second = await block(api, address="203.0.113.9/32", reason="b")
    assert first.json()["id"] == second.json()["id"]
    [listed] = (await api.call("GET", "/api/blocks", supervisor(api))).json()
    assert (listed["reason"], listed["until"]) == ("b", None)


async def test_only_supervisors_of_the_visitors_source_may_block(api: ApiClient) -> None:
    visit = await api.call("POST", "/api/visitors", json={"source": "lk"})
    user = id_of(visit)
    await api.call(
        "POST", f"/api/chats/{visit.json()['chat']['uuid']}/messages", visit.json()["token"], {"text": "hello"}
    )
    for token in (operator(), visit.json()["token"]):
        assert error_of(await block(api, token, user=user)) == (403, "not_allowed", "")
        assert error_of(await api.call("GET", "/api/blocks", token)) == (403, "not_allowed", "")
    assert error_of(await block(api, supervisor(api, ("shop",)), user=user)) == (404, "not_found", "user")
    assert error_of(await block(api, user=12345)) == (404, "not_found", "user")
    assert (await block(api, supervisor(api, (), Rights.ADMIN), user=user)).status_code == 201


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "user"),
        ({"user": 1, "address": "203.0.113.9"}, "user"),
        ({"address": "shop.example"}, "address"),
        ({"address": "203.0.113.9", "seconds": 0}, "seconds"),
        ({"address": "203.0.113.9", "reason": "x" * 501}, "reason"),
    ],
)
async def test_a_wrong_block_is_refused_by_field(api: ApiClient, body: dict[str, Any], path: str) -> None:
    assert error_of(await block(api, **body)) == (422, "malformed", path)


async def test_blocks_survive_a_restart(tmp_path: Path, clock: Clock) -> None:
    settings = settings_in(tmp_path, "sqlite")
    async with run_server(settings, Environment(wall=clock)) as api:
        token, _ = await api.talk()
        [chat] = (await api.call("GET", "/api/chats", token)).json()
        await block(api, user=chat["owner_user"]["id"])
        removed = await block(api, address="203.0.113.9")
        await api.call("DELETE", f"/api/blocks/{removed.json()['id']}", supervisor(api))
    async with run_server(settings, Environment(wall=clock)) as api:
        assert error_of(await api.call("GET", "/api/chats", token)) == (403, "blocked", "")
        [listed] = (await api.call("GET", "/api/blocks", supervisor(api))).json()
        assert listed["user"] == chat["owner_user"]["id"]


async def test_visitors_and_networks_of_the_settings_are_blocked() -> None:
    blocked = BlockedSettings(addresses=("127.0.0.0/8",), users=("42",))
    settings = Settings(storage="memory://", port=0, secret=SECRET, blocked=blocked)
    async with run_server(settings) as api:
        assert error_of(await api.call("POST", "/api/visitors", json={"source": "lk"})) == (403, "blocked", "")
        assert (await api.call("GET", "/api/chats", operator())).status_code == 200
    settings = Settings(storage="memory://", port=0, secret=SECRET, blocked=BlockedSettings(users=("42",)))
    async with run_server(settings) as api:
        assert error_of(await api.call("GET", "/api/chats", customer(42))) == (403, "blocked", "")
        assert (await api.call("GET", "/api/chats", customer(43))).status_code == 200


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("203.0.113.9", "203.0.113.9/32"),
        ("::ffff:203.0.113.9", "203.0.113.9/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("2001:DB8::1/64", "2001:db8::/64"),
    ],
)
def test_networks_have_one_form(text: str, normal: str) -> None:
    assert normal_network(text) == normal


def test_a_block_holds_until_its_end() -> None:
    now = time.time()
    assert Block(id=1, user=2, by=3, created=0).holds(now)
    ending = Block(id=1, user=2, by=3, created=0, until=int(now) + 10)
    assert (ending.holds(now), ending.holds(now + 11)) == (True, False)


async def test_without_anonymous_visitors_only_signed_in_ones_are_served() -> None:
    limits = LimitSettings(messages_per_second=0)
    settings = Settings(storage="memory://", port=0, secret=SECRET, anonymous=False, limits=limits)
    async with run_server(settings) as api:
        answer = await api.call("POST", "/api/visitors", json={"source": "lk"})
        assert error_of(answer) == (401, "not_authenticated", "")
        left_over = api.server.issue_token(User(FIRST_ANONYMOUS_ID + 5, Role.USER))
        assert error_of(await api.call("GET", "/api/chats", left_over)) == (401, "not_authenticated", "")
        token, chat = await api.visit(token=customer(42))
        async with api.socket(f"/ws/chats/{chat}", token):
            pass


async def test_a_source_with_origins_of_its_own_is_used_from_their_pages_only() -> None:
    settings = Settings(
        storage="memory://",
        port=0,
        secret=SECRET,
        origins=("https://common.example",),
        source_origins={"shop": ("https://shop.example",)},
    )
    async with run_server(settings) as api:

        async def status(source: str, origin: str) -> int:
            headers = {"Origin": origin}
            return (await api.call("POST", "/api/visitors", json={"source": source}, headers=headers)).status_code

        own = str(api.http.base_url)
        assert [await status("shop", origin) for origin in ("https://shop.example", own)] == [201, 201]
        assert await status("shop", "https://common.example") == 403
        assert [await status("blog", origin) for origin in ("https://common.example", own)] == [201, 201]
        assert await status("blog", "https://shop.example") == 403
        assert await status("blog", "https://elsewhere.example") == 403
        token, chat = await api.visit("shop")
        for origin, allowed in (("https://shop.example", True), ("https://common.example", False)):
            answer = await api.call("GET", f"/api/chats/{chat}", token, headers={"Origin": origin})
            assert answer.status_code == (200 if allowed else 403)
        async with api.socket(f"/ws/chats/{chat}", token, Origin="https://shop.example"):
            pass
        with pytest.raises(ConnectionRejected) as refused:
            async with api.socket(f"/ws/chats/{chat}", token, Origin="https://common.example"):
                pass
        assert refused.value.status_code == 403


def test_the_settings_of_blocks_and_origins_are_checked() -> None:
    for changes, name in (
        ({"blocked": {"addresses": ["shop.example"]}}, "blocked.addresses"),
        ({"blocked": {"users": ["x"]}}, "blocked.users"),
        ({"anonymous": "maybe"}, "anonymous"),
        ({"source_origins": {"shop": ["shop.example"]}}, "source_origins"),
        ({"sources": ["lk"], "source_origins": {"shop": ["https://shop.example"]}}, "source_origins"),
    ):
        with pytest.raises(InvalidSettings) as caught:
            Settings(**changes)
        assert [fault.name for fault in caught.value.faults] == [name]
    text = "shop=https://shop.example,shop=https://b.example"
    settings = Settings(source_origins=text, anonymous="false")  # type: ignore[arg-type] # as from the environment
    assert settings.source_origins == {"shop": ("https://shop.example", "https://b.example")}
    assert settings.anonymous is False
