"""Each HTTP route and its refusals, on a whole server."""

import time
from uuid import UUID, uuid4

import pytest

from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens
from tests.server.server_under_test import SECRET, ApiClient, customer, error_of, operator


async def test_a_visitor_is_made_with_a_token_and_a_reserved_chat(api: ApiClient) -> None:
    answer = await api.call("POST", "/api/visitors", json={"source": "lk"})
    assert answer.status_code == 201
    body = answer.json()
    assert list(body) == ["token", "user", "chat"]
    assert list(body["chat"]) == ["uuid", "widget", "status", "owner_user", "operator_user"]
    assert 2**52 <= body["user"]["id"] < 2**53
    assert body["chat"]["owner_user"] == body["user"]
    assert (body["chat"]["status"], body["chat"]["widget"]) == ("new", {"source": "lk"})


async def test_a_returning_visitor_gets_the_token_renewed_and_the_same_chat(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    answer = await api.call("POST", "/api/visitors", visitor, {"source": "lk"})
    assert answer.status_code == 200
    assert UUID(answer.json()["chat"]["uuid"]) == chat
    renewed = answer.json()["token"]
    assert (await api.call("GET", f"/api/chats/{chat}", renewed)).status_code == 200


async def test_a_renewed_token_ends_with_the_session_and_names_no_more_sources(api: ApiClient) -> None:
    began = int(time.time()) - 10 * 86_400
    token = Tokens(SECRET, now=lambda: began).open_session(User(2**52 + 1, Role.USER), "lk")
    for source in ("lk", "shop", "mall"):
        token, _ = await api.visit(source, token)
        claims = Tokens(SECRET).verify(token)
        assert claims.expires == began + 30 * 86_400
        assert claims.sources == frozenset({source})


async def test_a_short_token_is_not_exchanged_for_a_long_one(api: ApiClient) -> None:
    token = customer(7)
    expires = Tokens(SECRET).verify(token).expires
    for _ in range(3):
        token, _ = await api.visit(token=token)
        assert Tokens(SECRET).verify(token).expires == expires


async def test_a_visitor_with_a_token_of_the_site_keeps_its_user(api: ApiClient) -> None:
    answer = await api.call("POST", "/api/visitors", customer(7, firstname="Ann"), {"source": "lk"})
    assert answer.status_code == 200
    assert (answer.json()["user"]["id"], answer.json()["user"]["firstname"]) == (7, "Ann")


async def test_basic_authentication_of_a_site_counts_as_no_header(api: ApiClient) -> None:
    basic = {"Authorization": "Basic c3RhZ2luZzpzZWNyZXQ="}
    assert (await api.call("POST", "/api/visitors", json={"source": "lk"}, headers=basic)).status_code == 201
    refused = await api.call("GET", "/api/chats", headers=basic)
    assert error_of(refused) == (401, "not_authenticated", "")
    assert "a token is needed" in refused.text


async def test_an_operator_can_not_use_the_route_for_visitors(api: ApiClient) -> None:
    answer = await api.call("POST", "/api/visitors", operator(), {"source": "lk"})
    assert error_of(answer) == (403, "not_allowed", "")


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"", (400, "malformed", "")),
        (b"{", (400, "malformed", "")),
        (b"\xff", (400, "malformed", "")),
        (b"[" * 3000, (400, "malformed", "")),
        (b"[]", (422, "malformed", "")),
        (b"{}", (422, "malformed", "source")),
        (b'{"source": 1}', (422, "malformed", "source")),
        (b'{"source": ""}', (422, "malformed", "source")),
        (b'{"source": "A b"}', (422, "malformed", "source")),
        (b'{"source": "lk\\n"}', (422, "malformed", "source")),
        (b"x" * 200_000, (413, "too_large", "")),
    ],
    ids=["empty", "cut", "not-utf8", "deep", "array", "missing", "type", "short", "name", "newline", "big"],
)
async def test_a_wrong_body_is_refused_with_the_path_of_its_fault(
    api: ApiClient, body: bytes, refusal: tuple[int, str, str]
) -> None:
    answer = await api.http.post("/api/visitors", content=body)
    assert error_of(answer) == refusal


