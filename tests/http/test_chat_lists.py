"""Lists of chats and their summaries: filters, tags and cursors, over HTTP and in the server's process."""

from typing import Any
from uuid import UUID

import pytest
import trio

from actorchat.chat.operations import AddMessage
from actorchat.client import open_api
from actorchat.client.errors import ApiError
from actorchat.protocol import ChatStatus, Role, User
from actorchat.server.settings import LimitSettings, Settings
from tests.server.server_under_test import ApiClient, customer, error_of, operator, run_server

OLGA = User(1, Role.OPERATOR, firstname="Olga")


async def customers_chat(api: ApiClient, user_id: int, *texts: str, firstname: str = "") -> UUID:
    """The chat of a customer who has written `texts`."""
    _, chat = await api.visit(token=customer(user_id, firstname))
    for text in texts:
        assert (await api.write(customer(user_id), chat, text)).status_code == 201
    return chat


async def uuids(api: ApiClient, query: str, token: str | None = None) -> list[UUID]:
    answer = await api.call("GET", f"/api/chats?{query}", token or operator())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return (
        [UUID(each["chat"]["uuid"]) for each in body["chats"]]
        if isinstance(body, dict)
        else [UUID(each["uuid"]) for each in body]
    )


async def test_a_summary_has_what_a_list_shows_of_a_chat(api: ApiClient) -> None:
    chat = await customers_chat(api, 7, "first", "Where is it?", firstname="Ann")
    answer = await api.call("GET", "/api/chats?view=summary", operator())
    body = answer.json()
    assert (list(body), body["next"]) == (["chats", "next"], None)
    [summary] = body["chats"]
    fields = ["chat", "last", "unread", "waiting_since", "activity", "created", "tags", "viewers", "closed"]
    assert list(summary) == fields
    assert summary["chat"] == (await api.call("GET", f"/api/chats/{chat}", operator())).json()
    last = summary["last"]
    assert (last["text"], last["role"], last["name"], last["type"]) == ("Where is it?", "user", "Ann", "standard")
    assert (summary["unread"], summary["tags"], summary["viewers"], summary["closed"]) == (2, [], [], None)
    assert summary["waiting_since"] is not None
    refused = await api.call("GET", "/api/chats?view=summary", customer(7))
    assert error_of(refused) == (403, "not_allowed", "")
    assert error_of(await api.call("GET", "/api/chats?view=all", operator())) == (400, "malformed", "view")


async def test_an_operator_filters_by_owner_and_a_visitor_sees_only_its_own_chats(api: ApiClient) -> None:
    anns, bobs = await customers_chat(api, 7, "hi"), await customers_chat(api, 8, "hi")
    assert await uuids(api, "owner=7") == [anns]
    assert await uuids(api, "owner=8&view=summary") == [bobs]
    assert await uuids(api, "owner=9") == []
    assert await uuids(api, "owner=7", customer(7)) == [anns]
    assert error_of(await api.call("GET", "/api/chats?owner=8", customer(7))) == (403, "not_allowed", "owner")
    assert error_of(await api.call("GET", "/api/chats?owner=x", operator())) == (400, "malformed", "owner")


async def test_tags_are_set_as_a_whole_and_filter_lists(api: ApiClient) -> None:
    chat, other = await customers_chat(api, 7, "hi"), await customers_chat(api, 8, "hi")
    path = f"/api/chats/{chat}/tags"
    assert (await api.call("GET", path, operator())).json() == {"tags": []}
    answer = await api.call("PUT", path, operator(), {"tags": ["urgent", "доставка", "urgent"]})
    assert (answer.status_code, answer.json()) == (200, {"tags": ["urgent", "доставка"]})
    assert (await api.call("GET", path, operator())).json() == {"tags": ["urgent", "доставка"]}
    await api.call("PUT", f"/api/chats/{other}/tags", operator(), {"tags": ["urgent"]})
    assert await uuids(api, "tag=urgent&limit=10") == [other, chat]
    assert await uuids(api, "tag=доставка&view=summary") == [chat]
    assert (await api.call("PUT", path, operator(), {"tags": []})).json() == {"tags": []}
    assert await uuids(api, "tag=urgent") == [other]


async def test_chats_are_filtered_by_the_names_of_their_owners(api: ApiClient) -> None:
    anns = await customers_chat(api, 7, "hi", firstname="Анна")
    bobs = await customers_chat(api, 8, "hi", firstname="Bob")
    assert await uuids(api, "q=анн&view=summary") == [anns]
    assert await uuids(api, "q=BOB&limit=1") == [bobs]
    assert await uuids(api, "q=8") == [bobs]
    assert await uuids(api, "q=nobody") == []
    assert await uuids(api, "q=bob&status=closed") == []
    assert error_of(await api.call("GET", "/api/chats?q=", operator())) == (400, "malformed", "q")
    assert error_of(await api.call("GET", "/api/chats?q=bob", customer(7))) == (403, "not_allowed", "q")


