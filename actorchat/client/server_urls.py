"""Parses the address of a server and builds the URLs of its HTTP API, rooms and feed."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import attrs

from actorchat.urls import without_secrets

_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}


@attrs.frozen
class ServerAddress:
    """The address of a server; ``secure`` means TLS, ``prefix`` is the path the server is mounted under."""

    host: str
    port: int
    secure: bool
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> "ServerAddress":
        """Parse ``http(s)://`` or ``ws(s)://host[:port][/prefix]``; without a scheme, http is assumed.

        Raises ValueError with a text that says what is wrong.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        shown = without_secrets(url)
        if parts.scheme not in _SECURE:
            raise ValueError(f"{shown}: the address must start with http://, https://, ws:// or wss://")
        if not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError(f"{shown}: expected an address like http://127.0.0.1:8000")
        secure = _SECURE[parts.scheme]
        return cls(parts.hostname, parts.port or (443 if secure else 80), secure, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header, with the port only if it is not the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """The base URL of the HTTP API, without a trailing slash."""
        return f"{self._root}{self.prefix}"

    @property
    def _root(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.authority}"

    def link(self, url: str) -> str:
        """The whole URL of a link from the server, such as that of a file.

        A server that does not know under which path it is mounted leaves the path out of its links.
        """
        if not url.startswith("/"):
            return url
        return f"{self._root}{url}" if url.startswith(f"{self.prefix}/") else f"{self.origin}{url}"

    def room(self, chat: UUID, after: int | None, *, quiet: bool = False) -> str:
        """The path of a chat's room socket; with ``after`` the server replays the messages after that index."""
        fields = {"after": after, "quiet": 1 if quiet else None}
        query = urlencode({name: value for name, value in fields.items() if value is not None})
        return f"{self.prefix}/ws/chats/{chat}" + (f"?{query}" if query else "")

    def feed(self, sources: Sequence[str]) -> str:
        """The path of the operators' feed; no sources means all sources of the operator."""
        query = urlencode([("source", source) for source in sources])
        return f"{self.prefix}/ws/operators" + (f"?{query}" if query else "")
