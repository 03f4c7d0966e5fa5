"""Routes for widgets and consoles: configuration, saved replies, settings and visitors."""

from typing import Any
from uuid import UUID

import pytest
import trio

from actorchat.chat.accounts import Rights
from actorchat.client import open_api
from actorchat.client.errors import ApiError
from actorchat.protocol import PageContext, Role, User, WidgetConfig
from actorchat.server.auth import Tokens
from actorchat.server.settings import LimitSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, customer, error_of, operator, run_server

CONFIG: dict[str, Any] = {
    "title": "Магазин",
    "greeting": "How can we help?",
    "questions": ["Where is my order?", "How do I return it?"],
    "accent": "#0b6e7f",
    "privacy_url": "https://shop.example/privacy",
    "languages": ["en", "ru-RU"],
    "answer_seconds": 120,
}


def with_rights(rights: Rights, user_id: int = 1, sources: tuple[str, ...] = ("lk",)) -> str:
    # Some are issued when the module is imported, long before the last test runs.
    return Tokens(SECRET).issue(User(user_id, Role.OPERATOR, firstname="Olga"), sources, 36_000, rights=rights)


ADMIN, SUPERVISOR, PLAIN = (with_rights(rights) for rights in (Rights.ADMIN, Rights.SUPERVISOR, Rights.OPERATOR))


async def test_anybody_may_read_what_a_widget_shows(api: ApiClient) -> None:
    answer = await api.call("GET", "/api/sources/lk/widget", headers={"Origin": "https://shop.example"})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "public, max-age=2"
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    body = answer.json()
    assert list(body) == ["source", "config", "online", "team", "text_length", "files"]
    assert (body["source"], body["online"], body["team"], body["text_length"]) == ("lk", False, [], 4000)
    assert body["files"] == {"size": 20_971_520, "number": 10, "types": ["audio", "file", "image", "video"]}
    assert body["config"]["title"] == ""
    foreign = await api.call("GET", "/api/sources/lk/widget", headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert error_of(await api.call("GET", "/api/sources/No!/widget")) == (404, "not_found", "source")


async def test_an_operator_who_signs_in_is_soon_online_for_visitors(api: ApiClient) -> None:
    answer = await api.call("GET", "/api/sources/lk/widget")
    assert not answer.json()["online"]
    async with api.socket("/ws/operators", PLAIN):
        for _ in range(20):  # half a second each: far less than the 30 s for which other answers are kept
            await trio.sleep(0.5)
            answer = await api.call("GET", "/api/sources/lk/widget")
            if answer.json()["online"]:
                break
    assert answer.json()["online"]
    assert answer.headers["cache-control"] == "public, max-age=30"


async def test_an_address_that_asks_too_often_for_widgets_has_to_wait() -> None:
    limits = LimitSettings(visitors_per_minute=0.5)
    async with run_server(Settings(storage="memory://", port=0, secret=SECRET, limits=limits)) as api:
        answers = [await api.call("GET", "/api/sources/lk/widget") for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert error_of(answers[-1]) == (429, "rate_limited", "")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 12
        # Loading widgets keeps nobody from writing.
        await api.visit()


async def test_an_administrator_configures_a_widget_and_everybody_sees_it_at_once(api: ApiClient) -> None:
    await api.call("GET", "/api/sources/lk/widget")
    answer = await api.call("PUT", "/api/sources/lk/widget", ADMIN, CONFIG)
    assert answer.status_code == 200, answer.text
    assert answer.json()["config"] == CONFIG
    assert answer.headers["cache-control"] == "no-store"
    shown = (await api.call("GET", "/api/sources/lk/widget")).json()
    assert shown["config"] == CONFIG
    assert shown["team"] == [{"name": "Olga", "avatar": "", "online": False}]
    other = (await api.call("GET", "/api/sources/shop/widget")).json()
    assert other["config"]["title"] == ""
    # What is not given is reset.
    reset = await api.call("PUT", "/api/sources/lk/widget", ADMIN, {"title": "Shop"})
    assert (reset.json()["config"]["title"], reset.json()["config"]["accent"]) == ("Shop", "")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"title": "x" * 81}, "title"),
        ({"accent": "red"}, "accent"),
        ({"accent": "#0b6e7f\n"}, "accent"),
        ({"questions": ["a"] * 7}, "questions"),
        ({"questions": [""]}, "questions[0]"),
        ({"privacy_url": "javascript:alert(1)"}, "privacy_url"),
        ({"languages": ["english language"]}, "languages[0]"),
        ({"answer_seconds": 0}, "answer_seconds"),
        ({"greeting": 7}, "greeting"),
    ],
)
async def test_a_wrong_configuration_is_refused(api: ApiClient, change: dict[str, Any], path: str) -> None:
    refused = await api.call("PUT", "/api/sources/lk/widget", ADMIN, {**CONFIG, **change})
    assert error_of(refused) == (422, "malformed", path)
    assert (await api.call("GET", "/api/sources/lk/widget")).json()["config"]["title"] == ""


