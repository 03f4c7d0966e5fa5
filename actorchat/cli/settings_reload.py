"""Reloads settings after SIGHUP, and detects a SIGHUP that comes from a closed terminal."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Final

import attrs
import trio

from actorchat.server.settings import InvalidSettings, Settings

if TYPE_CHECKING:
    from actorchat.server.serving import Server

__all__ = ["Reloader", "Terminal", "reload_beside_workers"]

_log: Final = logging.getLogger("actorchat.cli")

_RELOADABLE: Final = frozenset({"tls_cert", "tls_key", "log_format", "log_level"})
"""Settings that a running server can change."""


@attrs.frozen
class Terminal:
    """The terminal that this process was started from.

    `stops_server`: closing the terminal stops the server. False without a terminal, and under `nohup`.
    """

    stops_server: bool

    @classmethod
    def of_this_process(cls) -> Terminal:
        """Look at the terminal and at the handler of SIGHUP. Call it before signal handlers are installed."""
        hangup = getattr(signal, "SIGHUP", None)
        ignored = hangup is None or signal.getsignal(hangup) is signal.SIG_IGN
        return cls(not ignored and _has_terminal())

    def was_closed(self) -> bool:
        """Whether a SIGHUP means that the terminal was closed, in which case nobody can press Ctrl-C any more."""
        return self.stops_server and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


class Reloader:
    """Applies changed settings to a running server.

    `settings` are the current ones; `load` reads them from their files again, in a thread.
    """

    def __init__(self, server: Server, settings: Settings, load: Callable[[], Settings]) -> None:
        self.settings: Settings = settings
        self._server = server
        self._load = load
        self._lock = trio.Lock()

    async def reload(self) -> None:
        """Apply the TLS certificate, the keys, the log format and level. Files are read again even if unchanged.

        Errors are logged, and the current settings stay. Raises only `Cancelled`.
        """
        from actorchat.server.logging_setup import configure_logging

        if self._lock.statistics().tasks_waiting:
            # A reload that has not begun yet will read the same files.
            return
        async with self._lock:
            try:
                new = await trio.to_thread.run_sync(self._load, abandon_on_cancel=True)
            except InvalidSettings as error:
                for fault in error.faults:
                    _log.error("reload failed, the old settings stay: %s", fault)
                return
            except Exception:
                _log.exception("reload failed, the old settings stay")
                return
            await self._reload_certificate(new)
            await self._reload_keys(new)
            configure_logging(new.log_format, new.log_level)
            self.settings = attrs.evolve(self.settings, log_format=new.log_format, log_level=new.log_level)
            _log.info("the settings are reloaded")
            ignored = list(_not_reloadable(self.settings, new))
            if (self.settings.tls_cert is None) != (new.tls_cert is None):
                ignored.append("tls_cert")
            _warn_of_ignored(ignored)

    async def _reload_certificate(self, new: Settings) -> None:
        if self.settings.tls_cert is None or new.tls_cert is None:
            return
        try:
            await self._server.reload_certificate(new.tls_cert, new.tls_key)
        except InvalidSettings as error:
            for fault in error.faults:
                _log.error("the certificate is not reloaded, the old one stays: %s", fault)
            return
        self.settings = attrs.evolve(self.settings, tls_cert=new.tls_cert, tls_key=new.tls_key)
        _log.info("new connections use the certificate in %s", new.tls_cert)

    async def _reload_keys(self, new: Settings) -> None:
        changed = attrs.evolve(
            self.settings,
            secret=new.secret,
            public_key=new.public_key,
            keys=new.keys,
        )
        from actorchat.server.bootstrap import StartFailed

        try:
            await self._server.reload_keys(changed)
        except InvalidSettings as error:
            for fault in error.faults:
                _log.error("the keys are not reloaded, the old ones stay: %s", fault)
        except StartFailed as error:
            _log.error("the keys are not reloaded, the old ones stay: %s", error)
        else:
            self.settings = changed


async def reload_beside_workers(settings: Settings, load: Callable[[], Settings], fixed: Collection[str]) -> Settings:
    """Apply the log format and level to the process that runs workers, and warn if those in `fixed` have changed.

    Returns the settings that hold now. Raises only `Cancelled`.
    """
    from actorchat.server.logging_setup import configure_logging

    try:
        new = await trio.to_thread.run_sync(load, abandon_on_cancel=True)
    except InvalidSettings:
        # A new worker reports this, or knows the setting because it has a newer version.
        return settings
    except Exception:
        _log.exception("the settings can't be read")
        return settings
    configure_logging(new.log_format, new.log_level)
    _warn_of_ignored([name for name in fixed if getattr(settings, name) != getattr(new, name)])
    return attrs.evolve(settings, log_format=new.log_format, log_level=new.log_level)


def _warn_of_ignored(names: Collection[str]) -> None:
    if names:
        _log.warning("these settings changed but need a restart of the server: %s", ", ".join(names))


def _not_reloadable(old: attrs.AttrsInstance, new: attrs.AttrsInstance, prefix: str = "") -> Iterator[str]:
    """The names of settings that differ but cannot change in a running server."""
    for field in attrs.fields(type(old)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if attrs.has(type(before)):
            yield from _not_reloadable(before, after, f"{field.name}.")
        elif before != after and field.name not in _RELOADABLE:
            yield prefix + field.name
