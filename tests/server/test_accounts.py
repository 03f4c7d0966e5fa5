"""Operators' accounts over HTTP and live sockets: signing in, renewing, signing out, disabling."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection

from actorchat.chat.accounts import ACCOUNT_IDS, Rights
from actorchat.protocol import Role, User
from actorchat.server.account_administration import AccountAction, AccountAnswer, AccountRequest
from actorchat.server.accounts import ROTATION_GRACE
from actorchat.server.environment import Environment
from actorchat.server.passwords import hash_password
from actorchat.server.serving import administer_accounts
from actorchat.server.settings import AccountSettings, LimitSettings, Settings
from actorchat.web import Assets
from tests.server.server_under_test import SECRET, ApiClient, error_of, operator, run_server

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)


@attrs.define
class Clock:
    """The real time, plus what a test adds."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


def settings_in(folder: Path, storage: str, **changes: Any) -> Settings:  # Any: fields of the settings
    settings = Settings(
        storage="memory://" if storage == "memory" else f"sqlite:///{folder}/chat.db",
        data=folder,
        port=0,
        secret=SECRET,
        limits=LimitSettings(messages_per_second=0),
    )
    return attrs.evolve(settings, **changes)


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[ApiClient]:
    async with run_server(settings_in(tmp_path, request.param), Environment(wall=clock)) as api:
        await add(api)
        yield api


async def add(
    api: ApiClient, login: str = "Anna", rights: Rights = Rights.OPERATOR, sources: tuple[str, ...] = ("lk",)
) -> AccountAnswer:
    request = AccountRequest(action=AccountAction.ADD, login=login, password=HASH, rights=rights, sources=sources)
    answer = await administer_accounts(api.server, request)
    assert answer.refusal is None, answer.refusal
    return answer


async def change(api: ApiClient, login: str = "anna", **changes: Any) -> None:  # Any: fields of the request
    request = attrs.evolve(AccountRequest(action=AccountAction.CHANGE, login=login), **changes)
    answer = await administer_accounts(api.server, request)
    assert answer.refusal is None, answer.refusal


async def sign_in(api: ApiClient, login: str = "anna", password: str = PASSWORD) -> httpx.Response:
    # The client would keep the cookie and send it by itself.
    api.http.cookies.clear()
    return await api.call("POST", "/api/login", json={"login": login, "password": password})


def cookie_of(answer: httpx.Response) -> str:
    cookie = SimpleCookie(answer.headers["set-cookie"])["actorchat_session"]
    assert (cookie["path"], cookie["samesite"], bool(cookie["httponly"])) == ("/api/token", "strict", True)
    return cookie.value


async def renew(api: ApiClient, cookie: str | None, **headers: str) -> httpx.Response:
    api.http.cookies.clear()
    cookies = {} if cookie is None else {"Cookie": f"actorchat_session={cookie}"}
    return await api.call("POST", "/api/token", headers={**cookies, **headers})


async def works(api: ApiClient, token: str) -> bool:
    status = (await api.call("GET", "/api/operators/me", token)).status_code
    assert status in (200, 401)
    return status == 200


async def test_an_operator_signs_in_and_sees_the_account(api: ApiClient) -> None:
    answer = await sign_in(api)
    assert answer.status_code == 200
    body = answer.json()
    assert body["expires_in"] in (899, 900)
    assert body["user"]["firstname"] == "Anna"
    me = (await api.call("GET", "/api/operators/me", body["token"])).json()
    assert me.pop("user")["id"] == ACCOUNT_IDS + 1
    assert me == {
        "login": "anna",
        "rights": "operator",
        "sources": ["lk"],
        "capacity": 0,
        "away": False,
        "settings": {},
    }
    await api.call("PATCH", "/api/operators/me/settings", body["token"], {"sound": True})
    assert (await api.call("GET", "/api/operators/me", body["token"])).json()["settings"] == {"sound": True}
    assert (await api.call("GET", "/api/chats", body["token"])).status_code == 200


@pytest.mark.parametrize("login", ["ANNA", "  anna ", "\uff41nna"])
async def test_a_login_matches_in_every_case_and_width(api: ApiClient, login: str) -> None:
    assert (await sign_in(api, login)).status_code == 200


@pytest.mark.parametrize(
    ("login", "password"), [("anna", "wrong horse"), ("bob", PASSWORD), ("", PASSWORD), ("a b", "")]
)
async def test_a_wrong_login_or_password_is_refused_in_the_same_words(
    api: ApiClient, login: str, password: str
) -> None:
    answer = await sign_in(api, login, password)
    assert error_of(answer) == (401, "not_authenticated", "")
    assert answer.json()["error"]["detail"] == "the login or the password is wrong"
    assert "set-cookie" not in answer.headers