async def test_only_administrators_of_the_source_configure_it(api: ApiClient) -> None:
    for token, path in (
        (customer(7), ""),
        (PLAIN, ""),
        (SUPERVISOR, ""),
        (with_rights(Rights.ADMIN, 2, ("shop",)), "source"),
    ):
        refused = await api.call("PUT", "/api/sources/lk/widget", token, CONFIG)
        assert error_of(refused) == (403, "not_allowed", path)
    assert (await api.call("PUT", "/api/sources/lk/widget", json=CONFIG)).status_code == 401


async def test_saved_replies_are_personal_or_of_a_source(api: ApiClient) -> None:
    mine = await api.call("POST", "/api/replies", PLAIN, {"title": "Hi", "text": "Hello, {name}!", "shortcut": "hi"})
    assert mine.status_code == 201
    assert mine.json() == {
        "id": mine.json()["id"],
        "source": None,
        "title": "Hi",
        "text": "Hello, {name}!",
        "shortcut": "hi",
    }
    refused = await api.call("POST", "/api/replies", PLAIN, {"title": "All", "text": "x", "source": "lk"})
    assert error_of(refused) == (403, "not_allowed", "")
    shared = await api.call("POST", "/api/replies", SUPERVISOR, {"title": "All", "text": "x", "source": "lk"})
    assert shared.status_code == 201
    others = operator(2)
    assert [each["title"] for each in (await api.call("GET", "/api/replies", PLAIN)).json()] == ["All", "Hi"]
    assert [each["title"] for each in (await api.call("GET", "/api/replies", others)).json()] == ["All"]
    assert (await api.call("GET", "/api/replies", operator(3, ["shop"]))).json() == []

    one, all_ = f"/api/replies/{mine.json()['id']}", f"/api/replies/{shared.json()['id']}"
    changed = await api.call("PATCH", one, PLAIN, {"text": "Hey"})
    assert (changed.json()["title"], changed.json()["text"]) == ("Hi", "Hey")
    assert error_of(await api.call("PATCH", one, others, {"text": "no"})) == (404, "not_found", "")
    assert error_of(await api.call("PATCH", all_, others, {"text": "no"})) == (403, "not_allowed", "")
    assert error_of(await api.call("DELETE", all_, others)) == (403, "not_allowed", "")
    for path, token in ((one, PLAIN), (all_, SUPERVISOR)):
        assert (await api.call("DELETE", path, token)).status_code == 204
        assert error_of(await api.call("DELETE", path, token)) == (404, "not_found", "")
    assert (await api.call("GET", "/api/replies", PLAIN)).json() == []
    for body in (
        {"title": "", "text": "x"},
        {"title": "x", "text": ""},
        {"title": "x", "text": "y", "shortcut": "a b"},
    ):
        assert (await api.call("POST", "/api/replies", PLAIN, body)).status_code == 422
    assert error_of(await api.call("GET", "/api/replies", customer(7))) == (403, "not_allowed", "")


async def test_changes_of_one_reply_at_the_same_time_are_all_stored(api: ApiClient) -> None:
    made = await api.call("POST", "/api/replies", PLAIN, {"title": "Hi", "text": "Hello"})
    path = f"/api/replies/{made.json()['id']}"
    async with trio.open_nursery() as nursery:
        for change in ({"title": "A"}, {"text": "B"}, {"shortcut": "c"}):
            nursery.start_soon(api.call, "PATCH", path, PLAIN, change)
    [reply] = (await api.call("GET", "/api/replies", PLAIN)).json()
    assert (reply["title"], reply["text"], reply["shortcut"]) == ("A", "B", "c")


async def test_settings_are_merged_and_belong_to_one_operator(api: ApiClient) -> None:
    path = "/api/operators/me/settings"
    assert (await api.call("GET", path, PLAIN)).json() == {}
    await api.call("PATCH", path, PLAIN, {"sound": True, "theme": {"dark": True}})
    answer = await api.call("PATCH", path, PLAIN, {"sound": None, "order": ["a"]})
    assert answer.json() == {"theme": {"dark": True}, "order": ["a"]}
    assert (await api.call("GET", path, PLAIN)).json() == answer.json()
    assert (await api.call("GET", path, operator(2))).json() == {}
    assert error_of(await api.call("PATCH", path, PLAIN, {"x": "y" * 17_000})) == (422, "too_long", "text")
    assert (await api.call("GET", path, PLAIN)).json() == answer.json()
    assert error_of(await api.call("PATCH", path, PLAIN, [1])) == (422, "malformed", "")
    answer = await api.http.patch(path, content=rb'{"x": "\ud800"}', headers={"Authorization": f"Bearer {PLAIN}"})
    assert error_of(answer) == (422, "malformed", "")
    assert error_of(await api.call("GET", path, customer(7))) == (403, "not_allowed", "")


