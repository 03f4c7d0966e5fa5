"""Rate limits for new chats, and unused chats in storage."""

from collections.abc import Iterable
from uuid import UUID

import httpx

from actorchat.chat.model import Identity, PersonRecord
from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens
from actorchat.server.settings import LimitSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, customer, error_of, operator, run_server


def settings(limits: LimitSettings) -> Settings:
    return Settings(storage="memory://", port=0, secret=SECRET, limits=limits)


async def visit(api: ApiClient, token: str, source: str) -> httpx.Response:
    return await api.call("POST", "/api/visitors", token, {"source": source})


async def visits(api: ApiClient, token: str, sources: Iterable[str]) -> list[int]:
    return [(await visit(api, token, source)).status_code for source in sources]


async def test_a_persons_new_chats_are_limited_but_existing_ones_are_returned() -> None:
    async with run_server(settings(LimitSettings(chats_per_minute=3))) as api:
        visitor, chat = await api.visit("first")
        names = [f"made-up-{number}" for number in range(5)]
        assert await visits(api, visitor, names) == [200, 200, 200, 429, 429]
        refused = await visit(api, visitor, "another")
        assert error_of(refused) == (429, "rate_limited", "")
        assert 0 < int(refused.headers["Retry-After"]) <= 20
        # An existing chat is returned without counting against the limit.
        again = await visit(api, visitor, "first")
        assert (again.status_code, UUID(again.json()["chat"]["uuid"])) == (200, chat)
        assert await visits(api, customer(7), ["first"] * 9) == [200] * 9
        assert await visits(api, customer(7), names) == [200, 200, 429, 429, 429]


async def test_chats_that_an_operator_makes_for_others_are_rate_limited() -> None:
    async with run_server(settings(LimitSettings(chats_per_minute=2))) as api:
        statuses = []
        for owner in (7, 8, 9, 7):
            await api.call("GET", "/api/chats", customer(owner))
            answer = await api.call("POST", "/api/chats", operator(1), {"source": "lk", "owner": owner})
            statuses.append(answer.status_code)
        assert statuses == [201, 201, 429, 200]


async def test_new_chats_from_one_address_are_rate_limited() -> None:
    async with run_server(settings(LimitSettings(address_chats_per_minute=3))) as api:
        statuses = [(await visit(api, customer(number), "lk")).status_code for number in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        # Anonymous visitors have their own limit.
        await api.visit()


async def test_one_token_and_made_up_sources_do_not_fill_the_storage() -> None:
    """Repeats an attack that once made 949 chats in 8 seconds."""
    async with run_server(settings(LimitSettings())) as api:
        visitor, _ = await api.visit()
        statuses = await visits(api, visitor, [f"made-up-{number}" for number in range(100)])
        assert statuses.count(429) >= 88


async def test_an_anonymous_visitor_is_stored_with_a_chat_and_not_without() -> None:
    token = Tokens(SECRET).open_session(User(2**52 + 5, Role.USER), "lk")
    async with run_server() as api:
        people = api.server._parts.chats.chat_reader
        before = api.server.statistics().journal.operations
        for _ in range(3):
            assert (await api.call("GET", "/api/chats", token)).json() == []
        assert await people.person(Identity(Role.USER, 2**52 + 5)) is None
        assert api.server.statistics().journal.operations == before
        visitor, chat = await api.visit(token=token)
        assert await people.person(Identity(Role.USER, 2**52 + 5)) == PersonRecord(User(2**52 + 5, Role.USER))
        assert (await api.write(visitor, chat)).status_code == 201
