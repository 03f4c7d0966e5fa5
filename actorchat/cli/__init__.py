"""The command line. Each command is loaded when it is asked for: start-up time is seen.

Refuses to know what the commands do.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Final

import click

from actorchat.cli.errors import FAILED, fail
from actorchat.cli.output import prepare_output

__all__ = ["main"]

_COMMANDS: Final = {
    "serve": ("actorchat.cli.serve", "serve"),
    "chat": ("actorchat.cli.chat", "chat"),
    "token": ("actorchat.cli.token", "token"),
    "actors": ("actorchat.cli.actors", "actors"),
    "check-config": ("actorchat.cli.check_config", "check_config"),
    "asyncapi": ("actorchat.cli.asyncapi", "asyncapi"),
}
"""Where each command is, in the order in which the help shows them."""


class _LazyGroup(click.Group):
    # Any: click's own signature
    def main(self, *arguments: Any, **options: Any) -> Any:
        # Before anything is parsed: the help is printed on the way.
        prepare_output()
        return super().main(*arguments, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        try:
            os.getcwd()
        except OSError:
            # Neither paths of files nor some of the libraries work there.
            fail(("the current folder was deleted: change to another one",), FAILED)
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every command explains itself: actorchat COMMAND --help",
)
@click.version_option(package_name="actorchat", message="actorchat %(version)s")
def main() -> None:
    """Live customer chat for websites.

    \b
    Start a server, then talk over it from two more terminals:
      actorchat serve
      actorchat chat http://127.0.0.1:8000
      actorchat chat http://127.0.0.1:8000 --operator --data ./actorchat-data
    """
