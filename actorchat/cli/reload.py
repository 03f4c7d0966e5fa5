"""What SIGHUP means to a running server: settings are read again, unless its terminal has gone."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import attrs
import trio

from actorchat.server.settings import InvalidSettings, Settings

if TYPE_CHECKING:
    from actorchat.server.serving import Server

__all__ = ["Reloader", "Terminal"]

_log: Final = logging.getLogger("actorchat.cli")

_LIVE: Final = frozenset({"tls_cert", "tls_key", "log_format"})
"""Settings that a running server takes over."""


@attrs.frozen
class Terminal:
    """The terminal that a process was started from. `ends_with_it` is false if there is none, or under `nohup`."""

    ends_with_it: bool

    @classmethod
    def of_this_process(cls) -> Terminal:
        """Call it before handlers of signals are set."""
        hangup = getattr(signal, "SIGHUP", None)
        ignored = hangup is None or signal.getsignal(hangup) is signal.SIG_IGN
        return cls(not ignored and _has_terminal())

    def has_gone(self) -> bool:
        """Whether a SIGHUP says that the terminal was closed, so that nobody is left to stop the process."""
        return self.ends_with_it and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


class Reloader:
    """Takes new settings over into a running server; `settings` are those in force, `load` reads them again."""

    def __init__(self, server: Server, settings: Settings, load: Callable[[], Settings]) -> None:
        self.settings: Settings = settings
        self._server = server
        self._load = load
        self._turn = trio.Lock()

    async def reload(self) -> None:
        """Take the certificate and the log's format over; files of the same names are read again.

        Whatever is wrong is logged, and what was in force stays. Never raises.
        """
        from actorchat.server.logging_setup import configure_logging

        if self._turn.statistics().tasks_waiting:
            # That one will see the same files.
            return
        async with self._turn:
            try:
                fresh = await trio.to_thread.run_sync(self._load, abandon_on_cancel=True)
            except InvalidSettings as error:
                for fault in error.faults:
                    _log.error("nothing is reloaded, the settings are not good: %s", fault)
                return
            except Exception:
                _log.exception("nothing is reloaded, the settings can't be read")
                return
            await self._take_certificate(fresh)
            configure_logging(fresh.log_format)
            self.settings = attrs.evolve(self.settings, log_format=fresh.log_format)
            _log.info("the settings are reloaded")
            changed = list(_changed(self.settings, fresh))
            if (self.settings.tls_cert is None) != (fresh.tls_cert is None):
                changed.append("tls_cert")
            if changed:
                _log.warning("restart the server to use what has changed in: %s", ", ".join(changed))

    async def _take_certificate(self, fresh: Settings) -> None:
        if self.settings.tls_cert is None or fresh.tls_cert is None:
            return
        try:
            await self._server.reload_certificate(fresh.tls_cert, fresh.tls_key)
        except InvalidSettings as error:
            for fault in error.faults:
                _log.error("the certificate is not reloaded, the old one stays: %s", fault)
            return
        self.settings = attrs.evolve(self.settings, tls_cert=fresh.tls_cert, tls_key=fresh.tls_key)
        _log.info("new connections use the certificate in %s", fresh.tls_cert)


def _changed(old: attrs.AttrsInstance, new: attrs.AttrsInstance, prefix: str = "") -> Iterator[str]:
    """Names of settings that differ and are not taken over."""
    for field in attrs.fields(type(old)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if attrs.has(type(before)):
            yield from _changed(before, after, f"{field.name}.")
        elif before != after and field.name not in _LIVE:
            yield prefix + field.name