async def test_every_fault_of_a_body_is_reported(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    wrong = {"text": 1, "attachments": ["x"], "type": "loud", "client_id": "c" * 65}
    answer = await api.call("POST", f"/api/chats/{chat}/messages", visitor, wrong)
    assert error_of(answer) == (422, "malformed", "text")
    for path in ("text: ", "attachments[0]: ", "type: ", "client_id: "):
        assert path in answer.json()["error"]["detail"]


async def test_a_message_is_stored_and_read(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    sent = await api.write(visitor, chat, "hello")
    assert sent.status_code == 201
    message = sent.json()
    assert (message["text"], message["message_index"], message["type_role"]) == ("hello", 0, "user")
    page = (await api.call("GET", f"/api/chats/{chat}/messages", operator())).json()
    assert page == {"messages": [message], "from_index": 0, "to_index": 0, "has_more": False}


async def test_a_repeated_client_id_gets_the_stored_message(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    first = await api.write(visitor, chat, "once", client_id="a")
    again = await api.write(visitor, chat, "once", client_id="a")
    other = await api.write(visitor, chat, "twice", client_id="a")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert error_of(other) == (409, "conflict", "")


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"text": ""}, "empty", "text"),
        ({"text": "x" * 4001}, "too_long", "text"),
        ({"text": "x", "attachments": [str(uuid4())]}, "attachment_unknown", "attachments"),
        ({"text": "x", "attachments": [str(uuid4())] * 11}, "too_many_attachments", "attachments"),
    ],
    ids=["empty", "too_long", "attachment_unknown", "too_many_attachments"],
)
async def test_an_invalid_message_is_refused_with_its_code(
    api: ApiClient, fields: dict[str, object], code: str, path: str
) -> None:
    visitor, chat = await api.visit()
    answer = await api.call("POST", f"/api/chats/{chat}/messages", visitor, fields)
    assert error_of(answer) == (422, code, path)


async def test_a_note_is_for_operators_only(api: ApiClient) -> None:
    visitor, chat = await api.talk()
    note = {"type": "system", "type_role": "operator"}
    assert (await api.write(operator(), chat, "rude one", **note)).status_code == 201
    assert error_of(await api.write(visitor, chat, "mine", **note)) == (403, "not_allowed", "")
    assert error_of(await api.write(operator(), chat, "x", type="system")) == (422, "malformed", "type_role")
    seen = {
        role: [m["text"] for m in (await api.call("GET", f"/api/chats/{chat}/messages", bearer)).json()["messages"]]
        for role, bearer in (("visitor", visitor), ("operator", operator()))
    }
    assert seen == {"visitor": ["hello"], "operator": ["hello", "rude one"]}


