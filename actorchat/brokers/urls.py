"""Reads the URL that names a message broker."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from actorchat.urls import is_host

__all__ = ["BrokerUrl", "InvalidBrokerUrl", "parse_broker_url"]

_PREFIX: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PORTS: Final = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671, "nats": 4222, "tls": 4222}
_LIBRARIES: Final = {"redis": "coredis", "rediss": "coredis", "amqp": "pamqp", "amqps": "pamqp"}
_EXTRAS: Final = {"redis": "redis", "rediss": "redis", "amqp": "amqp", "amqps": "amqp"}
_PARAMETERS: Final = {
    "memory": {"prefix"},
    "redis": {"prefix", "maxlen", "format"},
    "rediss": {"prefix", "maxlen", "format", "ca"},
    "amqp": {"prefix"},
    "amqps": {"prefix", "ca"},
    "nats": {"prefix", "maxlen", "creds"},
    "tls": {"prefix", "maxlen", "creds", "ca"},
}
_SCHEMES: Final = "redis://, rediss://, amqp://, amqps://, nats://, tls:// or memory://"
_MAXLEN: Final = 100_000


class InvalidBrokerUrl(ValueError):  # noqa: N818 - names the state of the URL
    """The URL names no broker. The text says what is wrong with it, without its password."""


@attrs.frozen(kw_only=True)
class BrokerUrl:
    """A broker's URL in parts. `path` is a database of Redis, or a virtual host of RabbitMQ.

    `prefix` is put before the names of the channels. `maxlen` is about how many entries a stream keeps.
    `faststream`: Redis entries have the one field that FastStream reads. `ca` is a file of certificates to trust, None
    for those of the system. `creds` is a file with the credentials of a NATS user. A `password` of NATS without a
    `username` is a token.
    """

    scheme: str
    host: str = ""
    port: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    path: str = ""
    prefix: str = ""
    maxlen: int = _MAXLEN
    faststream: bool = False
    ca: Path | None = None
    creds: Path | None = None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("rediss", "amqps", "tls")

    @property
    def name(self) -> str:
        """The broker's name in storage, logs and responses, without user, password and parameters."""
        if self.scheme == "memory":
            return "memory://" + (f"?prefix={self.prefix}" if self.prefix else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = "" if self.path in ("", "/") else f"/{self.path}"
        return f"{self.scheme}://{host}:{self.port}{path}" + (f"?prefix={self.prefix}" if self.prefix else "")


def parse_broker_url(url: str) -> BrokerUrl:
    """Parse a broker's URL. Raises `InvalidBrokerUrl`, also if the library for such a broker isn't installed."""
    try:
        parts = urlsplit(url)
        port = parts.port
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        reason = "its port is no number from 0 to 65535" if "ort" in str(error) else "it can't be read"
        raise InvalidBrokerUrl(f"expected {_SCHEMES}; {reason}") from None
    scheme = parts.scheme
    if scheme not in _PARAMETERS:
        raise InvalidBrokerUrl(f"expected {_SCHEMES}")
    library = _LIBRARIES.get(scheme)
    if library is not None and find_spec(library) is None:
        raise InvalidBrokerUrl(f'{scheme}:// needs a library: type pip install "actorchat[{_EXTRAS[scheme]}]"')
    if scheme == "memory":
        if parts.netloc or parts.path:
            raise InvalidBrokerUrl("memory:// names no host")
        return BrokerUrl(scheme=scheme, **_parameters(scheme, query))
    if not parts.hostname:
        raise InvalidBrokerUrl(f"expected a host, as in {scheme}://broker.example:{_PORTS[scheme]}")
    if not is_host(parts.hostname):
        raise InvalidBrokerUrl(f"{parts.hostname} can't be the name of a host")
    path = unquote(parts.path[1:])
    if scheme.startswith("redis"):
        if not re.fullmatch(r"[0-9]{0,4}", path):
            raise InvalidBrokerUrl("expected the number of a database behind the host, as in redis://broker.example/0")
        path = "" if path == "" else str(int(path))
    elif scheme in ("nats", "tls") and path:
        raise InvalidBrokerUrl("nothing may stand behind the host, as in nats://broker.example")
    username, password = ((None if each is None else unquote(each)) for each in (parts.username, parts.password))
    if scheme in ("nats", "tls") and password is None:
        # As clients of NATS read it: a token.
        username, password = None, username
    return BrokerUrl(
        scheme=scheme,
        host=parts.hostname,
        port=port or _PORTS[scheme],
        username=username or None,
        password=password,
        path=path,
        **_parameters(scheme, query),
    )


# Any: mypy can't match a dict's values with keyword arguments.
def _parameters(scheme: str, query: list[tuple[str, str]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in query:
        if name not in _PARAMETERS[scheme]:
            known = ", ".join(sorted(_PARAMETERS[scheme]))
            raise InvalidBrokerUrl(f"{scheme}:// has no parameter {name}; there are {known}")
        if name in values or (name == "format" and "faststream" in values):
            raise InvalidBrokerUrl(f"the parameter {name} is there twice")
        if name == "maxlen":
            if not re.fullmatch(r"[0-9]{1,12}", value) or not int(value):
                raise InvalidBrokerUrl("maxlen: expected a whole number from 1 on")
            values[name] = int(value)
        elif name == "format":
            if value not in ("plain", "faststream"):
                raise InvalidBrokerUrl("format: expected plain or faststream")
            values["faststream"] = value == "faststream"
        elif name in ("ca", "creds"):
            values[name] = Path(value).expanduser()
        else:
            if not _PREFIX.fullmatch(value):
                raise InvalidBrokerUrl("prefix: expected 1 to 64 of letters, digits and . _ : -")
            if scheme in ("nats", "tls") and ("" in value.split(".")[:-1]):
                raise InvalidBrokerUrl("prefix: a subject of NATS has something before each dot")
            values[name] = value
    return values
