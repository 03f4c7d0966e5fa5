"""Implements `actorchat chat`: parses its options, checks which go together, and starts the terminal client."""

from pathlib import Path

import click

from actorchat.cli.errors import FAILED, fail

__all__ = ["chat"]


@click.command()
@click.argument("url")
@click.option(
    "--source",
    metavar="S",
    help="The widget source.  [default: lk; for an operator with --token, all sources of the token]",
)
@click.option("--token", metavar="T", help="A token that says which user you are.")
@click.option("--operator", is_flag=True, help="Chat as an operator, not as a visitor; needs --token or --data.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The data folder of a server on this machine; its secret signs the operator's token.",
)
@click.option(
    "--user-id",
    type=click.IntRange(1, 2**52 - 1),
    metavar="N",
    help="With --data: the operator's id.  [default: 1]",
)
@click.option("--name", metavar="NAME", help="With --data: the operator's first name.")
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
        _chat(url, source, token, operator, data, user_id, name, state)
    except KeyboardInterrupt:
        # Ctrl-C before the chat has started.
        return


def _chat(
    url: str,
    source: str | None,
    token: str | None,
    operator: bool,
    data: Path | None,
    user_id: int | None,
    name: str | None,
    state: Path | None,
) -> None:
    if operator and token is None and data is None:
        raise click.UsageError("--operator needs --token T, or --data DIR of a server on this machine")
    if token is not None and data is not None:
        raise click.UsageError("--token and --data cannot be used together")
    if data is not None and not operator:
        raise click.UsageError("--data is for operators: add --operator")
    for option, value in (("--user-id", user_id), ("--name", name)):
        if value is not None and data is None:
            raise click.UsageError(f"{option} needs --operator and --data DIR: a token already names its user")
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
        SessionOptions(server, source, token, data, memory, user_id or 1, name or ""), operator=operator
    )
    if failure is not None:
        fail((failure,), FAILED)