async def test_pages_are_ascending_and_exclusive(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    for number in range(5):
        await api.write(visitor, chat, str(number))

    async def page(query: str) -> tuple[str, object, object, bool]:
        answer = (await api.call("GET", f"/api/chats/{chat}/messages?{query}", visitor)).json()
        texts = "".join(message["text"] for message in answer["messages"])
        return texts, answer["from_index"], answer["to_index"], answer["has_more"]

    assert await page("") == ("01234", 0, 4, False)
    assert await page("limit=2") == ("34", 3, 4, True)
    assert await page("before=3&limit=2") == ("12", 1, 2, True)
    assert await page("after=-1&limit=2") == ("01", 0, 1, True)
    assert await page("after=4") == ("", None, None, False)


@pytest.mark.parametrize("character", ["🐌", "\x01"], ids=["four bytes each", "escaped"])
@pytest.mark.parametrize("backwards", [False, True], ids=["after", "before"])
async def test_an_answer_of_long_messages_ends_early_and_says_that_there_is_more(
    api: ApiClient, character: str, backwards: bool
) -> None:
    visitor, chat = await api.visit()
    texts = [f"{number} {character * 3990}" for number in range(30)]
    for text in texts:
        await api.write(visitor, chat, text)
    seen: list[str] = []
    query = "limit=200" if backwards else "limit=200&after=-1"
    more = True
    while more:
        answer = await api.call("GET", f"/api/chats/{chat}/messages?{query}", visitor)
        assert len(answer.content) < 192 * 1024
        page = answer.json()
        found = [message["text"] for message in page["messages"]]
        assert found
        seen = found + seen if backwards else seen + found
        more = page["has_more"]
        assert page["to_index"] - page["from_index"] + 1 == len(found)
        query = f"limit=200&before={page['from_index']}" if backwards else f"limit=200&after={page['to_index']}"
    assert seen == texts


async def test_200_messages_of_ordinary_length_are_one_answer(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    for number in range(200):
        await api.write(visitor, chat, f"{number} {'ordinary ' * 13}")
    page = (await api.call("GET", f"/api/chats/{chat}/messages?limit=200", visitor)).json()
    assert (len(page["messages"]), page["has_more"]) == (200, False)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("before=1&after=1", "after"),
        ("before=1.5", "before"),
        ("after=1&after=2", "after"),
        ("after=99999999999999999999", "after"),
    ],
)
async def test_a_bad_query_names_the_parameter(api: ApiClient, query: str, path: str) -> None:
    visitor, chat = await api.visit()
    answer = await api.call("GET", f"/api/chats/{chat}/messages?{query}", visitor)
    assert error_of(answer) == (400, "malformed", path)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/api/chats?state=closed", "state"),
        ("GET", "/api/chats?status=new&customer=100", "customer"),
        ("HEAD", "/api/chats?customer=100", ""),
        ("POST", "/api/chats?source=lk", "source"),
        ("GET", "/api/operators?sources=lk", "sources"),
        ("GET", "/api/chats/{chat}?limit=1", "limit"),
        ("GET", "/api/chats/{chat}/messages?until=3", "until"),
        ("GET", "/api/chats/{chat}/messages?=3", ""),
        ("POST", "/api/chats/{chat}/messages?limit=1", "limit"),
        ("POST", "/api/chats/{chat}/accept?force", "force"),
        ("POST", "/api/chats/{chat}/close?note=x", "note"),
        ("POST", "/api/chats/{chat}/reopen?x=1", "x"),
        ("POST", "/api/chats/{chat}/transfer?operator_id=2", "operator_id"),
        ("POST", "/api/chats/{chat}/return?x=1", "x"),
        ("POST", "/api/visitors?source=lk", "source"),
    ],
)
async def test_an_unknown_query_parameter_is_refused_by_name(api: ApiClient, method: str, path: str, name: str) -> None:
    _, chat = await api.talk()
    bearer = None if "visitors" in path else operator()
    answer = await api.call(method, path.format(chat=chat), bearer, {} if method == "POST" else None)
    assert answer.status_code == 400
    if method != "HEAD":
        assert error_of(answer) == (400, "malformed", name)
        assert f"{name}: there is no such query parameter" in answer.json()["error"]["detail"]


async def test_only_one_of_two_operators_can_accept_a_chat(api: ApiClient) -> None:
    _, chat = await api.talk()
    accepted = await api.call("POST", f"/api/chats/{chat}/accept", operator(1, firstname="Olga"), {})
    assert accepted.status_code == 200
    assert accepted.json()["status"] == "open"
    assert accepted.json()["operator_user"]["firstname"] == "Olga"
    assert error_of(await api.call("POST", f"/api/chats/{chat}/accept", operator(2))) == (409, "not_owner", "")
    assert (await api.call("POST", f"/api/chats/{chat}/accept", operator(1))).status_code == 200


async def test_a_chat_is_closed_reopened_transferred_and_returned(api: ApiClient) -> None:
    visitor, chat = await api.talk()
    await api.call("GET", "/api/chats", operator(2))

    async def step(verb: str, bearer: str, body: object = None) -> tuple[str, int | None]:
        answer = await api.call("POST", f"/api/chats/{chat}/{verb}", bearer, body)
        assert answer.status_code == 200, answer.text
        operator_user = answer.json()["operator_user"]
        return answer.json()["status"], operator_user and operator_user["id"]

    assert await step("accept", operator(1)) == ("open", 1)
    assert await step("transfer", operator(1), {"operator_id": 2}) == ("new", 2)
    assert await step("return", operator(2)) == ("new", None)
    assert await step("close", visitor) == ("closed", None)
    assert await step("reopen", operator(1)) == ("open", 1)
    assert await step("close", operator(1)) == ("closed", 1)
    again = await api.call("POST", f"/api/chats/{chat}/close", operator(1))
    assert error_of(again) == (409, "chat_closed", "")


