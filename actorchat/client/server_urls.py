"""Owns where a server's room, feed and HTTP side are, made from the one address a person knows.

Refuses to know connections.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import attrs

from actorchat.urls import without_secrets

_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}


@attrs.frozen
class ServerAddress:
    """One server: ``host`` and ``port``, ``secure`` for TLS, ``prefix`` the path it is mounted under."""

    host: str
    port: int
    secure: bool
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> "ServerAddress":
        """Read ``http(s)://`` or ``ws(s)://host[:port][/prefix]``; ``host:port`` alone means http.

        Raises ValueError naming what is wrong.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        shown = without_secrets(url)
        if parts.scheme not in _SECURE:
            raise ValueError(f"{shown}: the address starts with http://, https://, ws:// or wss://")
        if not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError(f"{shown}: expected an address like http://127.0.0.1:8000")
        secure = _SECURE[parts.scheme]
        return cls(parts.hostname, parts.port or (443 if secure else 80), secure, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The ``Host`` header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """The HTTP side's base address, without a trailing slash."""
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.prefix}"

    def room(self, chat: UUID, after: int | None) -> str:
        """The resource of a chat's room socket, resuming after a message index if one is given."""
        return f"{self.prefix}/ws/chats/{chat}" + ("" if after is None else f"?after={after}")

    def feed(self, sources: Sequence[str]) -> str:
        """The resource of the operators' feed; no sources means all the operator's."""
        query = urlencode([("source", source) for source in sources])
        return f"{self.prefix}/ws/operators" + (f"?{query}" if query else "")
