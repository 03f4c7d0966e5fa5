"""Implements `actorchat operators`: administers accounts through a running server, or else in its database."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from getpass import GetPassWarning
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import attrs
import click
import trio

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail
from actorchat.cli.options import config_option, data_option
from actorchat.cli.output import echo, echo_json
from actorchat.http.source_names import is_source_name
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings, Settings
from actorchat.server.settings_loader import load_settings

if TYPE_CHECKING:
    from actorchat.server.account_administration import AccountAnswer, AccountRequest, AccountRow

__all__ = ["operators"]

F = TypeVar("F", bound=Callable[..., object])

ANSWER_SECONDS: Final = 30.0
"""How long a running server may take to answer."""

_ROLES: Final = ("operator", "supervisor", "admin")


@click.group(short_help="Add, list and change the accounts of operators.")
def operators() -> None:
    """Administer the accounts with which operators sign in to the console.

    The commands work whether or not the server runs. Only the user who runs the server can use them.
    """


def _role_option(default: str | None) -> Callable[[F], F]:
    return click.option(
        "--role",
        type=click.Choice(_ROLES),
        default=default,
        show_default=default is not None,
        help="What the account may do besides chatting.",
    )


_source_option: Callable[[F], F] = click.option(
    "--source", "sources", multiple=True, metavar="S", help="A widget source of the operator; repeatable."
)
_stdin_option: Callable[[F], F] = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of stdin instead of asking for it."
)


@operators.command(short_help="Add an account.")
@click.argument("login")
@_role_option("operator")
@_source_option
@click.option("--firstname", metavar="NAME", help="The first name that customers see.  [default: the login]")
@click.option("--lastname", metavar="NAME", help="The last name that customers see.")
@click.option("--user-id", type=int, metavar="N", help="The id of an existing operator.  [default: a new id]")
@click.option("--no-password", is_flag=True, help="No password works until `operators passwd` sets one.")
@_stdin_option
@data_option
@config_option
def add(
    login: str,
    role: str,
    sources: tuple[str, ...],
    firstname: str | None,
    lastname: str | None,
    user_id: int | None,
    no_password: bool,
    password_stdin: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    """Add an account for an operator, who signs in with LOGIN and a password.

    Without --source, the operator belongs to all sources in the settings. An administrator always sees all sources.

    \b
    Examples:
      actorchat operators add anna --source shop --firstname Anna
      actorchat operators add chief --role admin
      actorchat operators add robot --source shop --password-stdin < password.txt
    """
    settings = _settings(data, config)
    _check_sources(settings, sources)
    if not sources and not settings.sources and role != "admin":
        raise click.UsageError("an operator sees only the chats of its sources: add --source lk")
    password = None if no_password else _new_password(password_stdin)
    from actorchat.chat.accounts import Rights
    from actorchat.server.account_administration import AccountAction, AccountRequest

    request = AccountRequest(
        action=AccountAction.ADD,
        login=login,
        password=password,
        rights=Rights(role),
        sources=sources or settings.sources,
        operator_id=user_id,
        firstname=firstname,
        lastname=lastname,
    )
    [account] = _carry_out(settings, request).accounts
    echo(f"Added {account.login}: {account.rights}, {_sources_text(account)}, user id {account.id}.")


@operators.command("list", short_help="List the accounts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
@config_option
def list_accounts(as_json: bool, data: Path | None, config: Path | None) -> None:
    """List the accounts: login, user id, role, sources and state."""
    from actorchat.server.account_administration import AccountAction, AccountRequest

    accounts = _carry_out(_settings(data, config), AccountRequest(action=AccountAction.LIST)).accounts
    if as_json:
        echo_json([attrs.asdict(account) for account in accounts], indent=2)
        return
    if not accounts:
        echo("There are no accounts. Add one: actorchat operators add LOGIN --source SOURCE")
        return
    rows = [("LOGIN", "USER ID", "ROLE", "SINCE", "STATE", "SOURCES"), *map(_columns, accounts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@operators.command(short_help="Change the password of an account.")
@click.argument("login")
@_stdin_option
@data_option
@config_option
def passwd(login: str, password_stdin: bool, data: Path | None, config: Path | None) -> None:
    """Change the password of LOGIN. Whoever is signed in with the account is signed out."""
    settings = _settings(data, config)
    account = _change(settings, login, password=_new_password(password_stdin))
    echo(f"Changed the password of {account.login}, and ended its sign-ins.")


@operators.command(short_help="Disable an account.")
@click.argument("login")
@data_option
@config_option
def disable(login: str, data: Path | None, config: Path | None) -> None:
    """Disable LOGIN: its sign-ins and sockets end, and no token of this operator works until it is enabled again."""
    account = _change(_settings(data, config), login, disabled=True)
    echo(f"Disabled {account.login}, and ended its sign-ins.")


@operators.command(short_help="Enable a disabled account.")
@click.argument("login")
@data_option
@config_option
def enable(login: str, data: Path | None, config: Path | None) -> None:
    """Enable LOGIN again. The operator has to sign in anew."""
    echo(f"Enabled {_change(_settings(data, config), login, disabled=False).login}.")


@operators.command(short_help="Change the role, the sources or the name of an account.")
@click.argument("login")
@_role_option(None)
@_source_option
@click.option("--firstname", metavar="NAME", help="The first name that customers see.")
@click.option("--lastname", metavar="NAME", help="The last name that customers see.")
@data_option
@config_option
def edit(
    login: str,
    role: str | None,
    sources: tuple[str, ...],
    firstname: str | None,
    lastname: str | None,
    data: Path | None,
    config: Path | None,
) -> None:
    """Change what is given, and leave the rest. The sources given replace all sources of the account.

    New rights apply at once. Sockets that are open keep their sources for up to 15 minutes.
    """
    if role is None and not sources and firstname is None and lastname is None:
        raise click.UsageError("nothing to change: give --role, --source, --firstname or --lastname")
    settings = _settings(data, config)
    _check_sources(settings, sources)
    account = _change(settings, login, rights=role, sources=sources or None, firstname=firstname, lastname=lastname)
    echo(f"{account.login}: {account.rights}, {_sources_text(account)}, user id {account.id}.")


@operators.command(short_help="Print a code that signs in once.")
@click.argument("login", required=False)
@data_option
@config_option
def link(login: str | None, data: Path | None, config: Path | None) -> None:
    """Print a code that signs in to the console once, within 15 minutes, until the server stops.

    It signs in with the account LOGIN, by default with the first administrator's, which is created if there is none.
    The server has to run. Programs use the code with POST /api/login/once.
    """
    from actorchat.server.account_administration import AccountAction, AccountRequest

    request = AccountRequest(action=AccountAction.LINK, login=login or "")
    answer = _carry_out(_settings(data, config), request, needs_server=True)
    echo(f"This code signs in once, within 15 minutes: {answer.code}")
    echo(f"Open the console with it, at the address of your server: https://chat.example/console#sign-in={answer.code}")


def _settings(data: Path | None, config: Path | None) -> Settings:
    try:
        settings = load_settings(config, {"data": data})
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    return attrs.evolve(settings, data=settings.data or DEFAULT_DATA)


def _check_sources(settings: Settings, sources: tuple[str, ...]) -> None:
    for source in sources:
        if not is_source_name(source):
            raise click.BadParameter(
                f"{source!r}: a source name has 1 to 64 characters out of a-z, 0-9, _ and -", param_hint="--source"
            )
        if settings.sources and source not in settings.sources:
            raise click.BadParameter(
                f"{source} is not among the sources in the settings: {', '.join(settings.sources)}",
                param_hint="--source",
            )


def _new_password(from_stdin: bool) -> str:
    """Read a password and return its hash. Exits with a message if no account may have it."""
    from actorchat.server.passwords import InvalidPassword, check_password, hash_password

    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", GetPassWarning)
                password = click.prompt("Password", hide_input=True, confirmation_prompt="The password again", err=True)
        except GetPassWarning:
            raise click.UsageError("there is no terminal to ask for the password: add --password-stdin") from None
    try:
        check_password(password)
    except InvalidPassword as error:
        fail((error,), FAILED)
    return hash_password(password)


def _change(settings: Settings, login: str, **changes: Any) -> AccountRow:  # Any: the fields of AccountRequest
    from actorchat.chat.accounts import Rights
    from actorchat.server.account_administration import AccountAction, AccountRequest

    if changes.get("rights") is not None:
        changes["rights"] = Rights(changes["rights"])
    request = AccountRequest(action=AccountAction.CHANGE, login=login, **changes)
    [account] = _carry_out(settings, request).accounts
    return account


def _carry_out(settings: Settings, request: AccountRequest, *, needs_server: bool = False) -> AccountAnswer:
    """Carry out the request, by default without a server, too. Exits with a message if that fails."""
    from actorchat.server.bootstrap import StartFailed
    from actorchat.server.inspection import InspectionFailed

    try:
        answer = trio.run(partial(_ask, settings, request, needs_server=needs_server))
    except (InspectionFailed, StartFailed) as error:
        fail((error,), FAILED)
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    if answer.refusal is not None:
        _refused(answer.refusal)
    return answer


def _refused(reason: str) -> NoReturn:
    fail((reason,), FAILED)


async def _ask(settings: Settings, request: AccountRequest, *, needs_server: bool) -> AccountAnswer:
    from actorchat.server.account_administration import AccountAction
    from actorchat.server.bootstrap import StartFailed
    from actorchat.server.inspection import InspectionFailed, NoServer, administer_server

    folder = settings.data or DEFAULT_DATA
    try:
        with trio.fail_after(ANSWER_SECONDS):
            return await administer_server(folder, request)
    except NoServer:
        if needs_server:
            raise
        if settings.storage == "memory://":
            raise StartFailed("no server runs, and the storage memory:// keeps no accounts") from None
        database = settings.database_file
        is_new = database is not None and not await trio.Path(database).exists()
        if is_new and request.action is not AccountAction.ADD:
            detail = "no server runs on it: is --data the right folder?"
            raise StartFailed(f"{folder} has no database, and {detail}") from None
    except trio.TooSlowError:
        detail = f"the server on {folder} did not answer within {ANSWER_SECONDS:.0f} s"
        raise InspectionFailed(f"{detail}: list the accounts to see what was done") from None
    from actorchat.server.serving import administer_accounts, open_server

    # The lock of the file excludes a server that starts meanwhile. On PostgreSQL there may be others,
    # and one of them may have the name of the settings.
    alone = attrs.evolve(settings, port=None, tls_cert=None, tls_key=None, transport="auto", workers=1, node_name="")
    async with open_server(alone) as server:
        return await administer_accounts(server, request)


def _columns(account: AccountRow) -> tuple[str, ...]:
    since = datetime.fromtimestamp(account.created, UTC).date().isoformat()
    password = "one-time password" if account.one_time else "active" if account.has_password else "no password"
    state = "disabled" if account.disabled else password
    return (account.login, str(account.id), account.rights, since, state, " ".join(account.sources) or "-")


def _sources_text(account: AccountRow) -> str:
    if account.rights == "admin":
        return "all sources"
    return f"sources {' '.join(account.sources)}" if account.sources else "no sources"
