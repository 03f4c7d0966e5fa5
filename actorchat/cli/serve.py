"""Implements `actorchat serve`: starts a server, handles signals, and turns the outcome into an exit status."""

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
from actorchat.cli.output import discard_unwritable_output, echo
from actorchat.cli.reload import Reloader, Terminal
from actorchat.server.bootstrap import StartFailed, file_warnings
from actorchat.server.file_descriptors import raise_open_file_limit
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings, Settings
from actorchat.server.settings_loader import load_settings, unknown_variables, wanted_log_format

__all__ = ["serve"]

_log: Final = logging.getLogger("actorchat.cli")

GC_THRESHOLDS: Final = (50_000, 20, 20)
"""Batches allocate thousands of objects at once, few of them in cycles, so Python's default of 700 collects too often.
"""

SWITCH_INTERVAL: Final = 0.001
"""Seconds until another thread may run. Short, so that the journal's thread starts soon. It is set for the whole
process, which is why only `actorchat serve` sets it, and not `open_server`."""

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_HANGUP: Final = getattr(signal, "SIGHUP", None)
"""Service managers send it to reload settings, and a terminal sends it when it is closed. Windows does not have it."""

LAST_RESORT_SECONDS: Final = 3.0
"""How long after the drain's own deadline the process exits with a failure, whatever still runs."""


@click.command()
@settings_options
def serve(config: Path | None, **options: object) -> None:
    """Run the server until Ctrl-C.

    Every accepted message is stored before the server exits; a second Ctrl-C stops it at once. The first run creates
    the data folder, the database and the signing secret. SIGHUP reloads the TLS certificate and the log format.

    \b
    Examples:
      actorchat serve
      actorchat serve --port 9000 --data /var/lib/actorchat
      actorchat serve --config actorchat.toml --log-format json
      ACTORCHAT_LIMITS_MESSAGES_PER_SECOND=0 actorchat serve --storage memory://

    \b
    A settings file uses the names of the options, and has more settings:
      origins = ["https://shop.example"]   # web pages that may use the chat
      public_key = "site.pem"              # also accept tokens signed with this key: RS256 or EdDSA
      [limits]
      messages_per_second = 10             # per user; 0 = unlimited
      visitors_per_minute = 60             # new visitors per network address; 0 = unlimited
      [http]
      trusted_proxies = ["127.0.0.1"]      # proxies whose X-Forwarded-For is trusted
      [chat]
      capacity = 5                         # chats an operator may have at once; 0 = unlimited
      on_closed = "reopen"                 # or "queue", "refuse"
      [sources.shop]                       # with any source named, all others are unknown
    """
    terminal = Terminal.of_this_process()
    with _ignore_hangup():
        _run(config, options, terminal)


@contextmanager
def _ignore_hangup() -> Iterator[None]:
    """Keep a SIGHUP from ending the process while the server starts or stops."""
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
    # The terminal may have been closed.
    discard_unwritable_output()
    sys.exit(0 if drained else FAILED)


def _load(config: Path | None, options: Mapping[str, object]) -> Settings:
    settings = load_settings(config, options)
    # Set even with memory:// storage: other commands find the secret in the data folder.
    return attrs.evolve(settings, data=settings.data or DEFAULT_DATA)


async def _serve(settings: Settings, load: Callable[[], Settings], terminal: Terminal) -> bool:
    # Imported here, so that errors in the settings are reported before the slow imports.
    from actorchat.server.serving import DRAIN_SECONDS, open_server

    last_resort = threading.Timer(DRAIN_SECONDS + LAST_RESORT_SECONDS, os._exit, (FAILED,))
    last_resort.daemon = True
    async with open_server(settings) as server:
        # The objects that exist now, mostly modules, live until the exit: exclude them from garbage collection.
        gc.freeze()
        received = _STOP_SIGNALS if _HANGUP is None else (*_STOP_SIGNALS, _HANGUP)
        with trio.open_signal_receiver(*received) as signals:
            _print_welcome(server.url, server.settings)
            reloader = Reloader(server, settings, load)
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    if number in _STOP_SIGNALS or terminal.was_closed():
                        break
                    nursery.start_soon(reloader.reload)
                nursery.cancel_scope.cancel()
        # From here on a second signal kills the process, whatever the server does.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        with suppress(OSError):
            # The terminal may have been closed.
            _print_stopping(reloader.settings)
        last_resort.start()
    last_resort.cancel()
    return server.drained


def _print_welcome(url: str, settings: Settings) -> None:
    if settings.log_format == "json":
        # `websocket_transport` is the transport in use, also when the setting is `auto`.
        _log.info("the server listens", extra={"url": url, "transport": settings.websocket_transport})
        return
    source = f" --source {settings.sources[0]}" if settings.sources else ""
    chat_command = f"actorchat chat {url}{source}"
    lines = (
        f"actorchat serves {url}",
        "",
        "Chat through it from two more terminals:",
        f"  as a visitor:   {chat_command}",
        f"  as an operator: {chat_command} --operator {_operator_options(settings)}",
        "",
        "Ctrl-C stops it.",
    )
    echo("\n".join(lines))


def _print_stopping(settings: Settings) -> None:
    if settings.log_format == "json":
        _log.info("the server stops; accepted messages are stored first")
    else:
        echo("Stopping: storing accepted messages first. A second Ctrl-C stops at once.")


def _operator_options(settings: Settings) -> str:
    """The options with which an operator on this machine can sign in."""
    if settings.secret is not None:
        source = settings.sources[0] if settings.sources else "lk"
        return f'--token "$(actorchat token --role operator --user-id 1 --source {source})"'
    return f"--data {shlex.quote(str((settings.folder or DEFAULT_DATA).absolute()))}"
