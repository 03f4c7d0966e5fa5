"""Tells systemd about the state of the service, through the socket that it names in the environment."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Final

__all__ = ["ServiceManager"]

_log: Final = logging.getLogger("actorchat.cli")


class ServiceManager:
    """The service manager that started this process. Without one, the methods do nothing; they never raise."""

    def __init__(self, address: str | None = None) -> None:
        """`address` is by default that of the environment. It is removed there, so that no child process uses it."""
        self._address = os.environ.pop("NOTIFY_SOCKET", "") if address is None else address

    def ready(self, status: str) -> None:
        """The server listens, or has finished reloading its settings. `status` is shown by `systemctl status`."""
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The settings are being reloaded; `ready` follows."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The server drains."""
        self._notify("STOPPING=1", "STATUS=stores accepted messages and stops")

    def _notify(self, *lines: str) -> None:
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        # An abstract socket has an @ instead of a leading zero byte.
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            _log.warning("systemd can't be notified through %s: %s", self._address, error.strerror or error)
