"""Owns `actorchat chat`: its options, who it speaks as, and how it ends.

Refuses to know what is shown and how.
"""

from functools import partial
from pathlib import Path

import click
import trio

from actorchat.cli.failing import FAILED, fail
from actorchat.cli.terminal.front import FrontGone
from actorchat.cli.terminal.identity import IdentityError, VisitorMemory, default_state_file
from actorchat.cli.terminal.sitting import DEFAULT_SOURCE, Unsent, Wishes, sit
from actorchat.client import ClientError
from actorchat.client.address import ServerAddress

__all__ = ["chat"]

_EXPECTED = (ClientError, IdentityError, FrontGone, Unsent)


@click.command()
@click.argument("url")
@click.option(
    "--source",
    metavar="S",
    help=f"The widget source.  [default: {DEFAULT_SOURCE}; for an operator with --token all of its sources]",
)
@click.option("--token", metavar="T", help="Speak as whom this token names.")
@click.option("--operator", is_flag=True, help="Answer visitors instead of being one; needs --token or --data.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder of a server on this machine: its secret makes the operator's token.",
)
@click.option(
    "--user-id",
    type=click.IntRange(1, 2**52 - 1),
    default=1,
    show_default=True,
    metavar="N",
    help="With --data: the operator's id.",
)
@click.option("--name", default="", metavar="NAME", help="With --data: the operator's first name.")
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where a visitor's identity is remembered, so that the next visit finds the same chat.",
)
def chat(
    url: str,
    source: str | None,
    token: str | None,
    operator: bool,
    data: Path | None,
    user_id: int,
    name: str,
    state: Path | None,
) -> None:
    """Chat in the terminal with the server at URL, as a visitor or as an operator.

    What you type is sent with Enter; /help lists the commands, Ctrl-C leaves. Ticks beside your messages: ✓ stored,
    ✓✓ arrived, ✓✓ read. A lost connection comes back by itself and loses nothing. Without a terminal, lines from
    stdin are messages and every event is a line on stdout.

    \b
    Examples:
      actorchat chat http://127.0.0.1:8000
      actorchat chat https://chat.example --source shop
      actorchat chat http://127.0.0.1:8000 --operator --data ./actorchat-data
      actorchat chat http://127.0.0.1:8000 --operator --data ./actorchat-data --user-id 2 --name Olga
      actorchat chat https://chat.example --operator --token "$TOKEN"
      echo "Is anybody there?" | actorchat chat http://127.0.0.1:8000
    """
    if operator and token is None and data is None:
        raise click.UsageError("--operator needs --token T, or --data DIR of a server on this machine")
    if token is not None and data is not None:
        raise click.UsageError("--token and --data exclude each other")
    try:
        server = ServerAddress.parse(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from None
    wishes = Wishes(server, source, token, data, VisitorMemory(state or default_state_file()), user_id, name)
    try:
        trio.run(partial(sit, wishes, operator=operator))
    except _EXPECTED as error:
        fail((error,), FAILED)
    except BaseExceptionGroup as group:
        expected, unexpected = group.split(_EXPECTED)
        if expected is None or unexpected is not None:
            raise
        fail((_first(expected),), FAILED)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