async def test_an_account_without_a_password_accepts_none(api: ApiClient) -> None:
    await administer_accounts(api.server, AccountRequest(action=AccountAction.ADD, login="robot", sources=("lk",)))
    assert error_of(await sign_in(api, "robot", "")) == (401, "not_authenticated", "")


async def test_two_accounts_cannot_have_the_same_login(api: ApiClient) -> None:
    answer = await administer_accounts(api.server, AccountRequest(action=AccountAction.ADD, login="ANNA"))
    assert answer.refusal == "there is already an account with the login anna"


async def test_a_refresh_token_is_exchanged_for_a_new_one_and_an_access_token(api: ApiClient, clock: Clock) -> None:
    first = cookie_of(await sign_in(api))
    clock.ahead += 600
    answer = await renew(api, first)
    assert answer.status_code == 200
    second = cookie_of(answer)
    assert second != first
    assert await works(api, answer.json()["token"])
    clock.ahead += 600
    assert (await renew(api, second)).status_code == 200


async def test_an_access_token_of_a_sign_in_lasts_fifteen_minutes(api: ApiClient, clock: Clock) -> None:
    token = (await sign_in(api)).json()["token"]
    clock.ahead += 890
    assert await works(api, token)
    clock.ahead += 20
    assert not await works(api, token)


async def test_a_refresh_token_that_was_replaced_long_ago_ends_the_sign_in(api: ApiClient, clock: Clock) -> None:
    stolen = cookie_of(await sign_in(api))
    current = cookie_of(await renew(api, stolen))
    clock.ahead += ROTATION_GRACE + 1
    assert error_of(await renew(api, stolen)) == (401, "not_authenticated", "")
    assert error_of(await renew(api, current)) == (401, "not_authenticated", "")
    assert (await sign_in(api)).status_code == 200


async def test_two_tabs_may_exchange_the_same_refresh_token_at_once(api: ApiClient) -> None:
    shared = cookie_of(await sign_in(api))
    cookies = []
    for _ in range(2):
        answer = await renew(api, shared)
        assert answer.status_code == 200
        cookies.append(cookie_of(answer))
    assert cookies[0] == cookies[1]
    assert (await renew(api, cookies[0])).status_code == 200


async def test_a_forged_refresh_token_is_refused_and_the_cookie_removed(api: ApiClient) -> None:
    session, _, tag = cookie_of(await sign_in(api)).split(".")
    for forged in (f"{session}.1.{tag}", f"{session}.0.{'A' * 43}", "nonsense", None):
        answer = await renew(api, forged)
        assert error_of(answer) == (401, "not_authenticated", "")
        assert "Max-Age=0" in answer.headers["set-cookie"]


async def test_pages_of_other_origins_cannot_renew_a_sign_in(api: ApiClient) -> None:
    cookie = cookie_of(await sign_in(api))
    answer = await renew(api, cookie, Origin="https://shop.example")
    assert error_of(answer) == (403, "not_allowed", "")
    assert (await renew(api, cookie, Origin=str(api.http.base_url))).status_code == 200


async def test_a_sign_in_ends_at_its_maximum_age_however_often_it_is_renewed(tmp_path: Path, clock: Clock) -> None:
    settings = settings_in(tmp_path, "memory", accounts=AccountSettings(session_age=3600))
    async with run_server(settings, Environment(wall=clock)) as api:
        await add(api)
        answer = await sign_in(api)
        for _ in range(3):
            clock.ahead += 1100
            answer = await renew(api, cookie_of(answer))
        token = answer.json()["token"]
        assert answer.json()["expires_in"] < 310
        clock.ahead += 310
        assert error_of(await renew(api, cookie_of(answer))) == (401, "not_authenticated", "")
        assert not await works(api, token)


async def test_signing_out_closes_every_socket_and_ends_all_tokens_of_that_person(api: ApiClient) -> None:
    _, chat = await api.talk()
    first, second = await sign_in(api), await sign_in(api)
    token, other = first.json()["token"], second.json()["token"]
    colleague = operator(7)
    async with (
        api.socket("/ws/operators", token) as feed,
        api.socket(f"/ws/chats/{chat}", other) as room,
        api.socket("/ws/operators", colleague) as not_affected,
    ):
        answer = await api.call("POST", "/api/sign-out", token)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "Max-Age=0" in answer.headers["set-cookie"]
        for socket in (feed, room):
            assert await close_code(socket) == 4410
        assert not_affected.closed is None
    for ended in (token, other):
        assert not await works(api, ended)
        with pytest.raises(ConnectionRejected) as refused:
            async with api.socket("/ws/operators", ended):
                pass
        assert refused.value.status_code == 401
    assert error_of(await renew(api, cookie_of(first))) == (401, "not_authenticated", "")
    assert await works(api, (await sign_in(api)).json()["token"])


