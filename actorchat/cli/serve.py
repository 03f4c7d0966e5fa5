"""Implements `actorchat serve`: starts a server, handles signals, and turns the outcome into an exit status."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import attrs
import click
import trio

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail, warn
from actorchat.cli.options import settings_options
from actorchat.cli.output import discard_unwritable_output, echo
from actorchat.cli.service_manager import ServiceManager
from actorchat.cli.settings_reload import Reloader, Terminal, reload_beside_workers
from actorchat.cli.workers import WorkerLink, Workers, worker_link
from actorchat.server.bootstrap import ServerEnded, StartFailed, file_warnings
from actorchat.server.file_descriptors import raise_open_file_limit
from actorchat.server.operator_command import folder_option, operator_options
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings, Settings
from actorchat.server.settings_loader import load_settings, unknown_variables, wanted_log_format

if TYPE_CHECKING:
    from actorchat.chat.model import Policy
    from actorchat.server.environment import Environment
    from actorchat.server.serving import Server
    from actorchat.storage import Storage

__all__ = ["serve", "worker_environment"]

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

_FIXED_FOR_WORKERS: Final = ("host", "port", "workers")
"""Settings that later workers share with the first ones, whatever the settings file says: the sockets are open."""

LAST_RESORT_SECONDS: Final = 3.0
"""How long after the drain's own deadline the process exits with a failure, whatever still runs."""


@click.command()
@settings_options
def serve(config: Path | None, **options: object) -> None:
    """Run the server until Ctrl-C.

    Every accepted message is stored before the server exits; a second Ctrl-C stops it at once. The first run creates
    the data folder, the database and the signing secret. SIGHUP reloads the TLS certificate, the keys, the log
    format and the log level; with --workers it replaces the processes one at a time.

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
    # First, because its variable is no setting.
    worker = worker_link()
    as_json = wanted_log_format(config, options) == "json"
    if worker is None:
        # Workers have the environment of the process that started them.
        warn(unknown_variables(), as_json=as_json)
    try:
        settings = _load(config, options)
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS, as_json=as_json)
    warn(file_warnings(settings), as_json=as_json)
    from actorchat.server.logging_setup import configure_logging
    from actorchat.server.steady_clock import SteadyClock

    configure_logging(settings.log_format, settings.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLDS)
    raise_open_file_limit()
    try:
        load = partial(_load, config, options)
        if settings.workers > 1 and worker is None:
            drained = trio.run(_serve_with_workers, settings, load, terminal)
        else:
            drained = trio.run(_serve, settings, load, terminal, worker, clock=SteadyClock())
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS, as_json=as_json)
    except (StartFailed, ServerEnded) as error:
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


async def _serve(
    settings: Settings, load: Callable[[], Settings], terminal: Terminal, worker: WorkerLink | None
) -> bool:
    # Imported here, so that errors in the settings are reported before the slow imports.
    from actorchat.server.serving import DRAIN_SECONDS, open_server

    manager = ServiceManager()
    last_resort = threading.Timer(DRAIN_SECONDS + LAST_RESORT_SECONDS, os._exit, (FAILED,))
    last_resort.daemon = True
    environment = None if worker is None else worker_environment(settings, worker)
    try:
        async with open_server(settings, environment=environment) as server:
            reloader = Reloader(server, settings, load)
            try:
                await _serve_until_signal(server, reloader, terminal, worker, manager)
            finally:
                # Also if the server ends by itself. From here on a second signal kills the process, whatever it does.
                for number in _STOP_SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                last_resort.start()
                manager.stopping()
            if worker is None:
                with suppress(OSError):
                    # The terminal may have been closed.
                    _print_stopping(reloader.settings)
    finally:
        last_resort.cancel()
    return server.drained


async def _serve_until_signal(
    server: Server, reloader: Reloader, terminal: Terminal, worker: WorkerLink | None, manager: ServiceManager
) -> None:
    """Tell that the server serves, reload settings at each SIGHUP, and return at a signal that stops it."""
    # The objects that exist now, mostly modules, live until the exit: exclude them from garbage collection.
    gc.freeze()
    received = _STOP_SIGNALS if _HANGUP is None else (*_STOP_SIGNALS, _HANGUP)
    with trio.open_signal_receiver(*received) as signals:
        if worker is None:
            _print_welcome(server.url, server.settings, server.console_link)
            manager.ready(f"serves {server.url}")
        else:
            worker.ready()

        async def reload() -> None:
            manager.reloading()
            await reloader.reload()
            manager.ready(f"serves {server.url}")

        async def stop_without_parent(worker: WorkerLink) -> None:
            await worker.parent_gone()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if worker is not None:
                nursery.start_soon(stop_without_parent, worker)
            async for number in signals:
                if number in _STOP_SIGNALS or (worker is None and terminal.was_closed()):
                    break
                nursery.start_soon(reload)
            nursery.cancel_scope.cancel()


def worker_environment(settings: Settings, worker: WorkerLink) -> Environment:
    """The environment of a worker: its parent has bound its sockets, and its own files are in a folder of its own.

    The first worker uses the data folder itself, where commands such as `actorchat operators` look for a server.
    """
    from actorchat.server.environment import Environment
    from actorchat.storage import open_store

    async def listen(host: str, port: int) -> tuple[socket.socket, ...]:
        await trio.lowlevel.checkpoint()
        return worker.sockets

    @asynccontextmanager
    async def open_announced(
        url: str,
        policy: Policy,
        *,
        clock: Callable[[], float],
        brokers: Collection[str] = (),
        folder: Path | None = None,
    ) -> AsyncIterator[Storage]:
        worker.opens_storage()
        async with open_store(url, policy, clock=clock, brokers=brokers, folder=folder) as storage:
            worker.has_storage()
            yield storage

    folder = settings.folder
    if folder is not None and worker.number > 0:
        folder = folder / "workers" / str(worker.number)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Environment(listen=listen, open_store=open_announced, process_folder=folder)


async def _serve_with_workers(settings: Settings, load: Callable[[], Settings], terminal: Terminal) -> bool:
    """Run `settings.workers` servers, each in a process of its own. Returns whether all have stored everything."""
    from actorchat.server.binding import bind_for_workers

    manager = ServiceManager()
    async with AsyncExitStack() as stack:
        sockets = await bind_for_workers(stack, settings)
        signals = stack.enter_context(trio.open_signal_receiver(*_STOP_SIGNALS, signal.SIGHUP))
        async with trio.open_nursery() as nursery:
            command = [sys.executable, "-m", "actorchat", *sys.argv[1:]]
            # Variables win over the settings file, and options are the same for all workers.
            fixed = {f"ACTORCHAT_{name.upper()}": str(getattr(settings, name)) for name in _FIXED_FOR_WORKERS}
            workers, serving = Workers(nursery, sockets, command, fixed), trio.CancelScope()

            async def start() -> None:
                if await workers.start():
                    url = _print_workers(settings, sockets[0][0].getsockname()[1])
                    manager.ready(f"serves {url} with {settings.workers} workers")
                else:
                    serving.cancel()

            async def roll() -> None:
                nonlocal settings
                settings = await reload_beside_workers(settings, load, _FIXED_FOR_WORKERS)
                await workers.roll()

            nursery.start_soon(start)
            try:
                with serving:
                    async for number in signals:
                        if number in _STOP_SIGNALS or terminal.was_closed():
                            break
                        nursery.start_soon(roll)
            finally:
                manager.stopping()
                # Bounded: a worker that does not end is killed.
                with trio.CancelScope(shield=True):
                    await _stop_workers(workers, signals, settings)
            nursery.cancel_scope.cancel()
    return workers.drained and not serving.cancelled_caught


async def _stop_workers(workers: Workers, signals: AsyncIterator[int], settings: Settings) -> None:
    async def stop_at_once() -> None:
        async for number in signals:
            if number in _STOP_SIGNALS:
                workers.stop_at_once()

    with suppress(OSError):
        # The terminal may have been closed.
        _print_stopping(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_once)
        await workers.stop()
        nursery.cancel_scope.cancel()


def _print_workers(settings: Settings, port: int) -> str:
    """Tell where the workers serve, and return that address."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{'http' if settings.tls_cert is None else 'https'}://{host}:{port}{settings.base_path}"
    if settings.log_format == "json":
        _log.info("the server listens", extra={"url": url, "workers": settings.workers})
    else:
        lines = (
            f"actorchat serves {url} with {settings.workers} workers",
            "",
            f"Sign in to the console with a link from: actorchat operators link {folder_option(settings)}",
            "SIGHUP replaces the workers one at a time. Ctrl-C stops them.",
        )
        echo("\n".join(lines))
    return url