@pytest.mark.parametrize("most_owners", [3, 1_000])
async def test_a_walk_along_a_common_name_shows_each_chat_once_in_order(
    most_owners: int, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.http.searching.MOST_OWNERS", most_owners)
    monkeypatch.setattr("actorchat.http.searching.MOST_READS", 2)
    anns = []
    for number in range(30):
        name = "Анна" if number % 4 < 2 else "Bob"
        chat = await customers_chat(api, 100 + number, "hi", firstname=name)
        anns += [chat] if name == "Анна" else []
    bot = await api.server.api_for(OLGA, sources=["lk"])
    shown: list[UUID] = []
    pages = [await bot.chat_page(name="анна", limit=3)]
    async with open_api(api.server.url, token=operator()) as http:
        assert await http.chat_page(name="анна", limit=3) == pages[0]
        while (cursor := pages[-1].next) is not None:
            pages.append(await http.chat_page(name="анна", limit=3, cursor=cursor))
    for page in pages:
        assert len(page.chats) <= 3
        shown += [chat.uuid for chat in page.chats]
    assert shown == anns[::-1]


@pytest.mark.parametrize(
    "tags", [[""], ["x" * 41], [" a"], ["a\n"], ["a\u202eb"], [7], None, [f"{n}" for n in range(21)]]
)
async def test_a_wrong_tag_is_refused(api: ApiClient, tags: object) -> None:
    chat = await customers_chat(api, 7, "hi")
    refused = await api.call("PUT", f"/api/chats/{chat}/tags", operator(), {"tags": tags})
    status, code, path = error_of(refused)
    assert (status, code) == (422, "malformed")
    assert path.startswith("tags")


async def test_visitors_have_nothing_to_do_with_tags(api: ApiClient) -> None:
    chat, reserved = await customers_chat(api, 7, "hi"), await customers_chat(api, 8)
    for method, body in (("GET", None), ("PUT", {"tags": ["a"]})):
        refused = await api.call(method, f"/api/chats/{chat}/tags", customer(7), body)
        assert error_of(refused) == (403, "not_allowed", "")
    assert error_of(await api.call("GET", "/api/chats?tag=a", customer(7))) == (403, "not_allowed", "")
    refused = await api.call("PUT", f"/api/chats/{reserved}/tags", operator(), {"tags": ["a"]})
    assert error_of(refused) == (409, "conflict", "")


async def test_cursor_and_before_are_the_same_place(api: ApiClient) -> None:
    chats = [await customers_chat(api, user_id, "hi") for user_id in (7, 8, 9)]
    first = (await api.call("GET", "/api/chats?view=summary&limit=2", operator())).json()
    assert [UUID(each["chat"]["uuid"]) for each in first["chats"]] == [chats[2], chats[1]]
    for name in ("cursor", "before"):
        assert await uuids(api, f"view=summary&limit=2&{name}={first['next']}") == [chats[0]]
        assert await uuids(api, f"limit=2&{name}={first['next']}") == [chats[0]]
    both = await api.call("GET", f"/api/chats?before={first['next']}&cursor={first['next']}", operator())
    assert error_of(both) == (400, "malformed", "cursor")


async def test_2000_moving_chats_are_paged_through_without_a_gap_or_a_repeat(api: ApiClient) -> None:
    chats = api.server._parts.chats
    people = [User(1_000 + n, Role.USER) for n in range(2_000)]
    made: dict[UUID, User] = {}

    async def begin(person: User) -> None:
        chat, _ = await chats.reserve_chat("lk", person)
        await chats.perform(AddMessage(chat.uuid, person, "hi"))
        made[chat.uuid] = person

    async with trio.open_nursery() as nursery:
        for person in people:
            nursery.start_soon(begin, person)

    async def write(scope: trio.CancelScope) -> None:
        """Move chats from all over the list, until cancelled."""
        order = list(made.items())
        with scope:
            for n in range(10**9):
                chat, person = order[(n * 617) % len(order)]
                await chats.perform(AddMessage(chat, person, f"{n}"))

    seen: list[str] = []
    moving, path = trio.CancelScope(), "/api/chats?view=summary&source=lk&limit=60"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, moving)
        cursor: Any = ""
        while cursor is not None:
            answer = await api.call("GET", path + (f"&cursor={cursor}" if cursor else ""), operator())
            body = answer.json()
            seen += [each["chat"]["uuid"] for each in body["chats"]]
            cursor = body["next"]
        moving.cancel()
    assert len(seen) == len(set(seen)) == len(made)
    assert {UUID(each) for each in seen} == set(made)


async def test_the_client_and_code_in_the_process_have_the_same_lists() -> None:
    settings = Settings(
        storage="memory://",
        port=0,
        secret="a-secret-for-tests-of-enough-bytes",
        limits=LimitSettings(messages_per_second=0),
    )
    async with run_server(settings) as api:
        anns, bobs = await customers_chat(api, 7, "hi"), await customers_chat(api, 8, "hi")
        bot, ann = await api.server.api_for(OLGA, sources=["lk"]), await api.server.api_for(User(7, Role.USER))
        async with open_api(api.server.url, token=operator()) as http:
            assert await http.set_tags(anns, ["b", "a"]) == ("a", "b")
            assert await bot.set_tags(bobs, ["a"]) == ("a",)
            # Any: the fields are passed by name.
            filters: list[dict[str, Any]] = [
                {},
                {"owner": 7},
                {"tag": "b"},
                {"status": ChatStatus.CLOSED},
                {"limit": 1},
            ]
            for fields in filters:
                assert await http.summary_page(**fields) == await bot.summary_page(**fields)
                assert await http.chat_page(**fields) == await bot.chat_page(**fields)
            page = await http.summary_page(limit=1)
            assert [each.chat.uuid for each in page.chats] == [bobs]
            following = await bot.summary_page(limit=1, cursor=page.next)
            assert [(each.chat.uuid, each.tags, each.unread) for each in following.chats] == [(anns, ("a", "b"), 1)]
            with pytest.raises(ApiError, match="tags"):
                await http.set_tags(anns, [""])
        for call in (bot.set_tags(anns, [""]), ann.summary_page(), ann.set_tags(anns, []), ann.chat_page(owner=8)):
            with pytest.raises(Exception, match=r"malformed|not_allowed"):
                await call
        assert [each.uuid for each in (await ann.chat_page(owner=7)).chats] == [anns]