async def close_code(socket: WebSocketConnection) -> int:
    """Read until the server closes, and return its code."""
    with suppress(ConnectionClosed):
        while True:
            await socket.get_message()
    assert socket.closed is not None
    return int(socket.closed.code)


async def test_a_visitor_signs_out_and_the_token_is_worthless(api: ApiClient) -> None:
    visitor, chat = await api.talk()
    stranger, _ = await api.visit()
    async with api.socket(f"/ws/chats/{chat}", visitor) as room:
        assert (await api.call("POST", "/api/sign-out", visitor)).status_code == 204
        assert await close_code(room) == 4410
    assert error_of(await api.write(visitor, chat)) == (401, "not_authenticated", "")
    assert error_of(await api.call("POST", "/api/visitors", visitor, {"source": "lk"}))[0] == 401
    assert (await api.call("GET", "/api/chats", stranger)).status_code == 200


@pytest.mark.parametrize("storage", ["sqlite"])
async def test_a_sign_out_survives_a_restart(tmp_path: Path, clock: Clock, storage: str) -> None:
    async with run_server(settings_in(tmp_path, storage), Environment(wall=clock)) as api:
        await add(api)
        signed_in = await sign_in(api)
        visitor, chat = await api.visit()
        script = operator(7)
        assert await works(api, script)
        for token in (visitor, script):
            assert (await api.call("POST", "/api/sign-out", token)).status_code == 204
    clock.ahead += 10
    async with run_server(settings_in(tmp_path, storage), Environment(wall=clock)) as api:
        assert error_of(await api.call("GET", f"/api/chats/{chat}", visitor))[0] == 401
        assert not await works(api, script)
        # A sign-in that was not ended survives, too.
        assert (await renew(api, cookie_of(signed_in))).status_code == 200


async def test_a_disabled_account_ends_its_sockets_and_tokens_until_it_is_enabled(api: ApiClient) -> None:
    signed_in = await sign_in(api)
    token, script = signed_in.json()["token"], operator(ACCOUNT_IDS + 1)
    async with api.socket("/ws/operators", token) as feed:
        await change(api, disabled=True)
        assert await close_code(feed) == 4410
    assert not await works(api, token)
    assert not await works(api, script), "no other token of that operator works either"
    assert not await works(api, operator(ACCOUNT_IDS + 1)), "not even one that is issued now"
    assert error_of(await renew(api, cookie_of(signed_in)))[0] == 401
    assert error_of(await sign_in(api)) == (403, "not_allowed", "")
    assert error_of(await sign_in(api, password="wrong horse"))[0] == 401
    await change(api, disabled=False)
    assert await works(api, (await sign_in(api)).json()["token"])
    assert not await works(api, token)


async def test_a_new_password_ends_the_sign_ins_with_the_old_one(api: ApiClient) -> None:
    token = (await sign_in(api)).json()["token"]
    async with api.socket("/ws/operators", token) as feed:
        await change(api, password=hash_password("battery staple"))
        assert await close_code(feed) == 4410
    assert not await works(api, token)
    assert error_of(await sign_in(api))[0] == 401
    assert (await sign_in(api, password="battery staple")).status_code == 200


async def test_attempts_to_sign_in_are_limited_per_login_and_successful_ones_are_free(
    tmp_path: Path, clock: Clock
) -> None:
    limits = AccountSettings(attempts_per_minute=2, address_attempts_per_minute=0)
    async with run_server(settings_in(tmp_path, "memory", accounts=limits), Environment(wall=clock)) as api:
        await add(api)
        for _ in range(4):
            assert (await sign_in(api)).status_code == 200
        for _ in range(2):
            assert (await sign_in(api, password="wrong horse")).status_code == 401
        answer = await sign_in(api)
        assert error_of(answer) == (429, "rate_limited", "")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert (await sign_in(api, "bob")).status_code == 401


async def test_attempts_to_sign_in_are_limited_per_address(tmp_path: Path, clock: Clock) -> None:
    limits = AccountSettings(attempts_per_minute=0, address_attempts_per_minute=3)
    async with run_server(settings_in(tmp_path, "memory", accounts=limits), Environment(wall=clock)) as api:
        await add(api)
        for number in range(3):
            assert (await sign_in(api, f"guess-{number}")).status_code == 401
        assert error_of(await sign_in(api)) == (429, "rate_limited", "")
        assert error_of(await api.call("POST", "/api/login/once", json={"code": "x"})) == (429, "rate_limited", "")


