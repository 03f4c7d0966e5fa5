"""Implements `actorchat export` and `actorchat erase`: through a running server, or else with its database."""

from __future__ import annotations

import getpass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click
import trio

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail, warn
from actorchat.cli.options import config_option, data_option
from actorchat.cli.output import echo
from actorchat.cli.text import counted
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings, Settings
from actorchat.server.settings_loader import load_settings

if TYPE_CHECKING:
    from actorchat.server.privacy_requests import PrivacyAnswer, PrivacyRequest

__all__ = ["erase", "export"]

_role_option = click.option(
    "--role", type=click.Choice(("user", "operator")), required=True, help="Whether it is a customer or an operator."
)
_id_option = click.option("--user-id", type=click.IntRange(0, 2**53), required=True, metavar="N", help="The id.")


@click.command(short_help="Export everything about one person.")
@_role_option
@_id_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write the zip file.  [default: ROLE-N.zip]",
)
@data_option
@config_option
def export(role: str, user_id: int, output: Path | None, data: Path | None, config: Path | None) -> None:
    """Write everything that is stored about one person to a zip file: profile, chats, messages and files.

    Works whether or not the server runs. The file has the chats of a customer with all messages, notes included, and
    the messages that an operator has written. The export is recorded.

    \b
    Example:
      actorchat export --role user --user-id 1017
    """
    from actorchat.chat.privacy import AuditAction
    from actorchat.protocol import Role
    from actorchat.server.privacy_requests import PrivacyRequest

    target = (output or Path(f"{role}-{user_id}.zip")).absolute()
    request = PrivacyRequest(action=AuditAction.EXPORT, role=Role(role), user_id=user_id, by=_by(), target=str(target))
    counts = _carry_out(_settings(data, config), request).counts
    echo(f"Exported {_text(counts)} to {target}.")


@click.command(short_help="Erase one person.")
@_role_option
@_id_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_option
@config_option
def erase(role: str, user_id: int, yes: bool, data: Path | None, config: Path | None) -> None:
    """Erase one person: sign out, close the chats, and remove messages, files and names for ever.

    Works whether or not the server runs. All messages of a customer's chats are removed, and the messages that an
    operator has written. The erasure is recorded, without names. Backups that were made before still have everything.

    \b
    Example:
      actorchat erase --role user --user-id 1017
    """
    if not yes:
        click.confirm(f"Erase the {role} {user_id} for ever?", abort=True, err=True)
    from actorchat.chat.privacy import AuditAction
    from actorchat.protocol import Role
    from actorchat.server.privacy_requests import PrivacyRequest

    request = PrivacyRequest(action=AuditAction.ERASE, role=Role(role), user_id=user_id, by=_by())
    counts = _carry_out(_settings(data, config), request).counts
    echo(f"Erased the {role} {user_id}: {_text(counts)}.")


def _text(counts: dict[str, int]) -> str:
    return ", ".join(counted(counts.get(f"{noun}s", 0), noun) for noun in ("chat", "message", "file"))


def _by() -> str:
    try:
        return f"command line, {getpass.getuser()}"
    except (KeyError, OSError):
        return "command line"


def _settings(data: Path | None, config: Path | None) -> Settings:
    try:
        settings = load_settings(config, {"data": data})
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    return attrs.evolve(settings, data=settings.data or DEFAULT_DATA)


def _carry_out(settings: Settings, request: PrivacyRequest) -> PrivacyAnswer:
    """Carry out the request, also without a server. Exits with a message if that fails."""
    from actorchat.server.bootstrap import StartFailed
    from actorchat.server.inspection import InspectionFailed
    from actorchat.storage import StoreUrlError

    try:
        answer = trio.run(partial(_ask, settings, request))
    except (InspectionFailed, StartFailed, StoreUrlError) as error:
        fail((error,), FAILED)
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    if answer.refusal is not None:
        fail((answer.refusal,), FAILED)
    return answer


async def _ask(settings: Settings, request: PrivacyRequest) -> PrivacyAnswer:
    from actorchat.server.bootstrap import StartFailed
    from actorchat.server.inspection import NoServer, request_privacy

    folder = settings.data or DEFAULT_DATA
    try:
        return await request_privacy(folder, request)
    except NoServer:
        if settings.storage == "memory://":
            raise StartFailed("no server runs, and the storage memory:// keeps nothing") from None
        database = settings.database_file
        if database is not None and not await trio.Path(database).exists():
            detail = "no server runs on it: is --data the right folder?"
            raise StartFailed(f"{folder} has no database, and {detail}") from None
    from actorchat.chat.privacy import AuditAction
    from actorchat.server.environment import Environment
    from actorchat.server.serving import open_server, serve_privacy
    from actorchat.storage import open_store
    from actorchat.storage.move_record import moved_to

    # The lock of the file excludes a server that starts meanwhile. On PostgreSQL there may be others,
    # and one of them may have the name of the settings.
    alone = attrs.evolve(settings, port=None, tls_cert=None, tls_key=None, transport="auto", workers=1, node_name="")
    exports = request.action is AuditAction.EXPORT
    if exports and database is not None and (target := moved_to(database)) is not None:
        warn((f"the chats of {database} were moved to {target}: this export lacks what was written since then",))
    # An erasure in a database that no server uses any more would leave everything in the new one.
    environment = Environment(open_store=partial(open_store, also_moved=exports))
    async with open_server(alone, environment=environment) as server:
        return await serve_privacy(server, request)
