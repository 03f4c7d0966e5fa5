"""Defines the `actorchat` command. Each subcommand is imported only when it is used, which keeps start-up fast."""

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
    "operators": ("actorchat.cli.operators", "operators"),
    "actors": ("actorchat.cli.actors", "actors"),
    "broker": ("actorchat.cli.broker", "broker"),
    "check-config": ("actorchat.cli.check_config", "check_config"),
    "doctor": ("actorchat.cli.doctor", "doctor"),
    "backup": ("actorchat.cli.backup", "backup"),
    "restore": ("actorchat.cli.backup", "restore"),
    "migrate": ("actorchat.cli.migrate", "migrate"),
    "export": ("actorchat.cli.privacy", "export"),
    "erase": ("actorchat.cli.privacy", "erase"),
    "nodes": ("actorchat.cli.nodes", "nodes"),
    "conformance": ("actorchat.cli.conformance", "conformance"),
    "asyncapi": ("actorchat.cli.documents", "asyncapi"),
    "openapi": ("actorchat.cli.documents", "openapi"),
}
"""The module and attribute of each command, in the order of the help."""


class _LazyGroup(click.Group):
    # Any: click's own signature
    def main(self, *arguments: Any, **options: Any) -> Any:
        # First of all, because click prints the help while it parses.
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
            # Relative paths fail there, and so does importing some of the libraries.
            fail(("the current folder no longer exists; change to another one",), FAILED)
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="For the options of a command: actorchat COMMAND --help",
)
@click.version_option(package_name="actorchat", message="actorchat %(version)s")
def main() -> None:
    """Live customer chat for websites.

    \b
    Start a server, then chat through it from two more terminals:
      actorchat serve
      actorchat chat http://127.0.0.1:8000
      actorchat chat http://127.0.0.1:8000 --operator --data ./actorchat-data
    """