async def test_a_one_time_code_signs_in_as_a_new_administrator_once(api: ApiClient, clock: Clock) -> None:
    link = AccountRequest(action=AccountAction.LINK)
    code = (await administer_accounts(api.server, link)).code
    assert code is not None
    await api.talk()
    answer = await api.call("POST", "/api/login/once", json={"code": code})
    assert answer.status_code == 200
    me = (await api.call("GET", "/api/operators/me", answer.json()["token"])).json()
    assert (me["login"], me["rights"], me["sources"]) == ("admin", "admin", ["lk"])
    assert error_of(await api.call("POST", "/api/login/once", json={"code": code}))[0] == 401
    late = (await administer_accounts(api.server, link)).code
    clock.ahead += 901
    assert error_of(await api.call("POST", "/api/login/once", json={"code": late}))[0] == 401
    # The next code uses the account that exists.
    again = (await administer_accounts(api.server, link)).code
    assert (await api.call("POST", "/api/login/once", json={"code": again})).json()["user"] == answer.json()["user"]


async def test_the_link_to_the_console_signs_in_once_if_there_is_a_console(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.server, "_parts", attrs.evolve(api.server._parts, assets=Assets({})))
    assert api.server.console_link() is None
    monkeypatch.setattr(
        api.server, "_parts", attrs.evolve(api.server._parts, assets=Assets({"console.html": b"<!doctype html>"}))
    )
    link = api.server.console_link()
    assert link is not None
    page, _, code = link.partition("#sign-in=")
    assert page == f"{api.server.url}/console"
    codes = [code[:-1] + "A", "é", code, code, f"{code[:8]}*{code[8:]}"]
    statuses = [(await api.call("POST", "/api/login/once", json={"code": each})).status_code for each in codes]
    assert statuses == [401, 401, 200, 401, 401]


async def test_rights_and_sources_change_at_once_for_sign_ins(api: ApiClient) -> None:
    token = (await sign_in(api)).json()["token"]
    await change(api, rights=Rights.SUPERVISOR, sources=("shop",))
    me = (await api.call("GET", "/api/operators/me", token)).json()
    assert (me["rights"], me["sources"]) == ("supervisor", [])
    me = (await api.call("GET", "/api/operators/me", (await sign_in(api)).json()["token"])).json()
    assert me["sources"] == ["shop"]


async def test_an_administrator_sees_the_sources_of_other_accounts_before_a_visitor_writes_there(
    api: ApiClient,
) -> None:
    await add(api, "Bea", sources=("shop",))
    await add(api, "Chief", Rights.ADMIN, sources=())
    token = (await sign_in(api, "chief")).json()["token"]
    assert (await api.call("GET", "/api/operators/me", token)).json()["sources"] == ["lk", "shop"]
    assert (await api.call("PUT", "/api/sources/shop/widget", token, {"title": "Shop"})).status_code == 200


async def test_the_rights_of_a_token_without_a_sign_in_are_those_it_names(api: ApiClient) -> None:
    token = api.server.issue_token(User(7, Role.OPERATOR), sources=["lk"], rights=Rights.ADMIN)
    assert (await api.call("GET", "/api/operators/me", token)).json()["rights"] == "admin"
    assert (await api.call("GET", "/api/operators/me", operator(8))).json()["rights"] == "operator"


async def test_an_operator_of_an_account_is_listed_before_the_first_sign_in(api: ApiClient) -> None:
    listed = (await api.call("GET", "/api/operators", operator(7))).json()
    assert ACCOUNT_IDS + 1 in [each["user"]["id"] for each in listed]
    await change(api, disabled=True)
    listed = (await api.call("GET", "/api/operators", operator(7))).json()
    assert ACCOUNT_IDS + 1 not in [each["user"]["id"] for each in listed]


async def test_visitors_have_no_operators_profile(api: ApiClient) -> None:
    visitor, _ = await api.visit()
    assert error_of(await api.call("GET", "/api/operators/me", visitor)) == (403, "not_allowed", "")
    assert error_of(await api.call("POST", "/api/operators/me/away", visitor, {"away": True}))[0] == 403


async def test_an_operator_who_is_away_is_not_online_until_back(api: ApiClient) -> None:
    token = (await sign_in(api)).json()["token"]

    async def online() -> bool:
        listed = (await api.call("GET", "/api/operators", operator(7))).json()
        return bool(next(each for each in listed if each["user"]["id"] == ACCOUNT_IDS + 1)["is_online"])

    async with api.socket("/ws/operators", token):
        while not await online():  # noqa: ASYNC110 - the API has no event for it
            await trio.sleep(0.01)
        me = (await api.call("POST", "/api/operators/me/away", token, {"away": True})).json()
        assert me["away"] is True
        assert not await online()
        await api.call("POST", "/api/operators/me/away", token, {"away": False})
        assert await online()
