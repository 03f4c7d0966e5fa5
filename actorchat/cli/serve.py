"""Owns `actorchat serve`: a server as a process, its first words, its signals and its exit status.

Refuses to know what a server is composed of.
"""

from __future__ import annotations

import gc
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import attrs
import click
import trio

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail, warn
from actorchat.cli.options import settings_options
from actorchat.cli.output import echo
from actorchat.cli.reload import Reloader, Terminal
from actorchat.server.bootstrap import StartFailed, file_warnings
from actorchat.server.file_descriptors import raise_open_file_limit
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings, Settings
from actorchat.server.settings_loader import load_settings, unknown_variables, wanted_log_format

__all__ = ["serve"]

_log: Final = logging.getLogger("actorchat.cli")

GC_THRESHOLDS: Final = (50_000, 20, 20)
"""Messages come and go in batches of thousands of values, few of them in cycles: Python's 700 looks far too often."""

SWITCH_INTERVAL: Final = 0.001
"""Seconds: the journal's thread gets its turn soon, at a cost that only a whole process of ours should pay."""

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)

_HANGUP: Final = getattr(signal, "SIGHUP", None)
"""Sent by service managers to have settings read again, and by a terminal that goes away. Windows doesn't have it."""

LAST_RESORT_SECONDS: Final = 3.0
"""What is left after the drain's own deadline, before the process ends itself with a failure."""


@click.command()
@settings_options
def serve(config: Path | None, **options: object) -> None:
    """Run the server until Ctrl-C.

    Everything that was accepted is stored before it exits; a second Ctrl-C stops at once. The first run makes the
    folder, the database and the signing secret. SIGHUP reloads the TLS certificate and the log's format.

    \b
    Examples:
      actorchat serve
      actorchat serve --port 9000 --data /var/lib/actorchat
      actorchat serve --config actorchat.toml --log-format json
      ACTORCHAT_LIMITS_MESSAGES_PER_SECOND=0 actorchat serve --storage memory://

    \b
    A settings file has the options' names, and more:
      origins = ["https://shop.example"]   # pages that may use the chat
      public_key = "site.pem"              # who else may sign tokens: RS256 or EdDSA
      [limits]
      messages_per_second = 10             # per user; 0 = off
      visitors_per_minute = 60             # new ones per network address; 0 = off
      [http]
      trusted_proxies = ["127.0.0.1"]      # whose X-Forwarded-For counts
      [chat]
      capacity = 5                         # chats an operator may have; 0 = unlimited
      on_closed = "reopen"                 # or queue, refuse
      [sources.shop]                       # with any named, only those exist
    """
    terminal = Terminal.of_this_process()
    with _hangups_ignored():
        _run(config, options, terminal)


@contextmanager
def _hangups_ignored() -> Iterator[None]:
    """A SIGHUP that comes while the server starts or stops must not end the process."""
    if _HANGUP is None:
        yield
        return
    before = signal.signal(_HANGUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(_HANGUP, before)


def _run(config: Path | None, options: Mapping[str, object], terminal: Terminal) -> NoReturn:
    as_json = wanted_log_format(config, options) == "json"
    warn(unknown_variables(), as_json=as_json)
    try:
        settings = _load(config, options)
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS, as_json=as_json)
    warn(file_warnings(settings), as_json=as_json)
    from actorchat.server.logging_setup import configure_logging
    from actorchat.server.steady_clock import SteadyClock

    configure_logging(settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLDS)
    raise_open_file_limit()
    try:
        load = partial(_load, config, options)
        drained = trio.run(_serve, settings, load, terminal, clock=SteadyClock())
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS, as_json=as_json)
    except StartFailed as error:
        fail((error,), FAILED, as_json=as_json)
    except Exception:
        if not as_json:
            raise
        _log.critical("the server failed", exc_info=True)
        sys.exit(FAILED)
    sys.exit(0 if drained else FAILED)


def _load(config: Path | None, options: Mapping[str, object]) -> Settings:
    settings = load_settings(config, options)
    # Also with memory://, so that the other commands find the secret.
    return attrs.evolve(settings, data=settings.data or DEFAULT_DATA)


async def _serve(settings: Settings, load: Callable[[], Settings], terminal: Terminal) -> bool:
    # Imported here: bad settings are told before the server's libraries are loaded.
    from actorchat.server.serving import DRAIN_SECONDS, open_server

    last_resort = threading.Timer(DRAIN_SECONDS + LAST_RESORT_SECONDS, os._exit, (FAILED,))
    last_resort.daemon = True
    async with open_server(settings) as server:
        # What is there now, modules above all, stays: no collection need look at it.
        gc.freeze()
        received = _STOPPING if _HANGUP is None else (*_STOPPING, _HANGUP)
        with trio.open_signal_receiver(*received) as signals:
            _welcome(server.url, server.settings)
            reloader = Reloader(server, settings, load)
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    if number in _STOPPING or terminal.has_gone():
                        break
                    nursery.start_soon(reloader.reload)
                nursery.cancel_scope.cancel()
        # From here on the second one ends the process in the way that can't fail.
        for number in _STOPPING:
            signal.signal(number, signal.SIG_DFL)
        with suppress(OSError):
            # Nobody may be left to read it.
            _say_stopping(reloader.settings)
        last_resort.start()
    last_resort.cancel()
    return server.drained


def _welcome(url: str, settings: Settings) -> None:
    if settings.log_format == "json":
        # `transport` is what runs: the setting may say `auto`.
        _log.info("the server listens", extra={"url": url, "transport": settings.websocket_transport})
        return
    source = f" --source {settings.sources[0]}" if settings.sources else ""
    visit = f"actorchat chat {url}{source}"
    lines = (
        f"actorchat serves {url}",
        "",
        "Talk over it from two more terminals:",
        f"  as a visitor:   {visit}",
        f"  as an operator: {visit} --operator {_identity(settings)}",
        "",
        "Ctrl-C stops it.",
    )
    echo("\n".join(lines))


def _say_stopping(settings: Settings) -> None:
    if settings.log_format == "json":
        _log.info("the server stops: what was accepted is stored first")
    else:
        echo("Stopping: what was accepted is stored first. Ctrl-C stops at once.")


def _identity(settings: Settings) -> str:
    """What lets an operator on this machine in."""
    if settings.secret is not None:
        source = settings.sources[0] if settings.sources else "lk"
        return f'--token "$(actorchat token --role operator --user-id 1 --source {source})"'
    return f"--data {shlex.quote(str((settings.folder or DEFAULT_DATA).absolute()))}"
