"""A visitor chats anonymously, signs in on the site, and goes on with the same chats as that person."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import httpx
import pytest
import trio
from trio_websocket import ConnectionRejected, WebSocketConnection

from actorchat.chat.accounts import Rights
from actorchat.client import ApiError, open_api
from actorchat.protocol import Role, User
from actorchat.server.environment import Environment
from tests.server.server_under_test import ApiClient, customer, error_of, operator, run_server, token
from tests.server.test_accounts import Clock, close_code, settings_in

ANN = 100
PROTOCOL = ("actorchat.v1.ext",)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[ApiClient]:
    async with run_server(settings_in(tmp_path, request.param), Environment(wall=clock)) as api:
        yield api


def ann() -> str:
    return customer(ANN, firstname="Annabella")


async def hand_over(api: ApiClient, bearer: str | None, anonymous: object, source: str = "lk") -> httpx.Response:
    return await api.call("POST", "/api/visitors", bearer, {"source": source, "anonymous": anonymous})


async def next_event(socket: WebSocketConnection, kind: str) -> Any:  # Any: JSON
    while True:
        event = json.loads(await socket.get_message())
        if event["type"] == kind:
            return event["data"]


async def test_the_person_owns_the_history_and_operators_see_the_name(api: ApiClient) -> None:
    guest, chat = await api.talk()
    async with (
        api.socket(f"/ws/chats/{chat}", guest) as visitor,
        api.socket("/ws/operators?source=lk", operator(), PROTOCOL) as feed,
        api.socket(f"/ws/chats/{chat}", operator(), PROTOCOL) as desk,
    ):
        await next_event(feed, "feed_ready")
        answer = await hand_over(api, ann(), guest)
        assert answer.status_code == 200
        visit = answer.json()
        assert (visit["chat"]["uuid"], visit["user"]["firstname"]) == (str(chat), "Annabella")
        for event in (await next_event(feed, "chat_updated"), await next_event(desk, "chat_updated")):
            assert (event["chat"]["uuid"], event["chat"]["owner_user"]["firstname"]) == (str(chat), "Annabella")
        assert (await next_event(feed, "chat_summary"))["chat"]["owner_user"]["id"] == ANN
        assert await close_code(visitor) == 4410
    token = visit["token"]
    [message] = (await api.call("GET", f"/api/chats/{chat}/messages", token)).json()["messages"]
    assert (message["text"], message["user"]["id"], message["user"]["firstname"]) == ("hello", ANN, "Annabella")
    assert [each["uuid"] for each in (await api.call("GET", "/api/chats", token)).json()] == [str(chat)]
    async with api.socket(f"/ws/chats/{chat}", token) as room:
        # The one that is gone counts as present for some seconds more.
        while (await next_event(room, "user_connected"))["user"]["id"] != ANN:
            pass
    # The anonymous visitor's token is worth nothing, and its chat is not its own any more.
    for path in ("/api/chats", f"/api/chats/{chat}/messages"):
        assert error_of(await api.call("GET", path, guest)) == (401, "not_authenticated", "")
    with pytest.raises(ConnectionRejected) as refused:
        async with api.socket(f"/ws/chats/{chat}", guest):
            pass
    assert refused.value.status_code == 401


async def test_a_repeated_call_is_answered_like_the_first(api: ApiClient) -> None:
    guest, chat = await api.talk()
    for _ in range(3):
        answer = await hand_over(api, ann(), guest)
        assert (answer.status_code, answer.json()["chat"]["uuid"]) == (200, str(chat))
    page = (await api.call("GET", f"/api/chats/{chat}/messages", operator())).json()
    assert [message["message_index"] for message in page["messages"]] == [0]


async def test_two_calls_at_once_are_one(api: ApiClient) -> None:
    guest, chat = await api.talk()
    answers = []

    async def call() -> None:
        answers.append(await hand_over(api, ann(), guest))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call)
    assert {(answer.status_code, answer.json()["chat"]["uuid"]) for answer in answers} == {(200, str(chat))}


async def test_a_message_that_is_sent_again_after_the_hand_over_is_stored_once(api: ApiClient) -> None:
    guest, chat = await api.visit()
    headers = {"Authorization": f"Bearer {guest}"}
    files = {"file": ("plan.txt", b"a plan")}
    file = (await api.http.post("/api/attachments", headers=headers, files=files)).json()["uuid"]
    first = await api.write(guest, chat, "mine", client_id="key-1")
    token = (await hand_over(api, ann(), guest)).json()["token"]
    again = await api.write(token, chat, "mine", client_id="key-1")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    # A file that was uploaded before may be sent after.
    filed = await api.write(token, chat, "", attachments=[file])
    assert (filed.status_code, filed.json()["attachments"][0]["filename"]) == (201, "plan.txt")
    edited = await api.call("PATCH", f"/api/messages/{first.json()['id']}", token, {"text": "still mine"})
    assert edited.json()["text"] == "still mine"


async def test_an_open_chat_of_the_person_goes_on_if_it_is_newer(api: ApiClient) -> None:
    guest, anonymous_chat = await api.talk()
    token, chat = await api.visit(token=ann())
    await api.write(token, chat, "from my account")
    answer = await hand_over(api, token, guest)
    assert answer.json()["chat"]["uuid"] == str(chat)
    other = (await api.call("GET", f"/api/chats/{anonymous_chat}", token)).json()
    assert (other["status"], other["owner_user"]["id"]) == ("closed", ANN)
    notes = (await api.call("GET", f"/api/chats/{chat}/messages", operator())).json()["messages"]
    assert notes[-1]["text"].startswith("The customer has signed in.")
    assert len((await api.call("GET", f"/api/chats/{chat}/messages", token)).json()["messages"]) == 1


async def test_each_wrong_proof_is_refused_and_nothing_changes(api: ApiClient, clock: Clock) -> None:
    guest, chat = await api.talk()
    other, _ = await api.talk()
    elsewhere, _ = await api.visit("shop")
    stale, _ = await api.talk()
    await api.call("POST", "/api/sign-out", stale)
    refusals = [
        (await hand_over(api, None, guest), (401, "not_authenticated", "")),
        (await hand_over(api, "nonsense", guest), (401, "not_authenticated", "")),
        (await hand_over(api, operator(), guest), (403, "not_allowed", "")),
        (await hand_over(api, other, guest), (403, "not_allowed", "")),
        (await hand_over(api, guest, guest), (403, "not_allowed", "")),
        (await hand_over(api, ann(), "nonsense"), (401, "not_authenticated", "anonymous")),
        (await hand_over(api, ann(), stale), (401, "not_authenticated", "")),
        (await hand_over(api, ann(), customer(7)), (403, "not_allowed", "anonymous")),
        (await hand_over(api, ann(), operator()), (403, "not_allowed", "anonymous")),
        (await hand_over(api, ann(), elsewhere), (403, "not_allowed", "anonymous")),
        (await hand_over(api, ann(), guest, "shop"), (403, "not_allowed", "source")),
        (await hand_over(api, token(Role.USER, ANN, ()), guest, "shop"), (403, "not_allowed", "anonymous")),
        (await hand_over(api, ann(), 7), (422, "malformed", "anonymous")),
        (await hand_over(api, ann(), "x" * 9000), (422, "malformed", "anonymous")),
    ]
    for answer, expected in refusals:
        assert error_of(answer) == expected
    page = (await api.call("GET", f"/api/chats/{chat}/messages", guest)).json()
    assert page["messages"][0]["user"]["id"] > ANN
    # Expired, and the chats of a visitor who has been handed over to somebody else.
    assert (await hand_over(api, customer(7), other)).status_code == 200
    assert error_of(await hand_over(api, ann(), other)) == (401, "not_authenticated", "")
    clock.ahead += 31 * 24 * 3600
    late = api.server.issue_token(User(ANN, Role.USER), sources=("lk",))
    assert error_of(await hand_over(api, late, guest)) == (401, "not_authenticated", "anonymous")


@pytest.mark.parametrize("who", ["guest", "ann"])
async def test_a_blocked_visitor_hands_nothing_over(api: ApiClient, who: str) -> None:
    guest, chat = await api.talk()
    await api.visit(token=ann())
    owner = (await api.call("GET", f"/api/chats/{chat}", guest)).json()["owner_user"]["id"]
    chief = api.server.issue_token(User(5, Role.OPERATOR), sources=("lk",), rights=Rights.ADMIN)
    blocked = await api.call("POST", "/api/blocks", chief, {"user": owner if who == "guest" else ANN})
    assert blocked.status_code == 201, blocked.text
    assert error_of(await hand_over(api, ann(), guest)) == (403, "blocked", "")
    assert (await api.call("GET", f"/api/chats/{chat}", operator())).json()["owner_user"]["id"] == owner


async def test_a_token_from_before_a_sign_out_is_no_proof(api: ApiClient) -> None:
    guest, chat = await api.talk()
    token = ann()
    await api.visit(token=token)
    await api.call("POST", "/api/sign-out", token)
    assert error_of(await hand_over(api, token, guest)) == (401, "not_authenticated", "")
    assert (await api.call("GET", f"/api/chats/{chat}", guest)).status_code == 200


async def test_search_and_lists_follow_the_new_owner(api: ApiClient) -> None:
    guest, chat = await api.talk()
    number = (await api.call("GET", f"/api/chats/{chat}", guest)).json()["owner_user"]["id"]
    people = f"/api/search?kind=people&q={number}"
    assert len((await api.call("GET", people, operator())).json()) == 1
    token = (await hand_over(api, ann(), guest)).json()["token"]
    assert [each["text"] for each in (await api.call("GET", "/api/search?q=hello", token)).json()] == ["hello"]
    found = (await api.call("GET", "/api/search?kind=people&q=annabella", operator())).json()
    assert [each["id"] for each in found] == [ANN]
    assert (await api.call("GET", people, operator())).json() == []
    listed = (await api.call("GET", "/api/chats?q=annabella", operator())).json()
    assert [each["uuid"] for each in listed] == [str(chat)]
    assert (await api.call("GET", f"/api/chats?owner={number}", operator())).json() == []


async def test_an_export_and_an_erasure_cover_what_was_handed_over(api: ApiClient) -> None:
    context = {"url": "https://shop.example/gold", "title": "Straw and gold"}
    visit = (await api.call("POST", "/api/visitors", json={"source": "lk", "context": context})).json()
    guest, chat = visit["token"], UUID(visit["chat"]["uuid"])
    headers, files = {"Authorization": f"Bearer {guest}"}, {"file": ("passport.txt", b"geheim4711")}
    file = (await api.http.post("/api/attachments", headers=headers, files=files)).json()["uuid"]
    await api.write(guest, chat, "Rumpelstilzchen", attachments=[file])
    await api.http.post("/api/attachments", headers=headers, files={"file": ("unused.txt", b"geheim4712")})
    await hand_over(api, ann(), guest)
    seen = (await api.call("GET", f"/api/chats/{chat}/visitor", operator())).json()
    assert [page["title"] for page in seen["pages"]] == ["Straw and gold"]
    chief = api.server.issue_token(User(5, Role.OPERATOR), sources=("lk",), rights=Rights.ADMIN)
    export = await api.call("POST", f"/api/people/user/{ANN}/export", chief)
    with zipfile.ZipFile(io.BytesIO(export.content)) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    for words in (b"Rumpelstilzchen", b"geheim4711", b"Straw and gold"):
        assert words in content
    erased = await api.call("POST", f"/api/people/user/{ANN}/erase", chief)
    assert (erased.json()["chats"], erased.json()["files"]) == (1, 2)
    page = (await api.call("GET", f"/api/chats/{chat}/messages", operator())).json()
    assert [message["text"] for message in page["messages"] if message["type"] == "standard"] == [""]
    assert (await api.call("GET", f"/api/chats/{chat}/visitor", operator())).json()["pages"] == []
    # Nothing says any more who the anonymous visitor was.
    assert error_of(await hand_over(api, ann(), guest)) == (401, "not_authenticated", "")


async def test_python_programs_hand_over_too(api: ApiClient) -> None:
    guest, chat = await api.talk()
    async with open_api(api.server.url, token=ann()) as client:
        visit = await client.visit("lk", anonymous=guest)
        assert (visit.chat.uuid, visit.user.id) == (chat, ANN)
        with pytest.raises(ApiError, match="anonymous"):
            await client.visit("lk", anonymous="nonsense")
    other, other_chat = await api.talk()
    owner = (await api.call("GET", f"/api/chats/{other_chat}", other)).json()["owner_user"]["id"]
    local = await api.server.api_for(User(101, Role.USER, firstname="Bea"))
    await local.take_over(owner)
    await local.take_over(owner)
    assert [each.uuid for each in await local.chats()] == [other_chat]
    assert error_of(await api.call("GET", "/api/chats", other)) == (401, "not_authenticated", "")
    with pytest.raises(Exception, match="not_allowed"):
        await local.take_over(ANN)
    with pytest.raises(Exception, match="not_allowed"):
        await (await api.server.api_for(User(1, Role.OPERATOR), sources=("lk",))).take_over(owner)


@pytest.mark.slow
async def test_the_other_server_shows_it_at_once(tmp_path: Path, new_postgres: Callable[[], str]) -> None:
    url = await trio.to_thread.run_sync(new_postgres)
    settings = [attrs.evolve(settings_in(tmp_path / name, "sqlite"), storage=url) for name in ("one", "two")]
    async with run_server(settings[0]) as one, run_server(settings[1]) as two:
        guest, chat = await one.talk()
        async with (
            two.socket(f"/ws/chats/{chat}", guest) as visitor,
            two.socket("/ws/operators?source=lk", operator(), PROTOCOL) as feed,
        ):
            await next_event(feed, "feed_ready")
            assert (await hand_over(one, ann(), guest)).status_code == 200
            assert (await next_event(feed, "chat_updated"))["chat"]["owner_user"]["id"] == ANN
            assert await close_code(visitor) == 4410
        assert error_of(await two.call("GET", "/api/chats", guest)) == (401, "not_authenticated", "")
        again = await hand_over(two, ann(), guest)
        assert (again.status_code, again.json()["chat"]["uuid"]) == (200, str(chat))
        found = (await two.call("GET", "/api/search?kind=people&q=annabella", operator())).json()
        assert [each["id"] for each in found] == [ANN]