def _print_welcome(url: str, settings: Settings, console_link: Callable[[], str | None]) -> None:
    if settings.log_format == "json":
        # `websocket_transport` is the transport in use, also when the setting is `auto`.
        _log.info("the server listens", extra={"url": url, "transport": settings.websocket_transport})
        return
    if settings.unix is not None:
        echo(f"actorchat serves {url}\n\nCtrl-C stops it.")
        return
    link = console_link()
    # Both have the same code. The page hands it to its link to the console.
    page = f"{url}/" if link is None else f"{url}/#{link.partition('#')[2]}"
    source = f" --source {settings.sources[0]}" if settings.sources else ""
    chat_command = f"actorchat chat {url}{source}"
    lines = (
        f"actorchat serves {url}",
        "",
        "Open this page in a browser: it shows the widget, the way to the console, and how to put it on a site.",
        f"  {page}",
        "Or chat from two more terminals:",
        f"  as a visitor:   {chat_command}",
        f"  as an operator: {chat_command} --operator {operator_options(settings)}",
        "",
        *(() if link is None else (f"Sign in to the console, once and within 15 minutes: {link}", "")),
        "Ctrl-C stops it.",
    )
    echo("\n".join(lines))


def _print_stopping(settings: Settings) -> None:
    if settings.log_format == "json":
        _log.info("the server stops; accepted messages are stored first")
    else:
        echo("Stopping: storing accepted messages first. A second Ctrl-C stops at once.")
