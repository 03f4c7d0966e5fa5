"""Decides by the `Origin` header whether a page may call this server."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import trio

from actorchat.chat.limits import TokenBucket

__all__ = ["AllowedOrigins", "InvalidOrigin", "parse_origin"]

_log: Final = logging.getLogger("actorchat.http")

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE)
_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_OPAQUE_HOST: Final = re.compile(r"[^\s/?#@,*%]+")
_AUTHORITY: Final = re.compile(r"(.*?)(?::([0-9]*))?", re.DOTALL)

REPEATED_AFTER: Final = 600.0
"""A refused origin is logged at most once in this many seconds."""

_LOGGED_A_MINUTE: Final = 10
_MAX_LOGGED: Final = 1_000
"""Refused origins that are remembered. Beyond that the least recently logged one is dropped."""
_SHOWN_CHARACTERS: Final = 200


class InvalidOrigin(ValueError):  # noqa: N818 - describes a value
    """No browser would send this origin. The text says why, and what would be valid."""


def parse_origin(text: str) -> str:
    """Normalize an entry of the setting `origins` to the form that browsers send. Raises InvalidOrigin.

    `https://*.shop.example` stands for every subdomain. `null` and origins of apps, such as `capacitor://localhost`,
    are valid too.
    """
    if text.lower() in ("null", "file://"):
        return text.lower()
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise InvalidOrigin("expected an origin like https://shop.example, with its scheme")
    scheme, rest = match[1].lower(), match[2].removesuffix("/")
    if "@" in rest:
        raise InvalidOrigin("an origin must not contain a user name or password")
    if re.search(r"[/?#]", rest):
        raise InvalidOrigin("an origin must end with the host or port, without a path")
    if scheme in ("ws", "wss"):
        raise InvalidOrigin(f"the origin of a page begins with http:// or https://, not with {scheme}://")
    if scheme not in _DEFAULT_PORTS:
        if _OPAQUE_HOST.fullmatch(rest) is None:
            raise InvalidOrigin(f"expected one host after {scheme}://, as in capacitor://localhost")
        return f"{scheme}://{rest.lower()}"
    host, port = _split(rest)
    wildcard = host.startswith("*.")
    if "*" in host.removeprefix("*."):
        raise InvalidOrigin("a wildcard must be the first part of the host, as in https://*.shop.example")
    if port and not 0 < int(port) < 65_536:
        raise InvalidOrigin(f"invalid port {port}")
    normalized = ("*." if wildcard else "") + _ascii_host(host.removeprefix("*."))
    return _serialized(scheme, normalized, port)


def _split(authority: str) -> tuple[str, str]:
    """Split an authority into host and port; the port is empty if there is none."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None or (authority.startswith("[") and authority.endswith("]")):
        return authority, ""
    return match[1], (match[2] or "").lstrip("0") or ("0" if match[2] else "")


def _serialized(scheme: str, host: str, port: str) -> str:
    return f"{scheme}://{host}" + ("" if port in ("", _DEFAULT_PORTS[scheme]) else f":{port}")


def _ascii_host(host: str) -> str:
    """Normalize a host to the form that browsers send: lower case, IDN as `xn--…`, IPv6 in its short form."""
    if host.startswith("["):
        try:
            return f"[{IPv6Address(host[1:-1] if host.endswith(']') else host[1:]).compressed}]"
        except ValueError:
            raise InvalidOrigin(f"{host} is not an IPv6 address") from None
    if not host.isascii():
        # Imported here because its tables are slow to load, and few deployments need them.
        import idna

        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise InvalidOrigin(f"the host can't be written in ASCII ({error}); write it as xn--…") from None
    host = host.lower()
    if _HOST.fullmatch(host) is None:
        raise InvalidOrigin(f"{host!r} is not a host" if host else "expected a host name or address after the scheme")
    if _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        try:
            IPv4Address(host)
        except ValueError:
            raise InvalidOrigin(f"{host} is not an IPv4 address with four parts") from None
    return host


class AllowedOrigins:
    """The origins whose pages may call this server: its own origin, and the configured ones."""

    def __init__(self, configured: Collection[str] = (), clock: Callable[[], float] = trio.current_time) -> None:
        """`configured` are results of `parse_origin`. `clock` returns seconds and limits how often is logged."""
        self._exact = frozenset(configured)
        self._wildcards = tuple(
            (scheme, host.removeprefix("*"), port)
            for scheme, host, port in map(_parts, configured)
            if host.startswith("*.")
        )
        self._clock = clock
        self._logged: OrderedDict[str, float] = OrderedDict()
        self._log_bucket: TokenBucket | None = None

    def allow(self, origin: str | None, host: str | None) -> bool:
        """Return whether a request with the headers `Origin` and `Host` is allowed.

        It is if it has no `Origin`, if both name the same host and port, or if the origin is configured. Comparison
        ignores case and the scheme's default port.
        """
        if origin is None:
            return True
        origin = origin.lower()
        if origin in self._exact:
            return True
        scheme, name, port = _parts(origin)
        if scheme not in _DEFAULT_PORTS or not (_HOST.fullmatch(name) or name.startswith("[")):
            return False
        port = port or _DEFAULT_PORTS[scheme]
        own, own_port = _split(host.lower()) if host else ("", "")
        if (name, port) == (own, own_port or _DEFAULT_PORTS[scheme]):
            return True
        if _serialized(scheme, name, port) in self._exact:
            return True
        return any(
            scheme == wanted_scheme and name.endswith(suffix) and port == (wanted_port or _DEFAULT_PORTS[scheme])
            for wanted_scheme, suffix, wanted_port in self._wildcards
        )

    def log_refusal(self, origin: str, host: str | None) -> None:
        """Log that a page of `origin` was refused, and what to configure. The number of log lines is limited."""
        if self._should_log(origin):
            try:
                advice = f'if its pages may use the chat, set origins = ["{parse_origin(origin)}"]'
            except InvalidOrigin:
                advice = "this is not an origin that could be allowed"
            _log.warning(
                "refused a page of the origin %.*r: it is not this server's own (Host is %.*r), and not in origins; %s",
                _SHOWN_CHARACTERS,
                origin,
                _SHOWN_CHARACTERS,
                host,
                advice,
            )

    def _should_log(self, origin: str) -> bool:
        now = self._clock()
        if now - self._logged.get(origin, -REPEATED_AFTER) < REPEATED_AFTER:
            return False
        if self._log_bucket is None:
            self._log_bucket = TokenBucket(_LOGGED_A_MINUTE / 60, _LOGGED_A_MINUTE, now)
        if self._log_bucket.take(now):
            return False
        self._logged[origin] = now
        self._logged.move_to_end(origin)
        if len(self._logged) > _MAX_LOGGED:
            self._logged.popitem(last=False)
        return True


def _parts(origin: str) -> tuple[str, str, str]:
    """Split an origin in lower case into scheme, host and port; all are empty if it is not an origin."""
    match = _ORIGIN.fullmatch(origin)
    return ("", "", "") if match is None else (match[1], *_split(match[2]))
