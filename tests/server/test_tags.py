"""The tags of all chats over HTTP: listed with their counts, renamed, merged and removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from actorchat.chat.accounts import Rights
from actorchat.http import tags as tags_module
from actorchat.protocol import Role, User
from tests.server.server_under_test import ApiClient, customer, error_of, operator, run_server
from tests.server.test_accounts import settings_in


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ApiClient]:
    async with run_server(settings_in(tmp_path, request.param)) as api:
        yield api


def admin(api: ApiClient, *sources: str) -> str:
    return api.server.issue_token(User(9, Role.OPERATOR), sources=sources or ("lk", "shop"), rights=Rights.ADMIN)


async def tagged(api: ApiClient, *tags: str, source: str = "lk") -> UUID:
    """Make a chat with these tags."""
    visitor, chat = await api.visit(source)
    assert (await api.write(visitor, chat)).status_code == 201
    answer = await api.call("PUT", f"/api/chats/{chat}/tags", operator(sources=(source,)), {"tags": tags})
    assert answer.status_code == 200, answer.text
    return chat


async def listed(api: ApiClient, token: str, query: str = "") -> list[tuple[str, int]]:
    answer = await api.call("GET", f"/api/tags{query}", token)
    assert answer.status_code == 200, answer.text
    return [(count["tag"], count["chats"]) for count in answer.json()]


async def tags_of(api: ApiClient, chat: UUID) -> list[str]:
    answer = await api.call("GET", f"/api/chats/{chat}/tags", operator(sources=("lk", "shop")))
    found: list[str] = answer.json()["tags"]
    return found


async def replace(api: ApiClient, token: str, how: str = "rename", **body: Any) -> tuple[int, bool]:  # Any: JSON
    answer = await api.call("POST", f"/api/tags/{how}", token, body)
    assert answer.status_code == 200, answer.text
    return answer.json()["chats"], answer.json()["complete"]


async def test_tags_are_counted_in_the_callers_sources_the_most_used_first(api: ApiClient) -> None:
    await tagged(api, "vip", "late")
    await tagged(api, "vip")
    await tagged(api, "vip", "b", source="shop")
    assert await listed(api, operator()) == [("vip", 2), ("late", 1)]
    assert await listed(api, admin(api)) == [("vip", 3), ("b", 1), ("late", 1)]
    assert await listed(api, admin(api), "?source=shop") == [("b", 1), ("vip", 1)]
    assert error_of(await api.call("GET", "/api/tags?source=shop", operator())) == (403, "not_allowed", "source")


async def test_a_renamed_tag_is_merged_with_one_that_a_chat_has_already(api: ApiClient) -> None:
    first, second = await tagged(api, "vip", "late"), await tagged(api, "gold", "vip")
    other = await tagged(api, "late")
    assert await replace(api, admin(api), tag="vip", into="gold") == (2, True)
    assert await tags_of(api, first) == ["gold", "late"]
    assert await tags_of(api, second) == ["gold"]
    assert await tags_of(api, other) == ["late"]
    assert await listed(api, admin(api)) == [("gold", 2), ("late", 2)]
    assert await replace(api, admin(api), tag="vip", into="gold") == (0, True)


async def test_a_removed_tag_is_taken_from_all_chats_of_the_callers_sources(api: ApiClient) -> None:
    here, there = await tagged(api, "vip", "late"), await tagged(api, "vip", source="shop")
    assert await replace(api, admin(api, "lk"), "remove", tag="vip") == (1, True)
    assert (await tags_of(api, here), await tags_of(api, there)) == (["late"], ["vip"])


async def test_consoles_see_the_new_tag_of_each_chat(api: ApiClient) -> None:
    chat = await tagged(api, "vip")
    async with api.socket("/ws/operators", operator(), ("actorchat.v1.ext",)) as feed:
        with trio.fail_after(10):
            while "feed_ready" not in await feed.get_message():
                pass
            await replace(api, admin(api), tag="vip", into="gold")
            while True:
                event = await feed.get_message()
                if "chat_summary" in event and str(chat) in event and '"gold"' in event:
                    break
    assert await tags_of(api, chat) == ["gold"]


async def test_changes_of_tags_are_recorded_before_the_first_chat_changes(api: ApiClient) -> None:
    await tagged(api, "vip")
    await replace(api, admin(api), tag="vip", into="gold")
    await replace(api, admin(api), "remove", tag="gold")
    await replace(api, admin(api), "remove", tag="gold")
    entries = (await api.call("GET", "/api/audit", admin(api))).json()
    assert [(entry["action"], entry["by"], entry["detail"], entry["counts"]) for entry in entries] == [
        ("tag_removed", "operator 9", "gold", {"chats": 1}),
        ("tag_renamed", "operator 9", "vip → gold", {"chats": 1}),
    ]
    assert {entry["id"] for entry in entries} == {None}


async def test_a_change_that_takes_too_long_says_so_and_goes_on_when_it_is_repeated(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags_module, "CHANGE_SECONDS", 0.0)
    for _ in range(20):
        await tagged(api, "vip")
    changed, complete = await replace(api, admin(api), tag="vip", into="gold")
    assert (0 < changed < 20, complete) == (True, False)
    rest = 0
    while not complete:
        more, complete = await replace(api, admin(api), tag="vip", into="gold")
        rest += more
    assert changed + rest == 20
    assert await listed(api, admin(api)) == [("gold", 20)]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"tag": "vip"}, "into"),
        ({"tag": "vip", "into": "vip"}, "into"),
        ({"tag": "vip", "into": " x"}, "into"),
        ({"tag": "vip", "into": ""}, "into"),
        ({"tag": "", "into": "x"}, "tag"),
    ],
)
async def test_a_wrong_name_is_refused_with_the_field_at_fault(api: ApiClient, body: dict[str, str], path: str) -> None:
    await tagged(api, "vip")
    assert error_of(await api.call("POST", "/api/tags/rename", admin(api), body)) == (422, "malformed", path)
    assert await listed(api, admin(api)) == [("vip", 1)]


async def test_only_operators_see_tags_and_only_administrators_change_them(api: ApiClient) -> None:
    supervisor = api.server.issue_token(User(8, Role.OPERATOR), sources=["lk"], rights=Rights.SUPERVISOR)
    body = {"tag": "vip", "into": "gold"}
    for token in (supervisor, operator(), customer()):
        for path in ("rename", "remove"):
            sent = body if path == "rename" else {"tag": "vip"}
            assert error_of(await api.call("POST", f"/api/tags/{path}", token, sent)) == (403, "not_allowed", "")
    assert error_of(await api.call("GET", "/api/tags", customer())) == (403, "not_allowed", "")
    assert error_of(await api.call("GET", "/api/tags")) == (401, "not_authenticated", "")
