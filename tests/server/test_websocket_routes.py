"""Access to the websocket routes, and their refusals, over real sockets."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import jwt
import orjson
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from actorchat.protocol import Role
from actorchat.server.settings import LimitSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, customer, get_live, operator, run_server, token


@pytest.fixture(params=["reactor", "trio-websocket"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[ApiClient]:
    settings = Settings(
        storage="memory://",
        port=0,
        secret=SECRET,
        transport=request.param,
        sources=("lk", "shop"),
        origins=("https://shop.example",),
        limits=LimitSettings(messages_per_second=0, visitor_sockets=2, operator_sockets=2),
    )
    async with run_server(settings) as api:
        yield api


async def outcome(
    api: ApiClient, path: str, bearer: str | None, protocols: Sequence[str] = (), origin: str | None = None
) -> tuple[int, str]:
    """(status, code) of a refusal before the upgrade, (close code, reason) of one after it, or (101, first event)."""
    try:
        async with api.socket(path, bearer, protocols, **({"Origin": origin} if origin else {})) as socket:
            return await first(socket)
    except ConnectionRejected as refused:
        return refused.status_code, orjson.loads(refused.body or b"")["error"]["code"]


async def first(socket: WebSocketConnection) -> tuple[int, str]:
    try:
        return 101, orjson.loads(await socket.get_message())["type"]
    except ConnectionClosed as closed:
        return (closed.reason.code, closed.reason.reason or "") if closed.reason else (1006, "")


def room(chat: UUID, query: str = "") -> str:
    return f"/ws/chats/{chat}{query}"


async def test_the_owner_and_operators_of_the_source_may_join(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    assert await outcome(api, room(chat), visitor) == (101, "user_connected")
    assert await outcome(api, room(chat), operator()) == (101, "user_connected")
    assert await outcome(api, "/ws/operators", operator()) == (101, "operator_updated")


async def test_a_console_gets_an_operator_that_is_new_to_its_source(api: ApiClient) -> None:
    async with (
        api.socket("/ws/operators", operator(1, ["lk"])) as olgas,
        api.socket("/ws/operators", operator(2, ["shop"])) as petrs,
    ):
        assert await next_operator(olgas, 1) == (1, False)
        assert await next_operator(olgas, 1) == (1, True)
        assert await next_operator(petrs, 2) == (2, False)
        await api.call("GET", "/api/chats", operator(1, ["shop"]))
        assert await next_operator(petrs, 1) == (1, True)
        # Consoles that already knew the operator get no event before this one.
        await api.call("GET", "/api/chats", operator(1, ["shop"], firstname="Olga"))
        assert (await next_event(olgas, "operator_updated"))["user"]["firstname"] == "Olga"


async def test_a_visitors_new_name_is_shown_in_the_room_and_on_the_feed(api: ApiClient) -> None:
    visitor, chat = await api.visit(token=customer(7, firstname="Ann"))
    assert (await api.write(visitor, chat)).status_code == 201
    async with (
        api.socket(room(chat), visitor) as room_socket,
        api.socket("/ws/operators", operator()) as console,
    ):
        assert (await next_event(room_socket, "user_connected"))["user"]["firstname"] == "Ann"
        assert (await next_event(console, "chat_updated"))["chat"]["owner_user"]["firstname"] == "Ann"
        await api.visit(token=customer(7, firstname="Anna"))
        assert (await next_event(room_socket, "user_connected"))["user"]["firstname"] == "Anna"
        assert (await next_event(console, "chat_updated"))["chat"]["owner_user"]["firstname"] == "Anna"


async def next_event(socket: WebSocketConnection, kind: str) -> dict[str, Any]:
    while True:
        event = orjson.loads(await socket.get_message())
        if event["type"] == kind:
            data: dict[str, Any] = event["data"]
            return data


async def next_operator(socket: WebSocketConnection, operator_id: int) -> tuple[int, bool]:
    """(id, is_online) of the next update of that operator."""
    while True:
        event = await next_event(socket, "operator_updated")
        if event["user"]["id"] == operator_id:
            return operator_id, event["is_online"]


async def test_a_socket_may_follow_requests_on_one_connection(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    extra = [(b"Authorization", f"Bearer {visitor}".encode())]
    async with await trio.open_tcp_stream("127.0.0.1", api.server.port) as stream, trio.open_nursery() as nursery:
        for _ in range(2):
            await get_live(stream)
        async with await wrap_client_stream(nursery, stream, "x", room(chat), extra_headers=extra) as socket:
            assert await first(socket) == (101, "user_connected")
            assert api.server.statistics().websockets == 1
            assert (await api.write(visitor, chat)).status_code == 201
            assert await first(socket) == (101, "message_added")


async def test_a_target_in_absolute_form_leads_to_the_same_socket(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    path = f"http://chat.example{room(chat)}"
    assert await outcome(api, path, visitor) == (101, "user_connected")
    assert await outcome(api, path, visitor, origin="http://chat.example") == (101, "user_connected")
    assert await outcome(api, path, visitor, origin="http://evil.example") == (403, "not_allowed")


async def test_an_upgrade_after_requests_is_checked_too(api: ApiClient) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", api.server.port) as stream:
        await get_live(stream)
        head = f"GET {room(uuid4())} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        key = f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
        await stream.send_all((head + key).encode())
        answer = b"".join([bytes(part) async for part in stream])
    assert answer.startswith(b"HTTP/1.1 401")
    assert b'"not_authenticated"' in answer


async def test_a_browser_brings_its_token_as_a_subprotocol(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    async with api.socket(room(chat), None, [f"bearer.{visitor}", "actorchat.v1.ext"]) as socket:
        assert socket.subprotocol == "actorchat.v1.ext"
        assert await first(socket) == (101, "user_connected")


@pytest.mark.parametrize("header", ["Basic c3RhZ2luZzpzZWNyZXQ=", f"Bearer {customer(8)}", "Bearer x"])
async def test_a_token_as_a_subprotocol_wins_over_the_header(api: ApiClient, header: str) -> None:
    visitor, chat = await api.visit()
    async with api.socket(room(chat), None, [f"bearer.{visitor}", "actorchat.v1"], Authorization=header) as socket:
        assert await first(socket) == (101, "user_connected")


BAD_TOKENS = {
    "absent": None,
    "nonsense": "x.y.z",
    "expired": token(Role.USER, 1, ttl=-1),
    "forged": customer()[:-3] + "AAA",
    "alg none": "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIiwicm9sZSI6InVzZXIiLCJhdWQiOiJhY3RvcmNoYXQiLCJleHAiOjl9.",
    "audience": jwt.encode({"sub": "1", "role": "user", "aud": "other", "exp": 2**40}, SECRET),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_a_bad_token_is_refused_before_any_data(api: ApiClient, name: str) -> None:
    _, chat = await api.visit()
    assert await outcome(api, room(chat), BAD_TOKENS[name]) == (401, "not_authenticated")
    if BAD_TOKENS[name]:
        protocols = [f"bearer.{BAD_TOKENS[name]}", "actorchat.v1"]
        assert await outcome(api, room(chat), None, protocols) == (4401, "not_authenticated")


@pytest.mark.parametrize("room_is_open", [False, True])
async def test_somebody_elses_chat_is_refused(api: ApiClient, room_is_open: bool) -> None:
    owner, chat = await api.visit()
    stranger, _ = await api.visit()
    async with AsyncExitStack() as stack:
        if room_is_open:
            await stack.enter_async_context(api.socket(room(chat), owner))
        await refused_to_others(api, chat, stranger)


async def refused_to_others(api: ApiClient, chat: UUID, stranger: str) -> None:
    for bearer, code in (
        (stranger, "not_participant"),
        (operator(1, ["shop"]), "not_allowed"),
        (operator(1, []), "not_allowed"),
    ):
        assert await outcome(api, room(chat), bearer) == (403, code)
        assert await outcome(api, room(chat), None, [f"bearer.{bearer}", "actorchat.v1"]) == (4403, code)


async def test_every_socket_of_an_open_room_gets_the_present_users(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    async with api.socket(room(chat), visitor) as first_tab, api.socket(room(chat), visitor) as second_tab:
        async with api.socket(room(chat), operator(5)) as console:
            there = [orjson.loads(await console.get_message())["data"]["user"]["role"] for _ in range(2)]
        assert there == ["user", "operator"]
        for socket, count in ((first_tab, 2), (second_tab, 2)):
            for _ in range(count):
                assert orjson.loads(await socket.get_message())["type"] == "user_connected"
        assert (await api.write(visitor, chat)).status_code == 201
        for socket in (first_tab, second_tab):
            assert await first(socket) == (101, "message_added")


async def test_the_claims_of_a_newer_token_are_stored_when_joining_an_open_room(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    async with api.socket(room(chat), visitor):
        assert await outcome(api, room(chat), operator(5, firstname="Olga")) == (101, "user_connected")
        assert await outcome(api, room(chat), operator(5, firstname="Olya")) == (101, "user_connected")
        people = (await api.call("GET", "/api/operators", operator(5))).json()
    assert [each["user"]["firstname"] for each in people] == ["Olya"]


@pytest.mark.parametrize("path", ["/ws/chats/00000000-0000-4000-8000-000000000000", "/ws/chats/x", "/ws/other", "/"])
async def test_an_unknown_chat_or_path_is_404(api: ApiClient, path: str) -> None:
    assert await outcome(api, path, operator()) == (404, "not_found")
    protocols = [f"bearer.{operator()}", "actorchat.v1"]
    assert await outcome(api, path, None, protocols) == (4404, "not_found")


async def test_the_feed_is_for_operators_and_their_sources(api: ApiClient) -> None:
    visitor, _ = await api.visit()
    assert await outcome(api, "/ws/operators", visitor) == (403, "not_allowed")
    assert await outcome(api, "/ws/operators?source=shop", operator()) == (403, "not_allowed")
    assert await outcome(api, "/ws/operators?source=lk&source=shop", operator()) == (403, "not_allowed")
    assert await outcome(api, "/ws/operators?source=other", operator(1, ["other"])) == (404, "not_found")
    both = operator(1, ["lk", "shop"])
    assert await outcome(api, "/ws/operators?source=lk&source=shop", both) == (101, "operator_updated")


EXTENDED = ("actorchat.v1.ext",)


async def test_an_operator_may_read_quietly_and_others_may_not(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    assert (await api.write(visitor, chat)).status_code == 201
    async with api.socket(room(chat), visitor) as visitors:
        assert (await first(visitors))[1] == "user_connected"
        # A quiet socket is not present itself, so the first event is about the visitor.
        async with api.socket(room(chat, "?quiet=1&after=-1"), operator(), EXTENDED) as quiet:
            types = [orjson.loads(await quiet.get_message())["type"] for _ in range(2)]
            assert types == ["user_connected", "message_added"]
            assert (await api.write(visitor, chat)).status_code == 201
            assert (await first(visitors))[1] == "message_added"
    assert await outcome(api, room(chat, "?quiet=1"), visitor, EXTENDED) == (403, "not_allowed")
    assert await outcome(api, room(chat, "?quiet=1"), operator()) == (400, "malformed")
    for query in ("?quiet=", "?quiet=0", "?quiet=1&quiet=1"):
        assert await outcome(api, room(chat, query), operator(), EXTENDED) == (400, "malformed")


@pytest.mark.parametrize("query", ["?after=", "?after=x", "?after=-2", "?after=1.5", "?after=1&after=2"])
async def test_a_bad_resume_point_is_400(api: ApiClient, query: str) -> None:
    visitor, chat = await api.visit()
    assert await outcome(api, room(chat, query), visitor) == (400, "malformed")


async def test_an_unknown_query_parameter_of_a_socket_is_refused_by_name(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    for path, bearer in ((room(chat, "?since=3"), visitor), ("/ws/operators?sources=lk", operator())):
        with pytest.raises(ConnectionRejected) as refused:
            async with api.socket(path, bearer):
                pass
        assert refused.value.status_code == 400
        name = path.partition("?")[2].partition("=")[0]
        assert orjson.loads(refused.value.body or b"")["error"]["path"] == name


async def test_the_origin_is_checked_before_the_token(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    own = api.server.url
    for origin, expected in (
        ("https://evil.example", (403, "not_allowed")),
        ("null", (403, "not_allowed")),
        ("https://shop.example", (101, "user_connected")),
        (own, (101, "user_connected")),
    ):
        assert await outcome(api, room(chat), visitor, origin=origin) == expected
    evil = await outcome(api, room(chat), None, ["bearer.x", "actorchat.v1"], origin="https://evil.example")
    assert evil == (403, "not_allowed")


async def test_a_refused_origin_is_logged_with_what_to_configure(
    api: ApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        refused = await outcome(api, "/ws/operators", None, ["bearer.x", "actorchat.v1"], origin="https://b.example")
        assert refused == (403, "not_allowed")
        answer = await api.call("GET", "/health/live", headers={"Origin": "https://b.example"})
        assert answer.status_code == 403
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("actorchat")]
    assert 'origins = ["https://b.example"]' in line


async def test_the_token_is_checked_before_the_chat(api: ApiClient) -> None:
    assert await outcome(api, room(uuid4()), None) == (401, "not_authenticated")


@pytest.mark.slow
async def test_a_socket_ends_when_its_token_does(api: ApiClient) -> None:
    _, mine = await api.visit(token=customer(7))
    # Expiry times are rounded down to seconds, so two are left to connect.
    async with api.socket(room(mine), token(Role.USER, 7, ttl=3)) as socket:
        assert await first(socket) == (101, "user_connected")
        assert (await first(socket))[0] == 4401


async def test_a_person_with_too_many_sockets_gets_a_clear_refusal(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    _, other = await api.visit()
    async with AsyncExitStack() as stack:
        for path, bearer in ((room(chat), visitor), (room(chat), operator()), ("/ws/operators", operator())):
            for _ in range(2 if bearer == visitor else 1):
                socket = await stack.enter_async_context(api.socket(path, bearer))
                await socket.get_message()
        for path, bearer, most in ((room(chat), visitor, 2), (room(other), operator(), 2)):
            with pytest.raises(ConnectionRejected) as refused:
                async with api.socket(path, bearer):
                    pass
            assert refused.value.status_code == 429
            error = orjson.loads(refused.value.body or b"")["error"]
            assert error["code"] == "rate_limited"
            assert f"{most} sockets" in error["detail"]
            protocols = (f"bearer.{bearer}", "actorchat.v1")
            assert await outcome(api, path, None, protocols) == (1013, "rate_limited")
        # Other users are not affected.
        assert await outcome(api, room(chat), operator(2)) == (101, "user_connected")
        assert await outcome(api, room(other), customer(5)) == (403, "not_participant")


async def test_a_socket_that_has_ended_makes_room_for_another(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    for _ in range(5):
        async with api.socket(room(chat), visitor) as one, api.socket(room(chat), visitor) as two:
            assert (await first(one), await first(two)) == ((101, "user_connected"),) * 2
        await until_closed(api)


async def until_closed(api: ApiClient) -> None:
    while api.server.statistics().websockets:  # noqa: ASYNC110 - there is no event to wait for
        await trio.sleep(0.001)