@pytest.mark.parametrize("verb", ["accept", "transfer", "return"])
async def test_a_visitor_may_not_call_routes_for_operators(api: ApiClient, verb: str) -> None:
    visitor, chat = await api.talk()
    answer = await api.call("POST", f"/api/chats/{chat}/{verb}", visitor, {"operator_id": 1})
    assert error_of(answer) == (403, "not_allowed", "")


async def test_a_transfer_to_an_unknown_operator_is_404(api: ApiClient) -> None:
    _, chat = await api.talk()
    answer = await api.call("POST", f"/api/chats/{chat}/transfer", operator(), {"operator_id": 99})
    assert error_of(answer)[:2] == (404, "not_found")


@pytest.mark.parametrize("method_and_path", ["GET ", "GET /messages", "POST /messages", "POST /close"])
async def test_somebody_elses_chat_is_refused_before_any_data(api: ApiClient, method_and_path: str) -> None:
    _, chat = await api.talk()
    method, _, path = method_and_path.partition(" ")

    async def refusal(chat: UUID, bearer: str | None) -> tuple[int, str, str]:
        return error_of(await api.call(method, f"/api/chats/{chat}{path}", bearer, {"text": "x"}))

    stranger, _ = await api.visit()
    assert await refusal(chat, stranger) == (403, "not_participant", "")
    assert await refusal(chat, operator(1, sources=["shop"])) == (403, "not_allowed", "")
    assert await refusal(chat, operator(1, sources=[])) == (403, "not_allowed", "")
    assert await refusal(uuid4(), operator()) == (404, "not_found", "")
    assert await refusal(chat, None) == (401, "not_authenticated", "")


async def test_an_operator_makes_a_chat_for_a_known_user(api: ApiClient) -> None:
    await api.visit(token=customer(7))
    body = {"source": "lk", "owner": 7}
    existing = await api.call("POST", "/api/chats", operator(), body)
    other = await api.call("POST", "/api/chats", operator(1, ["shop"]), body | {"source": "shop"})
    assert (existing.status_code, other.status_code) == (200, 201)
    assert other.json()["owner_user"]["id"] == 7
    assert error_of(await api.call("POST", "/api/chats", operator(), body | {"owner": 8})) == (
        404,
        "not_found",
        "owner",
    )
    shop = await api.call("POST", "/api/chats", operator(), body | {"source": "shop"})
    assert error_of(shop) == (403, "not_allowed", "source")
    assert error_of(await api.call("POST", "/api/chats", customer(7), body)) == (403, "not_allowed", "")


async def test_lists_show_what_the_caller_may_see_newest_first(api: ApiClient) -> None:
    visitor, first = await api.talk()
    _, second = await api.talk()
    await api.visit()
    await api.call("POST", f"/api/chats/{second}/accept", operator())

    async def listed(bearer: str, query: str = "") -> set[str]:
        answer = await api.call("GET", f"/api/chats?{query}", bearer)
        assert answer.status_code == 200, answer.text
        return {chat["uuid"] for chat in answer.json()}

    assert await listed(operator()) == {str(first), str(second)}
    assert await listed(visitor) == {str(first)}
    assert await listed(operator(1, ["shop"])) == await listed(operator(1, [])) == set()
    assert await listed(operator(), "status=open") == await listed(operator(), "operator=1") == {str(second)}
    assert len(await listed(operator(), "limit=1")) == 1
    newest = (await api.call("GET", "/api/chats?limit=1", operator())).json()[0]["uuid"]
    assert newest not in await listed(operator(), f"before={newest}")
    foreign = await api.call("GET", "/api/chats?source=shop", operator())
    assert error_of(foreign) == (403, "not_allowed", "source")
    assert error_of(await api.call("GET", "/api/chats?status=odd", operator())) == (400, "malformed", "status")
    for before in ("x", uuid4()):
        unknown = await api.call("GET", f"/api/chats?before={before}", operator())
        assert error_of(unknown) == (400, "malformed", "before")


