"""Implements `actorchat token`, which prints a signed token for scripts, tests and backends."""

from __future__ import annotations

from pathlib import Path

import click

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail
from actorchat.cli.options import Duration, config_option, data_option
from actorchat.cli.output import echo
from actorchat.http.source_names import is_source_name
from actorchat.protocol import Role
from actorchat.server.auth import FIRST_ANONYMOUS_ID, local_token
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings
from actorchat.server.settings_loader import load_settings

__all__ = ["token"]


@click.command(short_help="Print a signed token of a user.")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="The role of the user.")
@click.option(
    "--user-id",
    type=click.IntRange(0, FIRST_ANONYMOUS_ID - 1),
    required=True,
    metavar="N",
    help="The id of the user, below 2^52; ids from there on are reserved for anonymous visitors.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="S",
    help="A widget source the user may use; repeatable. An operator needs at least one.",
)
@click.option("--firstname", default="", metavar="NAME", help="The first name to show.")
@click.option("--lastname", default="", metavar="NAME", help="The last name to show.")
@click.option(
    "--ttl", type=Duration(), default="1h", show_default=True, help="How long the token is valid: 90s, 15m, 30d."
)
@data_option
@config_option
def token(
    role: str,
    user_id: int,
    sources: tuple[str, ...],
    firstname: str,
    lastname: str,
    ttl: float,
    data: Path | None,
    config: Path | None,
) -> None:
    """Print a token signed with the secret of a server on this machine.

    An operator sees the chats of the token's sources.

    \b
    Examples:
      actorchat token --role operator --user-id 7 --source lk --firstname Olga
      curl -H "Authorization: Bearer $(actorchat token --role operator --user-id 7 --source lk)" \\
          http://127.0.0.1:8000/api/chats
    """
    for source in sources:
        if not is_source_name(source):
            raise click.BadParameter(
                f"{source!r}: a source name has 1 to 64 characters out of a-z, 0-9, _ and -", param_hint="--source"
            )
    try:
        settings = load_settings(config, {"data": data})
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    known = settings.sources
    if role == Role.OPERATOR and not sources:
        example = known[0] if known else "lk"
        raise click.UsageError(f"an operator sees only the chats of the token's sources: add --source {example}")
    for source in sources:
        if known and source not in known:
            raise click.BadParameter(
                f"{source} is not among the sources in the settings: {', '.join(known)}", param_hint="--source"
            )
    folder = settings.data or DEFAULT_DATA
    try:
        signed = local_token(
            folder,
            role=Role(role),
            user_id=user_id,
            sources=sources,
            firstname=firstname,
            lastname=lastname,
            ttl=ttl,
            secret=settings.secret,
        )
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    except FileNotFoundError:
        fail(
            (f"{folder} has no secret: the server creates it when it first starts. Is --data the right folder?",),
            FAILED,
        )
    except OSError as error:
        fail((f"cannot read the secret in {folder}: {error.strerror}",), FAILED)
    echo(signed)
