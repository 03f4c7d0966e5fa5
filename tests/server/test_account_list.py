"""Administrators see and change the accounts of operators over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from actorchat.chat.accounts import Rights
from actorchat.protocol import Role, User
from actorchat.server.account_administration import AccountAction, AccountRequest
from actorchat.server.environment import Environment
from actorchat.server.serving import administer_accounts
from tests.server.server_under_test import SECRET, ApiClient, customer, error_of, operator, run_server
from tests.server.test_accounts import HASH, PASSWORD, Clock, add, close_code, settings_in, sign_in, works


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[ApiClient]:
    settings = settings_in(tmp_path, request.param, sources=("lk", "shop"))
    async with run_server(settings, Environment(wall=clock)) as api:
        await add(api, "chief", Rights.ADMIN, ())
        yield api


async def token_of(api: ApiClient, login: str, password: str = PASSWORD) -> str:
    answer = await sign_in(api, login, password)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


async def new_account(api: ApiClient, token: str, **fields: Any) -> tuple[dict[str, Any], str]:  # Any: JSON
    answer = await api.call("POST", "/api/accounts", token, {"login": "anna", "sources": ["lk"], **fields})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    return body["account"], body["password"]


async def first_sign_in(api: ApiClient, login: str, password: str, new: str = PASSWORD) -> httpx.Response:
    api.http.cookies.clear()
    return await api.call("POST", "/api/login", json={"login": login, "password": password, "new_password": new})


async def accounts(api: ApiClient, token: str) -> dict[str, dict[str, Any]]:  # Any: JSON
    answer = await api.call("GET", "/api/accounts", token)
    assert answer.status_code == 200, answer.text
    return {account["login"]: account for account in answer.json()}


async def change(api: ApiClient, token: str, account: int, **fields: Any) -> httpx.Response:  # Any: JSON
    return await api.call("PATCH", f"/api/accounts/{account}", token, fields)


async def records(api: ApiClient, token: str) -> list[tuple[str, int | None, str]]:
    """The action, the person and the detail of each record, the oldest first."""
    answer = await api.call("GET", "/api/audit", token)
    return [(entry["action"], entry["id"], entry["detail"]) for entry in reversed(answer.json())]


async def test_a_new_operator_replaces_the_one_time_password_and_is_then_listed_as_signed_in(
    api: ApiClient, clock: Clock
) -> None:
    admin = await token_of(api, "chief")
    account, password = await new_account(api, admin, firstname="Anna", lastname="Li")
    assert (account["password"], account["last_sign_in"], account["user"]["lastname"]) == ("one_time", None, "Li")
    assert (await accounts(api, admin))["anna"] == account
    assert error_of(await sign_in(api, "anna", password)) == (403, "new_password_needed", "new_password")
    clock.ahead += 60
    signed_in = await first_sign_in(api, "anna", password)
    assert signed_in.status_code == 200, signed_in.text
    assert await works(api, signed_in.json()["token"])
    assert "set-cookie" in signed_in.headers
    listed = (await accounts(api, admin))["anna"]
    assert (listed["password"], listed["created"] < listed["last_sign_in"]) == ("set", True)
    assert error_of(await first_sign_in(api, "anna", password)) == (401, "not_authenticated", "")
    assert await works(api, await token_of(api, "anna"))


@pytest.mark.parametrize("new", ["short", ""])
async def test_a_new_password_that_cannot_be_used_leaves_the_one_time_password(api: ApiClient, new: str) -> None:
    _, password = await new_account(api, await token_of(api, "chief"))
    for wrong in (new, password):
        assert error_of(await first_sign_in(api, "anna", password, wrong)) == (422, "malformed", "new_password")
    assert (await first_sign_in(api, "anna", password)).status_code == 200


async def test_a_new_password_at_sign_in_ends_all_other_sign_ins(api: ApiClient) -> None:
    older = await token_of(api, "chief")
    newer = await first_sign_in(api, "chief", PASSWORD, "another password")
    assert (await works(api, older), await works(api, newer.json()["token"])) == (False, True)
    assert error_of(await sign_in(api, "chief", PASSWORD)) == (401, "not_authenticated", "")


async def test_a_change_of_role_sources_and_name_applies_at_once_and_is_recorded(api: ApiClient) -> None:
    admin = await token_of(api, "chief")
    account, password = await new_account(api, admin)
    token = (await first_sign_in(api, "anna", password)).json()["token"]
    answer = await change(api, admin, account["id"], rights="supervisor", sources=["shop", "lk"], firstname="Ann")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["rights"], body["sources"], body["user"]["firstname"]) == ("supervisor", ["lk", "shop"], "Ann")
    assert (await api.call("GET", "/api/operators/me", token)).json()["rights"] == "supervisor"
    assert (await accounts(api, admin))["anna"]["user"]["firstname"] == "Ann"
    # The same values again change nothing.
    assert (await change(api, admin, account["id"], rights="supervisor", sources=["lk", "shop"])).json() == body
    assert await records(api, admin) == [
        ("account_added", account["id"], "role: operator; sources: lk"),
        ("account_changed", account["id"], "role: operator → supervisor; sources: lk → lk, shop; name"),
    ]


async def test_disabling_ends_sign_ins_and_sockets_until_the_account_is_enabled(api: ApiClient) -> None:
    admin = await token_of(api, "chief")
    account, password = await new_account(api, admin)
    token = (await first_sign_in(api, "anna", password)).json()["token"]
    async with api.socket("/ws/operators", token) as feed:
        assert (await change(api, admin, account["id"], disabled=True)).json()["disabled"] is True
        assert await close_code(feed) == 4410
    assert not await works(api, token)
    assert error_of(await sign_in(api)) == (403, "not_allowed", "")
    assert (await change(api, admin, account["id"], disabled=False)).json()["disabled"] is False
    assert (await sign_in(api)).status_code == 200
    assert [detail for _, _, detail in (await records(api, admin))[1:]] == ["disabled", "enabled"]


async def test_a_reset_password_ends_sign_ins_and_has_to_be_replaced(api: ApiClient) -> None:
    admin = await token_of(api, "chief")
    account, password = await new_account(api, admin)
    token = (await first_sign_in(api, "anna", password)).json()["token"]
    answer = await api.call("POST", f"/api/accounts/{account['id']}/password", admin)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    again = answer.json()["password"]
    assert again != password
    assert not await works(api, token)
    assert error_of(await sign_in(api)) == (401, "not_authenticated", "")
    assert error_of(await sign_in(api, "anna", again)) == (403, "new_password_needed", "new_password")
    assert (await first_sign_in(api, "anna", again)).status_code == 200
    # A password from the command line is no one-time password.
    request = AccountRequest(action=AccountAction.CHANGE, login="anna", password=HASH)
    await api.call("POST", f"/api/accounts/{account['id']}/password", admin)
    await administer_accounts(api.server, request)
    assert (await sign_in(api)).status_code == 200
    assert [(action, detail) for action, _, detail in (await records(api, admin))[1:]] == [("password_reset", "")] * 2


async def test_sign_out_everywhere_ends_sockets_and_tokens_but_not_the_account(api: ApiClient) -> None:
    admin = await token_of(api, "chief")
    account, password = await new_account(api, admin)
    token = (await first_sign_in(api, "anna", password)).json()["token"]
    async with api.socket("/ws/operators", token) as feed:
        answer = await api.call("POST", f"/api/accounts/{account['id']}/sign-out", admin)
        assert (answer.status_code, answer.content) == (204, b"")
        assert await close_code(feed) == 4410
    assert not await works(api, token)
    assert (await sign_in(api)).status_code == 200
    assert (await records(api, admin))[-1] == ("signed_out", account["id"], "")


async def test_nobody_disables_their_own_account_and_one_administrator_stays(api: ApiClient) -> None:
    admin = await token_of(api, "chief")
    chief = (await accounts(api, admin))["chief"]["id"]
    assert error_of(await change(api, admin, chief, disabled=True)) == (403, "not_allowed", "disabled")
    last = await change(api, admin, chief, rights="supervisor", sources=["lk"])
    assert error_of(last) == (409, "conflict", "")
    assert "last administrator" in last.json()["error"]["detail"]
    other, _ = await new_account(api, admin, login="deputy", rights="admin", sources=[])
    # A disabled administrator is none.
    assert (await change(api, admin, other["id"], disabled=True)).status_code == 200
    assert error_of(await change(api, admin, chief, rights="supervisor", sources=["lk"])) == (409, "conflict", "")
    assert (await change(api, admin, other["id"], disabled=False)).status_code == 200
    assert (await change(api, admin, chief, rights="supervisor", sources=["lk"])).status_code == 200
    assert error_of(await api.call("GET", "/api/accounts", admin)) == (403, "not_allowed", "")


async def test_two_administrators_who_demote_each_other_at_once_leave_one(api: ApiClient) -> None:
    admin = await token_of(api, "chief")
    chief = (await accounts(api, admin))["chief"]["id"]
    deputy, password = await new_account(api, admin, login="deputy", rights="admin", sources=[])
    other = (await first_sign_in(api, "deputy", password)).json()["token"]
    statuses: list[int] = []

    async def demote(token: str, account: int) -> None:
        statuses.append((await change(api, token, account, rights="operator", sources=["lk"])).status_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(demote, admin, deputy["id"])
        nursery.start_soon(demote, other, chief)
    # The second one is refused by the rule or, if it was checked later, because its caller is no administrator.
    assert min(statuses) == 200
    assert max(statuses) in (403, 409)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"login": "anna smith"}, (422, "malformed", "login")),
        ({"login": "CHIEF"}, (409, "conflict", "")),
        ({"login": ""}, (422, "malformed", "login")),
        ({"sources": []}, (422, "malformed", "sources")),
        ({"sources": ["other"]}, (404, "not_found", "source")),
        ({"sources": ["Not a name"]}, (422, "malformed", "sources[0]")),
        ({"rights": "owner"}, (422, "malformed", "rights")),
        ({"firstname": "x" * 201}, (422, "malformed", "firstname")),
        ({"firstname": "\0"}, (422, "malformed", "firstname")),
    ],
)
async def test_an_account_that_cannot_be_made_is_refused_with_the_field_at_fault(
    api: ApiClient, fields: dict[str, Any], error: tuple[int, str, str]
) -> None:
    admin = await token_of(api, "chief")
    answer = await api.call("POST", "/api/accounts", admin, {"login": "anna", "sources": ["lk"], **fields})
    assert error_of(answer) == error
    assert set(await accounts(api, admin)) == {"chief"}
    assert await records(api, admin) == []


async def test_an_operator_needs_a_source_and_an_administrator_none(api: ApiClient) -> None:
    admin = await token_of(api, "chief")
    account, _ = await new_account(api, admin)
    assert error_of(await change(api, admin, account["id"], sources=[])) == (422, "malformed", "sources")
    assert (await change(api, admin, account["id"], rights="admin", sources=[])).status_code == 200
    assert error_of(await change(api, admin, account["id"], rights="operator")) == (422, "malformed", "sources")


async def test_accounts_that_are_added_at_once_get_ids_of_their_own(api: ApiClient) -> None:
    admin = await token_of(api, "chief")
    found: list[int] = []

    async def one(login: str) -> None:
        found.append((await new_account(api, admin, login=login))[0]["id"])

    async with trio.open_nursery() as nursery:
        for login in ("a1", "a2", "a3"):
            nursery.start_soon(one, login)
    assert len(set(found)) == 3


async def test_only_administrators_see_and_change_accounts(api: ApiClient) -> None:
    supervisor = api.server.issue_token(User(9, Role.OPERATOR), sources=["lk"], rights=Rights.SUPERVISOR)
    for token in (supervisor, operator(), customer()):
        for method, path in (
            ("GET", "/api/accounts"),
            ("POST", "/api/accounts"),
            ("PATCH", "/api/accounts/1"),
            ("POST", "/api/accounts/1/password"),
            ("POST", "/api/accounts/1/sign-out"),
        ):
            assert error_of(await api.call(method, path, token, {"login": "x"})) == (403, "not_allowed", "")
    assert error_of(await api.call("GET", "/api/accounts")) == (401, "not_authenticated", "")
    issued = api.server.issue_token(User(9, Role.OPERATOR), sources=["lk"], rights=Rights.ADMIN)
    for method, path in (("PATCH", "/api/accounts/1"), ("POST", "/api/accounts/1/password")):
        assert error_of(await api.call(method, path, issued, {})) == (404, "not_found", "")


async def test_accounts_and_their_last_sign_in_survive_a_restart(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, "sqlite", secret=SECRET)
    async with run_server(settings) as api:
        await add(api, "chief", Rights.ADMIN, ())
        admin = await token_of(api, "chief")
        _, password = await new_account(api, admin)
        before = await accounts(api, admin)
    async with run_server(settings) as api:
        assert await accounts(api, admin) == before
        assert before["chief"]["last_sign_in"] is not None
        assert error_of(await sign_in(api, "anna", password)) == (403, "new_password_needed", "new_password")