async def test_paging_along_the_links_shows_each_chat_once_while_chats_move(api: ApiClient) -> None:
    talks = [await api.talk() for _ in range(9)]
    path, shown, pages = "/api/chats?status=new&source=lk&limit=2", list[str](), 0
    while path:
        answer = await api.call("GET", path, operator())
        shown += [chat["uuid"] for chat in answer.json()]
        pages += 1
        # Move chats to the top of the list: one that was shown, and some that were not.
        for number in (0, 3, 8 - pages):
            await api.write(*talks[number])
        path = answer.links.get("next", {}).get("url", "")
        assert not path or path.startswith("/api/chats?status=new&source=lk&limit=2&before=")
    assert pages == 5
    assert shown == [str(chat) for _, chat in reversed(talks)]


async def test_the_last_page_of_a_list_links_to_none(api: ApiClient) -> None:
    (_, first), (_, second) = await api.talk(), await api.talk()
    for query, more in (("limit=1", True), ("limit=2", False), (f"before={second}&limit=1", False), ("", False)):
        answer = await api.call("GET", f"/api/chats?{query}", operator())
        assert ("link" in answer.headers) is more, query
    head = await api.call("HEAD", "/api/chats?limit=1", operator())
    following = await api.call("GET", head.links["next"]["url"], operator())
    assert [chat["uuid"] for chat in following.json()] == [str(first)]


@pytest.mark.parametrize("cursor", ["", "MSAxMjM", "MSAxIDIgMw", "!", "%00", "\u00e4", "MiAxIDI", "1"])
async def test_an_invalid_cursor_is_refused(api: ApiClient, cursor: str) -> None:
    assert error_of(await api.call("GET", f"/api/chats?before={cursor}", operator())) == (400, "malformed", "before")


async def test_operators_see_the_operators_of_their_sources(api: ApiClient) -> None:
    await api.call("GET", "/api/chats", operator(2, ["shop"]))
    await api.call("GET", "/api/chats", operator(3, ["lk", "shop"]))
    answer = await api.call("GET", "/api/operators", operator(1))
    assert [(each["user"]["id"], each["is_online"]) for each in answer.json()] == [(1, False), (3, False)]
    assert error_of(await api.call("GET", "/api/operators", customer())) == (403, "not_allowed", "")


async def test_a_token_for_one_source_removes_no_other_source(api: ApiClient) -> None:
    for sources in (["lk"], ["shop"]):
        await api.call("GET", "/api/chats", operator(2, sources))
    for source in ("lk", "shop"):
        answer = await api.call("GET", "/api/operators", operator(1, [source]))
        assert 2 in [each["user"]["id"] for each in answer.json()]
    _, chat = await api.talk()
    given = await api.call("POST", f"/api/chats/{chat}/transfer", operator(1), {"operator_id": 2})
    assert (given.status_code, given.json()["operator_user"]["id"]) == (200, 2)


async def test_an_older_token_does_not_restore_an_old_name(api: ApiClient) -> None:
    older = customer(7, firstname="Ann")
    newer = customer(7, firstname="Anna")
    names = []
    for token in (older, newer, older):
        answer = await api.call("POST", "/api/visitors", token, {"source": "lk"})
        names.append(answer.json()["user"]["firstname"])
    assert names == ["Ann", "Anna", "Anna"]


async def test_a_newer_token_updates_the_profile_and_omitted_claims_keep_it(api: ApiClient) -> None:
    _, chat = await api.visit(token=customer(7, firstname="Ann", lastname="Lee"))
    sent = await api.write(customer(7, firstname="Anna"), chat)
    assert (sent.json()["user"]["firstname"], sent.json()["user"]["lastname"]) == ("Anna", "Lee")
    shown = await api.call("GET", f"/api/chats/{chat}", operator())
    assert shown.json()["owner_user"]["firstname"] == "Anna"


