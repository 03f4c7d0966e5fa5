"""Requests that are repeated with an `Idempotency-Key`, and history pages that have not changed."""

import httpx
import pytest
import trio
import trio.testing
from starlette.responses import Response

from actorchat.chat.accounts import Rights
from actorchat.chat.model import Identity
from actorchat.http import idempotency
from actorchat.http.idempotency import IdempotentCalls
from actorchat.http.problems import Problem, json_response
from actorchat.protocol import Role, User
from tests.server.server_under_test import ApiClient, customer, error_of, operator

ANN, BOB = Identity(Role.USER, 1), Identity(Role.USER, 2)


async def post(api: ApiClient, path: str, token: str, key: str, json: object = None) -> httpx.Response:
    return await api.call("POST", path, token, json, headers={"Idempotency-Key": key})


async def test_a_repeated_call_is_answered_without_doing_it_again(api: ApiClient) -> None:
    visitor, chat = await api.talk()
    path = f"/api/chats/{chat}/messages"
    first = await post(api, path, visitor, "order-1017", {"text": "once"})
    again = await post(api, path, visitor, "order-1017", {"text": "once"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["cache-control"] == "no-store"
    history = (await api.call("GET", path, visitor)).json()
    assert [message["text"] for message in history["messages"]] == ["hello", "once"]
    closed = await post(api, f"/api/chats/{chat}/close", visitor, "close-1")
    assert closed.json()["status"] == "closed"
    assert (await post(api, f"/api/chats/{chat}/close", visitor, "close-1")).content == closed.content
    assert (await post(api, f"/api/chats/{chat}/close", visitor, "close-2")).status_code == 409


async def test_a_repeated_call_saves_a_reply_once_and_blocks_once(api: ApiClient) -> None:
    chief = api.server.issue_token(User(5, Role.OPERATOR), sources=("lk",), rights=Rights.ADMIN)
    for path, body in (
        ("/api/replies", {"title": "Hours", "text": "Nine to five"}),
        ("/api/blocks", {"address": "203.0.113.9", "reason": "spam"}),
    ):
        first = await post(api, path, chief, "once", body)
        again = await post(api, path, chief, "once", body)
        assert (first.status_code, again.status_code) == (201, 201)
        assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
        assert "idempotency-replayed" not in first.headers
        assert len((await api.call("GET", path, chief)).json()) == 1
        assert error_of(await post(api, path, chief, "once", {})) == (409, "conflict", "Idempotency-Key")
        assert error_of(await post(api, path, chief, "a b", body)) == (400, "malformed", "Idempotency-Key")
        chief = api.server.issue_token(User(6, Role.OPERATOR), sources=("lk",), rights=Rights.ADMIN)


async def test_a_key_belongs_to_its_caller_and_its_request(api: ApiClient) -> None:
    visitor, chat = await api.talk()
    path = f"/api/chats/{chat}/messages"
    await post(api, path, visitor, "k", {"text": "once"})
    for other_path, body in ((path, {"text": "twice"}), (f"/api/chats/{chat}/close", None)):
        assert error_of(await post(api, other_path, visitor, "k", body)) == (409, "conflict", "Idempotency-Key")
    assert (await post(api, path, operator(), "k", {"text": "mine"})).status_code == 201
    for key in ("", "x" * 129, "a b"):
        assert error_of(await post(api, path, visitor, key, {"text": "x"})) == (400, "malformed", "Idempotency-Key")


async def test_a_refusal_is_not_kept(api: ApiClient) -> None:
    _, chat = await api.talk()
    path = f"/api/chats/{chat}/messages"
    assert error_of(await post(api, path, customer(9), "k", {"text": "x"}))[0] == 403
    assert error_of(await post(api, path, operator(), "k", {"text": ""}))[0] == 422
    assert (await post(api, path, operator(), "k", {"text": "hello"})).status_code == 201


async def test_a_second_call_waits_for_the_first_and_a_cancelled_one_is_forgotten() -> None:
    calls = IdempotentCalls()
    made: list[str] = []
    go = trio.Event()

    async def slow() -> Response:
        made.append("call")
        await go.wait()
        return json_response({"n": len(made)})

    with trio.move_on_after(0.01):
        await calls.run(ANN, "k", "POST /x", b"", slow)
    answers: list[bytes] = []

    async def ask() -> None:
        answers.append(bytes((await calls.run(ANN, "k", "POST /x", b"", slow)).body))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert (answers, len(made)) == ([b'{"n":2}'] * 3, 2)


async def test_the_oldest_answers_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MAX_CALLS_OF_ONE", 2)
    monkeypatch.setattr(idempotency, "MAX_CALLS", 3)
    calls = IdempotentCalls()

    async def repeats(caller: Identity, key: str) -> bool:
        try:
            answer = await calls.run(caller, key, "POST /y", b"", probe)
        except Problem:
            return True
        return "idempotency-replayed" in answer.headers

    async def probe() -> Response:
        raise Problem("not_found", "a probe leaves nothing")

    async def made() -> Response:
        return json_response({})

    for caller, key in ((BOB, "b"), (ANN, "1"), (ANN, "2"), (ANN, "3")):
        await calls.run(caller, key, "POST /x", b"", made)
    known = [(caller.id, key) for caller, key in calls._calls]
    assert known == [(2, "b"), (1, "2"), (1, "3")]
    await calls.run(BOB, "c", "POST /x", b"", made)
    assert [(caller.id, key) for caller, key in calls._calls] == [(1, "2"), (1, "3"), (2, "c")]
    assert await repeats(ANN, "2")


async def test_an_unchanged_page_of_history_is_not_sent_again(api: ApiClient) -> None:
    visitor, chat = await api.talk()
    path = f"/api/chats/{chat}/messages"
    tag = (await api.call("GET", path, visitor)).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = await api.call("GET", path, visitor, headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert same.headers["cache-control"] == "no-store"
    message_id = (await api.call("GET", path, visitor)).json()["messages"][0]["id"]
    await api.call("PATCH", f"/api/messages/{message_id}", visitor, {"text": "hello!"})
    changed = await api.call("GET", path, visitor, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
