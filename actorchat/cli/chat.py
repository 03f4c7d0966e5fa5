"""Implements `actorchat chat`: parses its options, checks which go together, and starts the terminal client."""

from pathlib import Path

import click

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail
from actorchat.cli.options import config_option

__all__ = ["chat"]


@click.command(short_help="Chat in the terminal, as a visitor or an operator.")
@click.argument("url")
@click.option(
    "--source",
    metavar="S",
    help="The widget source.  [default: lk; for an operator with --token, all sources of the token]",
)
@click.option("--token", metavar="T", help="A token that says which user you are.")
@click.option(
    "--operator", is_flag=True, help="Chat as an operator, not as a visitor; needs --token, --data or ACTORCHAT_SECRET."
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path, readable=False),
    metavar="DIR",
    help="The data folder of a server on this machine; its secret signs the operator's token, unless the settings have"
    " one, as ACTORCHAT_SECRET.",
)
@config_option
@click.option(
    "--user-id",
    type=click.IntRange(1, 2**52 - 1),
    metavar="N",
    help="The operator's id, if there is no --token.  [default: 1]",
)
@click.option("--name", metavar="NAME", help="The operator's first name, if there is no --token.")
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to keep the visitor's token, so that the next run continues the same chat.",
)
def chat(
    url: str,
    source: str | None,
    token: str | None,
    operator: bool,
    data: Path | None,
    config: Path | None,
    user_id: int | None,
    name: str | None,
    state: Path | None,
) -> None:
    """Chat in the terminal with the server at URL, as a visitor or as an operator.

    Enter sends what you typed, /help lists the commands, Ctrl-C leaves. The arrow keys recall earlier lines, PageUp and
    PageDown scroll. Marks beside your messages: ✓ stored, ✓✓ delivered, ✓✓ read. After a lost connection the client
    reconnects by itself and no message is lost. Without a terminal, each line of stdin is a message or a command, and
    each event is printed as a line on stdout; the exit status is 1 if any line failed.

    \b
    Examples:
      actorchat chat http://127.0.0.1:8000
      actorchat chat https://chat.example --source shop
      actorchat chat http://127.0.0.1:8000 --operator --data ./actorchat-data
      actorchat chat http://127.0.0.1:8000 --operator --data ./actorchat-data --user-id 2 --name Olga
      actorchat chat https://chat.example --operator --token "$TOKEN"
      echo "Is anybody there?" | actorchat chat http://127.0.0.1:8000
    """
    try:
        _chat(url, source, token, operator, data, config, user_id, name, state)
    except KeyboardInterrupt:
        # Ctrl-C before the chat has started.
        return


def _chat(
    url: str,
    source: str | None,
    token: str | None,
    operator: bool,
    data: Path | None,
    config: Path | None,
    user_id: int | None,
    name: str | None,
    state: Path | None,
) -> None:
    for option, given in (("--data", data), ("--config", config)):
        if token is not None and given is not None:
            raise click.UsageError(f"--token and {option} cannot be used together")
        if given is not None and not operator:
            raise click.UsageError(f"{option} is for operators: add --operator")
    for option, value in (("--user-id", user_id), ("--name", name)):
        if value is not None and (token is not None or not operator):
            raise click.UsageError(f"{option} needs --operator without --token: a token already names its user")
    secret: str | None = None
    if operator and token is None:
        data, secret = _signer(data, config)
    # Imported here, inside the handler of Ctrl-C, because importing takes a while.
    from actorchat.cli.terminal.identity import VisitorTokens, default_state_file
    from actorchat.cli.terminal.runner import run_terminal
    from actorchat.cli.terminal.session import SessionOptions
    from actorchat.client.server_urls import ServerAddress
    from actorchat.http.source_names import is_source_name

    if source is not None and not is_source_name(source):
        raise click.BadParameter(
            f"{source!r}: a source name has 1 to 64 characters out of a-z, 0-9, _ and -", param_hint="--source"
        )
    try:
        server = ServerAddress.parse(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from None
    memory = VisitorTokens(state or default_state_file())
    failure = run_terminal(
        SessionOptions(server, source, token, data, secret, memory, user_id or 1, name or ""), operator=operator
    )
    if failure is not None:
        fail((failure,), FAILED)


def _signer(data: Path | None, config: Path | None) -> tuple[Path | None, str | None]:
    """The data folder and the secret in the settings; at least one of them signs the operator's token."""
    # Imported here, because a client of a remote server does not need the server's code.
    from actorchat.server.settings import InvalidSettings
    from actorchat.server.settings_loader import load_settings

    try:
        settings = load_settings(config, {"data": data})
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    if settings.data is None and settings.secret is None:
        raise click.UsageError(
            "--operator needs --token T, or --data DIR of a server on this machine, or its secret as ACTORCHAT_SECRET"
        )
    return settings.data, settings.secret
