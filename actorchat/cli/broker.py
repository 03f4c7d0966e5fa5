"""Implements `actorchat broker tail`: shows what is published to a message broker, until Ctrl-C."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import strftime
from typing import TYPE_CHECKING, Any, Final

import click
import trio

from actorchat.brokers import BrokerUnavailable, BrokerUrl, open_tail
from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail
from actorchat.cli.options import config_option
from actorchat.cli.output import echo, echo_json
from actorchat.cli.text import one_line
from actorchat.protocol import (
    BrokerBody,
    BrokerChannel,
    BrokerMessage,
    Chat,
    GlobalData,
    Malformed,
    Message,
    MessageType,
    Operator,
    Role,
    User,
)
from actorchat.server.settings import InvalidSettings, broker_urls
from actorchat.server.settings_loader import load_settings

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["broker"]

_COLOURS: Final = {
    BrokerChannel.CHAT: "cyan",
    BrokerChannel.OPERATORS: "magenta",
    BrokerChannel.MESSAGE: "green",
    BrokerChannel.GLOBAL: "yellow",
}


@click.group(short_help="Watch what is published to message brokers.")
def broker() -> None:
    """Watch what a server publishes to message brokers."""


@broker.command(short_help="Show live what is published.")
@click.argument("channel", required=False, type=click.Choice([channel.value for channel in BrokerChannel]))
@click.option("--broker", "url", metavar="URL", help="The broker. [default: the first one of the settings]")
@click.option("--source", "sources", metavar="NAME", multiple=True, help="Only this widget source. May repeat.")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs, one object per line.")
@config_option
def tail(channel: str | None, url: str | None, sources: tuple[str, ...], as_json: bool, config: Path | None) -> None:
    """Show what is published on CHANNEL, or on all of them, from now on until Ctrl-C.

    Notes for operators are marked: they must not be shown to visitors. Watching takes nothing away from other programs.

    \b
    Examples:
      actorchat broker tail                                everything, on the broker of the settings
      actorchat broker tail message --source shop          one channel of one widget source
      actorchat broker tail --broker redis://127.0.0.1
      actorchat broker tail message --json | jq .body.text
    """
    try:
        settings = load_settings(config, {"broker": None if url is None else [url]})
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    if not settings.broker:
        fail(("there is no broker in the settings: name one, as in --broker redis://127.0.0.1",), BAD_SETTINGS)
    of_settings = broker_urls(settings)[0]
    if of_settings.scheme == "memory":
        fail(("memory:// is in the server's own process: only that can read it",), BAD_SETTINGS)
    channels = list(BrokerChannel) if channel is None else [BrokerChannel(channel)]
    try:
        trio.run(partial(_follow, of_settings, channels, frozenset(sources), as_json))
    except BrokerUnavailable as error:
        fail((f"{of_settings.name} can't be read: {error}",), FAILED)
    except KeyboardInterrupt:
        return
    except BaseExceptionGroup as group:
        # Ctrl-C comes out of the client's nursery in a group.
        if group.split(KeyboardInterrupt)[1] is not None:
            raise


async def _follow(url: BrokerUrl, channels: Collection[BrokerChannel], sources: frozenset[str], as_json: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)

    def show(message: BrokerMessage) -> None:
        if sources and message.source not in sources:
            return
        if as_json:
            echo_json(
                {
                    "channel": message.channel.value,
                    "source": message.source,
                    "id": message.id,
                    "body": _json(message.body),
                }
            )
        else:
            _print(console, message)

    if not as_json and console.is_terminal:
        echo(f"Watching {url.name}; Ctrl-C stops it.", err=True)
    await open_tail(url).follow(channels, show)


# Any: JSON of any shape.
def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def _print(console: Console, message: BrokerMessage) -> None:
    from rich.text import Text

    line = Text(strftime("%H:%M:%S "), style="dim")
    line.append(f"{message.channel.value:<9} ", style=_COLOURS[message.channel])
    line.append(f"{one_line(message.source)}  ", style="bold")
    text = f"a body of {len(message.body)} bytes that is none of the contract's"
    with suppress(Malformed):
        text = _words(message.decode())
    line.append(one_line(text), style="italic" if text.startswith("note for operators") else "")
    console.print(line)
    console.file.flush()


def _words(body: BrokerBody) -> str:
    """Summarize a message body on one line."""
    match body:
        case Chat():
            operator = "nobody" if body.operator_user is None else _name(body.operator_user)
            return f"{body.uuid} {body.status} {_name(body.owner_user)} with {operator}"
        case Message():
            author = "the server" if body.user is None else _name(body.user)
            files = "".join(f" [{file.filename}]" for file in body.attachments)
            kind = ""
            if body.type is MessageType.SYSTEM:
                kind = "note for operators, " if body.type_role is Role.OPERATOR else "notice for the visitor, "
            return f"{kind}{author}: {body.text}{files}  ({body.chat.uuid}, {body.message_index})"
        case GlobalData():
            return f"{body.unread_chats} unread"
        case _:
            return "; ".join(map(_operator, body))


def _operator(operator: Operator) -> str:
    state = "online" if operator.is_online else "offline"
    return f"{_name(operator.user)} {state}, {operator.new_chats} new, {operator.open_chats} open"


def _name(user: User) -> str:
    name = " ".join(filter(None, (user.firstname, user.lastname)))
    return name or f"{user.role} {user.id}"