async def test_operators_see_where_a_visitor_came_from(api: ApiClient) -> None:
    context = {
        "url": "https://shop.example/cart?session=secret",
        "title": "Cart",
        "referrer": "https://search.example/?q=shoes",
        "language": "de-AT",
        "timezone": "Europe/Vienna",
    }
    answer = await api.call("POST", "/api/visitors", json={"source": "lk", "context": context})
    assert answer.status_code == 201
    visitor, chat = answer.json()["token"], UUID(answer.json()["chat"]["uuid"])
    shown = (await api.call("GET", f"/api/chats/{chat}/visitor", operator())).json()
    assert shown["user"] == answer.json()["user"]
    assert (shown["language"], shown["timezone"]) == ("de-AT", "Europe/Vienna")
    [page] = shown["pages"]
    assert (page["url"], page["title"], page["referrer"]) == (
        "https://shop.example/cart",
        "Cart",
        "https://search.example/",
    )
    assert error_of(await api.call("GET", f"/api/chats/{chat}/visitor", visitor)) == (403, "not_allowed", "")
    foreign = await api.call("GET", f"/api/chats/{chat}/visitor", operator(2, ["shop"]))
    assert error_of(foreign) == (403, "not_allowed", "")
    for wrong in ({"timezone": "a b"}, {"url": 7}, {"language": "<b>"}, "x"):
        refused = await api.call("POST", "/api/visitors", json={"source": "lk", "context": wrong})
        assert error_of(refused)[:2] == (422, "malformed")


async def test_only_supervisors_of_the_source_see_the_network_address_of_a_visitor(api: ApiClient) -> None:
    context = {"url": "https://shop.example/cart"}
    answer = await api.call("POST", "/api/visitors", json={"source": "lk", "context": context})
    path = f"/api/chats/{answer.json()['chat']['uuid']}/visitor"
    for token, address in ((PLAIN, None), (SUPERVISOR, "127.0.0.1"), (ADMIN, "127.0.0.1")):
        assert (await api.call("GET", path, token)).json()["address"] == address


async def test_the_client_and_code_in_the_process_do_the_same() -> None:
    async with run_server() as api:
        olga = User(1, Role.OPERATOR, firstname="Olga")
        bot = await api.server.api_for(olga, sources=["lk"], rights=Rights.ADMIN)
        async with (
            open_api(api.server.url, token=ADMIN) as http,
            open_api(api.server.url) as guest,
        ):
            visit = await guest.visit("lk", context=PageContext(url="https://shop.example/"))
            assert [page.url for page in (await http.visitor(visit.chat.uuid)).pages] == ["https://shop.example/"]
            assert await bot.visitor(visit.chat.uuid) == await http.visitor(visit.chat.uuid)
            config = WidgetConfig(title="Shop", questions=("Why?",))
            assert (await http.set_widget("lk", config)).config == config
            assert await bot.widget("lk") == await guest.widget("lk")
            assert (await bot.set_widget("lk", WidgetConfig())).config == WidgetConfig()
            reply = await http.add_reply("Hi", "Hello", source="lk")
            own = await bot.add_reply("Bye", "Good bye", shortcut="bye")
            assert await bot.replies() == await http.replies() == (own, reply)
            assert (await http.change_reply(own.id, text="Bye!")).text == "Bye!"
            assert (await bot.change_reply(own.id, title="End")).text == "Bye!"
            await http.delete_reply(own.id)
            await bot.delete_reply(reply.id)
            assert await http.replies() == ()
            assert await bot.change_settings({"a": 1}) == await http.settings() == {"a": 1}
            assert await http.change_settings({"a": None}) == await bot.settings() == {}
            with pytest.raises(ApiError, match="no source"):
                await guest.widget("No!")
        for call in (
            bot.set_widget("lk", WidgetConfig(accent="red")),
            bot.add_reply("", "x"),
            bot.widget("No!"),
            bot.change_reply(UUID(int=1), text="x"),
            bot.change_reply(UUID(int=1), text=""),
            bot.add_reply("x", "y", source="shop"),
        ):
            with pytest.raises(Exception, match=r"malformed|not_found|not_allowed"):
                await call
