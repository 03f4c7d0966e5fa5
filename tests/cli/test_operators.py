"""The commands of `actorchat operators`, with and without a running server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from actorchat.cli import main
from actorchat.server.passwords import MIN_PASSWORD
from actorchat.server.settings import Settings
from tests.server.server_under_test import TIMEOUT, ApiClient, run_server

PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ACTORCHAT_")]:
        monkeypatch.delenv(name)


def run(*arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(main, ("operators", *arguments), prog_name="actorchat", input=given)


def add(login: str = "Anna", *arguments: str) -> Result:
    return run("add", login, "--source", "lk", *arguments, "--password-stdin", given=PASSWORD + "\n")


def listed() -> list[dict[str, object]]:
    ended = run("list", "--json")
    assert ended.exit_code == 0, ended.output
    accounts: list[dict[str, object]] = json.loads(ended.output)
    return accounts


def test_an_account_is_added_listed_and_changed_without_a_server() -> None:
    ended = add()
    assert (ended.exit_code, ended.output) == (
        0,
        "Added anna: operator, sources lk, user id 2251799813685249.\n",
    )
    assert run("edit", "ANNA", "--role", "supervisor", "--source", "shop").exit_code == 0
    assert run("disable", "anna").output == "Disabled anna, and ended its sign-ins.\n"
    [account] = listed()
    assert account["created"]
    del account["created"]
    assert account == {
        "id": 2251799813685249,
        "login": "anna",
        "rights": "supervisor",
        "sources": ["shop"],
        "disabled": True,
        "has_password": True,
        "one_time": False,
    }
    assert run("enable", "anna").exit_code == 0
    table = run("list").output.splitlines()
    assert table[0].split() == ["LOGIN", "USER", "ID", "ROLE", "SINCE", "STATE", "SOURCES"]
    assert table[1].split()[-2:] == ["active", "shop"]


def test_the_password_is_asked_for_twice() -> None:
    ended = run("add", "anna", "--source", "lk", given=f"{PASSWORD}\nother words\n{PASSWORD}\n{PASSWORD}\n")
    assert ended.exit_code == 0, ended.output
    assert "do not match" in ended.output
    assert PASSWORD not in ended.output


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a console has no session there")
def test_a_password_is_not_asked_for_without_a_terminal() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "actorchat", "operators", "add", "anna", "--source", "lk"],
        input=f"{PASSWORD}\n{PASSWORD}\n",
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "there is no terminal to ask for the password: add --password-stdin" in ended.stderr
    assert "Warning" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "given", "status", "message"),
    [
        (("add", "anna", "--source", "lk", "--password-stdin"), "short\n", 1, f"at least {MIN_PASSWORD} characters"),
        (("add", "an na", "--source", "lk", "--no-password"), "", 1, "a login must not contain spaces"),
        (("add", "", "--source", "lk", "--no-password"), "", 1, "a login must not be empty"),
        (("add", "anna", "--no-password"), "", 2, "add --source lk"),
        (("add", "anna", "--source", "Lk", "--no-password"), "", 2, "a source name has"),
        (("add", "anna", "--source", "lk", "--user-id", str(2**52), "--no-password"), "", 1, "from 0 to 2^52-1"),
        (("add", "ANNA", "--source", "lk", "--no-password"), "", 1, "already an account with the login anna"),
        (("passwd", "bob", "--password-stdin"), PASSWORD, 1, "there is no account with the login bob"),
        (("disable", "bob"), "", 1, "there is no account with the login bob"),
        (("link", "bob"), "", 1, "no server runs"),
        (("edit", "anna"), "", 2, "nothing to change"),
        (("list", "--data", "nowhere"), "", 1, "nowhere has no database"),
    ],
)
def test_a_command_that_cannot_be_carried_out_says_why(
    arguments: tuple[str, ...], given: str, status: int, message: str
) -> None:
    if "ANNA" in arguments or arguments[0] != "add":
        add()
    ended = run(*arguments, given=given)
    assert ended.exit_code == status, ended.output
    assert message in ended.output
    assert "Traceback" not in ended.output
    assert not Path("nowhere").exists()


def test_an_account_of_an_administrator_needs_no_sources() -> None:
    assert "all sources" in run("add", "chief", "--role", "admin", "--no-password").output


def test_an_account_gets_all_sources_of_the_settings_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[sources.shop]\n[sources.blog]\n")
    assert "sources blog shop," in run("add", "anna", "--no-password", "--config", "c.toml").output
    ended = run("add", "bob", "--source", "lk", "--no-password", "--config", "c.toml")
    assert (ended.exit_code, "lk is not among the sources in the settings" in ended.output) == (2, True)


async def sign_in(api: ApiClient, password: str = PASSWORD) -> int:
    answer = await api.call("POST", "/api/login", json={"login": "anna", "password": password})
    return answer.status_code


async def test_the_commands_change_the_accounts_of_a_running_server(tmp_path: Path) -> None:
    data = tmp_path / "actorchat-data"

    async def carry_out(*arguments: str, given: str = "") -> str:
        # The command runs its own event loop in the thread.
        ended = await trio.to_thread.run_sync(lambda: run(*arguments, given=given))
        assert ended.exit_code == 0, ended.output
        return ended.output

    async with run_server(Settings(data=data, port=0)) as api:
        with trio.fail_after(TIMEOUT):
            await carry_out("add", "anna", "--source", "lk", "--password-stdin", given=PASSWORD)
            assert await sign_in(api) == 200
            await carry_out("passwd", "anna", "--password-stdin", given="battery staple")
            assert (await sign_in(api), await sign_in(api, "battery staple")) == (401, 200)
            await carry_out("disable", "anna")
            assert await sign_in(api, "battery staple") == 403
            first, second = (await carry_out("link")).splitlines()
            code = first.split()[-1]
            assert second.endswith(f"/console#sign-in={code}")
            answer = await api.call("POST", "/api/login/once", json={"code": code})
            assert answer.status_code == 200
            assert "admin" in await carry_out("list")
    # What a running server has stored is there without it.
    assert [account["login"] for account in await trio.to_thread.run_sync(listed)] == ["admin", "anna"]
