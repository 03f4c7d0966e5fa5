"""Defines the options that several commands share, and a parameter type for durations."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

__all__ = ["Duration", "config_option", "data_option", "settings_options", "storage_option"]

F = TypeVar("F", bound=Callable[..., object])

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd]?)")


class Duration(click.ParamType[float]):
    """A positive number of seconds, written like 90, 90s, 15m, 1h or 30d."""

    name = "duration"

    # Any: click's own signature
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = _DURATION.fullmatch(value)
        if match is None or not int(match[1]):
            self.fail(f"{value!r} is not a duration: write it like 90s, 15m, 1h or 30d", param, ctx)
        return float(int(match[1]) * _UNITS[match[2] or "s"])


data_option: Callable[[F], F] = click.option(
    "--data",
    # Commands say more about a folder that can't be read than click does.
    type=click.Path(path_type=Path, readable=False),
    metavar="DIR",
    help="The folder with the database and the secret. [default: ./actorchat-data]",
)
storage_option: Callable[[F], F] = click.option(
    "--storage",
    metavar="URL",
    help="sqlite:///path, postgresql://host/database or memory://. [default: a file in --data]",
)
config_option: Callable[[F], F] = click.option(
    "--config",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="A TOML file with settings; options override it.",
)


def _given(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """Turn a repeatable option that was not given into None, so that the environment and the settings file are used."""
    return values or None


def settings_options(command: F) -> F:
    """Add the options of `serve` and `check-config` to a command. They are named after the settings."""
    options = (
        click.option("--host", metavar="ADDRESS", help="The address to listen on. [default: 127.0.0.1]"),
        click.option("--port", metavar="N", help="The port; 0 picks a free one. [default: 8000]"),
        click.option("--unix", metavar="PATH", help="Listen on a Unix socket instead, for a proxy on this machine."),
        click.option("--base-path", metavar="PATH", help="The path below which a proxy serves this server: /chat."),
        data_option,
        storage_option,
        click.option(
            "--broker",
            metavar="URL",
            multiple=True,
            callback=_given,
            help="Publish to this message broker: redis://, rediss://, amqp://, amqps://, nats://, tls://. May repeat.",
        ),
        click.option("--transport", metavar="NAME", help="auto, reactor or trio-websocket. [default: auto]"),
        click.option("--tls-cert", metavar="FILE", help="Serve https and wss with this certificate chain (PEM)."),
        click.option("--tls-key", metavar="FILE", help="The private key of the certificate (PEM)."),
        click.option(
            "--bus",
            metavar="URL",
            help="Between servers on one PostgreSQL database: postgres, redis:// or local. [default: auto]",
        ),
        click.option("--node-name", metavar="NAME", help="The name of this server among them. [default: a new one]"),
        click.option("--workers", metavar="N", help="Serve with N processes; needs PostgreSQL. [default: 1]"),
        config_option,
        click.option(
            "--log-format",
            metavar="FORMAT",
            help="text, or json: one object per line on stderr. [default: text]",
        ),
        click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error. [default: info]"),
    )
    for option in reversed(options):
        command = option(command)
    return command