async def test_a_renewed_token_does_not_restore_an_old_name(api: ApiClient) -> None:
    renewed, _ = await api.visit(token=customer(7, firstname="Ann"))
    await api.visit(token=customer(7, firstname="Anna"))
    answer = await api.call("POST", "/api/visitors", renewed, {"source": "lk"})
    assert answer.json()["user"]["firstname"] == "Anna"


async def test_a_token_without_new_claims_needs_no_operation(api: ApiClient) -> None:
    await api.call("GET", "/api/chats", operator(1, firstname="Olga"))
    before = api.server.statistics().journal.operations
    await api.call("GET", "/api/chats", operator(1, firstname="Olga"))
    await api.call("GET", "/api/chats", operator(1))
    assert api.server.statistics().journal.operations == before
    await api.call("GET", "/api/chats", operator(1, firstname="Olya"))
    assert api.server.statistics().journal.operations == before + 1


@pytest.mark.parametrize(
    ("method", "path", "refusal"),
    [
        ("GET", "/nothing", (404, "not_found", "")),
        ("GET", "/api/chats/not-a-uuid", (404, "not_found", "")),
        ("GET", "/api/chats/", (404, "not_found", "")),
        ("DELETE", "/api/chats", (405, "method_not_allowed", "")),
        ("GET", "/api/visitors", (405, "method_not_allowed", "")),
        ("PUT", "/api/chats/00000000-0000-4000-8000-000000000000/messages", (405, "method_not_allowed", "")),
    ],
)
async def test_an_unknown_path_has_the_same_error_format(
    api: ApiClient, method: str, path: str, refusal: tuple[int, str, str]
) -> None:
    assert error_of(await api.call(method, path)) == refusal


@pytest.mark.parametrize("path", ["/ws/operators", "/ws/chats/00000000-0000-4000-8000-000000000000?after=1"])
async def test_a_plain_get_of_a_websocket_path_is_answered_with_426(api: ApiClient, path: str) -> None:
    answer = await api.call("GET", path)
    assert error_of(answer) == (426, "upgrade_required", "")
    assert (answer.headers["upgrade"], answer.headers["connection"]) == ("websocket", "Upgrade")
    assert error_of(await api.call("POST", path)) == (405, "method_not_allowed", "")


async def test_health_says_live_and_ready(api: ApiClient) -> None:
    assert (await api.call("GET", "/health/live")).status_code == 200
    assert (await api.call("GET", "/health/ready")).status_code == 200


async def test_the_asyncapi_document_is_served(api: ApiClient) -> None:
    answer = await api.call("GET", "/asyncapi.json")
    assert answer.json()["asyncapi"].startswith("3.")


async def test_pages_of_a_foreign_site_are_refused_before_any_data(api: ApiClient) -> None:
    headers = {"Origin": "https://evil.example"}
    answer = await api.call("POST", "/api/visitors", json={"source": "lk"}, headers=headers)
    assert error_of(answer) == (403, "not_allowed", "")
    assert "access-control-allow-origin" not in answer.headers


async def test_pages_of_an_allowed_site_may_read_answers_and_errors(api: ApiClient) -> None:
    headers = {"Origin": "https://shop.example"}
    for answer in (
        await api.call("POST", "/api/visitors", json={"source": "lk"}, headers=headers),
        await api.call("GET", "/api/chats", headers=headers),
        await api.call("GET", "/nothing", headers=headers),
    ):
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert answer.headers["vary"] == "Origin"
        readable = answer.headers["access-control-expose-headers"]
        assert readable == "ETag, Idempotency-Replayed, Link, Retry-After, X-Request-ID"


async def test_a_preflight_allows_what_the_widget_sends(api: ApiClient) -> None:
    headers = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    answer = await api.call("OPTIONS", "/api/visitors", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert (
        answer.headers["access-control-allow-headers"] == "authorization, content-type, idempotency-key, if-none-match"
    )


async def test_answers_and_refusals_are_not_cacheable(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    for answer in (
        await api.call("GET", f"/api/chats/{chat}", visitor),
        await api.call("GET", "/api/chats", visitor),
        await api.call("GET", f"/api/chats/{chat}"),
    ):
        assert answer.headers["cache-control"] == "no-store"
