"""Defines all settings of a deployment, their defaults, and the validation of their values."""

# ruff: noqa: RUF009 - the calls in class bodies define attrs fields

from __future__ import annotations

import json
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import attrs

from actorchat.blobs.s3_urls import InvalidS3Url, parse_s3_url
from actorchat.brokers.urls import BrokerUrl, InvalidBrokerUrl, parse_broker_url
from actorchat.chat.blocks import normal_network
from actorchat.chat.file_rules import FileRule, FileRules
from actorchat.chat.model import OnClosed, Policy, Retention
from actorchat.http.origins import InvalidOrigin, parse_origin
from actorchat.http.proxies import PROXY_HEADERS, parse_network
from actorchat.http.source_names import is_source_name
from actorchat.urls import is_host, without_secrets

__all__ = [
    "DEFAULT_DATA",
    "AccountSettings",
    "AttachmentSettings",
    "BlockedSettings",
    "ChatSettings",
    "HttpSettings",
    "InvalidSettings",
    "KeySettings",
    "LimitSettings",
    "MetricsSettings",
    "SettingFault",
    "Settings",
    "SourceAttachmentSettings",
    "TelemetrySettings",
    "broker_urls",
    "weakness_of",
]

DEFAULT_DATA: Final = Path("actorchat-data")
SHORTEST_SECRET: Final = 32
"""In bytes. HS256 is no stronger than its key, and its hash has 32 bytes."""

SHORTEST_TOKEN: Final = 16
"""In characters, of the token for metrics."""

_MIN_DISTINCT_BYTES: Final = 8
"""A secret must contain this many different bytes. Even of 32 random decimal digits, over 99.9 % of the secrets do."""

_MAX_PERIOD: Final = 16
"""A secret that repeats a pattern shorter than this is weak."""

DAY: Final = 86_400.0
"""In seconds."""

_MOST_DAYS: Final = 36_500

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")

_HAS_REACTOR: Final = sys.platform != "win32"
"""The reactor waits for the file descriptor of its selector. Only epoll and kqueue have one."""

T = TypeVar("T")


@attrs.frozen
class SettingFault:
    """One invalid setting: its name, what is wrong and what would be valid, and where the value came from."""

    name: str
    detail: str
    origin: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" + (f" (from {self.origin})" if self.origin else "")


class InvalidSettings(Exception):  # noqa: N818 - names the state of the settings
    """No server can start with these settings. `faults` has one entry or more, one for each invalid setting."""

    def __init__(self, faults: tuple[SettingFault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


@attrs.frozen
class _Invalid:
    """Takes the place of an invalid value until all faults are known and can be reported together."""

    detail: str


def _valid(value: T) -> T | None:
    return None if isinstance(value, _Invalid) else value


class _InvalidValue(ValueError):  # noqa: N818 - describes a value
    """A value is invalid for the reason in its text, which replaces the general text of the setting."""


class _InvalidEntry(ValueError):  # noqa: N818 - describes a value
    """One entry of a list is invalid."""

    def __init__(self, entry: object) -> None:
        super().__init__()
        self.entry = entry


# Any: a value is text, a TOML type, or whatever an embedding program passes.
_Parser = Callable[[Any], T]


def _setting(expected: str, parse: _Parser[object], default: object, *, secret: bool = False) -> Any:
    """Return an attrs field that converts its value with `parse`. A value that `parse` rejects becomes `_Invalid`.

    The fault quotes the value unless the setting is `secret`. Returns Any because the annotation has the field's type.
    """

    def convert(value: Any) -> object:
        try:
            return parse(value)
        except _InvalidValue as reason:
            return _Invalid(str(reason))
        except _InvalidEntry as error:
            return _Invalid(f"expected {expected}, got {_shown(error.entry)}")
        except (ValueError, TypeError):
            # No caller sees this object: Settings.__attrs_post_init__ raises.
            return _Invalid(f"expected {expected}" + ("" if secret else f", got {_shown(value)}"))

    return attrs.field(default=default, converter=convert, repr=False if secret else _repr)


def _shown(value: object) -> str:
    text = without_secrets(str(value) if isinstance(value, str | Path) else repr(value))
    return repr(text) if text == "" or " " in text else text


def _repr(value: object) -> str:
    return without_secrets(repr(value))


def _integer(low: int, high: int) -> _Parser[int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool | float) or not low <= (number := int(value)) <= high:
            raise ValueError
        return number

    return parse


def _number(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= (number := float(value)) <= 1e9:
        raise ValueError
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


def _optional(parse: _Parser[T]) -> _Parser[T | None]:
    return lambda value: None if value is None else parse(value)


def _path(value: Any) -> Path:
    if isinstance(value, str):
        value = _text(value)
    try:
        return Path(value).expanduser()
    except RuntimeError:
        # The user in ~user does not exist, or has no home folder.
        raise ValueError from None


def _each(parse: _Parser[str]) -> _Parser[tuple[str, ...]]:
    """Return a parser for several values: a list, a table with the values as keys, or comma-separated text."""

    def parse_all(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, Mapping) and any(options != {} for options in value.values()):
            raise ValueError
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            raise TypeError
        return tuple(map(parse_entry, value))

    def parse_entry(entry: Any) -> str:
        try:
            return parse(entry)
        except _InvalidValue:
            raise
        except (ValueError, TypeError):
            raise _InvalidEntry(entry) from None

    return parse_all


def _source(value: Any) -> str:
    if not is_source_name(value):
        raise ValueError
    return str(value)


def _parameter(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable():
        raise ValueError
    return value


def _origin(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    try:
        return parse_origin(value)
    except InvalidOrigin as error:
        # A value with @ may contain a password, so it is not shown.
        raise _InvalidValue(f"{error}" if "@" in value else f"{error}, got {_shown(value)}") from None


def _flag(value: Any) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(value, bool):
        return value
    if (text := str(value).lower()) not in known:
        raise ValueError
    return known[text]


def _days(value: Any) -> float:
    if (days := _number(value)) > _MOST_DAYS:
        raise ValueError
    return days


def _source_days(value: Any) -> dict[str, float]:
    """Parse a table of numbers, or text like `shop=90,blog=365`."""
    if isinstance(value, str):
        value = dict(part.split("=", 1) for part in filter(None, map(str.strip, value.split(","))))
    if not isinstance(value, Mapping):
        raise TypeError
    return {_source(source): _days(days) for source, days in value.items()}


def _source_origins(value: Any) -> dict[str, tuple[str, ...]]:
    """Parse a table of lists, or text like `shop=https://a.example,blog=https://b.example`."""
    if isinstance(value, str):
        table: dict[str, list[str]] = {}
        for part in filter(None, map(str.strip, value.split(","))):
            source, _, origin = part.partition("=")
            table.setdefault(source, []).append(origin)
        value = table
    if not isinstance(value, Mapping):
        raise TypeError
    return {_source(source): _each(_origin)(origins) for source, origins in value.items()}


def _storage(value: Any) -> str:
    scheme, _, path = value.partition(":///")
    if value.startswith("postgresql://") and value != "postgresql://" and "\0" not in value:
        if find_spec("psycopg") is None:
            raise _InvalidValue('postgresql:// needs a library: type pip install "actorchat[postgres]"')
        return str(value)
    # SQLite takes `:memory:` for a database in memory; here it would become a file of that name.
    if value == "memory://" or (scheme == "sqlite" and path not in ("", ":memory:") and "\0" not in path):
        return str(value)
    raise ValueError


def _broker(value: Any) -> str:
    try:
        parse_broker_url(_text(value))
    except InvalidBrokerUrl as error:
        raise _InvalidValue(f"{error}, got {_shown(value)}") from None
    return str(value)


def _bus(value: Any) -> str:
    text = _text(value)
    if text in ("auto", "local", "postgres"):
        return text
    if text.startswith("postgresql://"):
        return _storage(text)
    if not text.startswith(("redis://", "rediss://")):
        raise ValueError
    return _broker(text)


def _node_name(value: Any) -> str:
    if value != "" and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", _text(value)):
        raise ValueError
    return str(value)


def _blob_store(value: Any) -> str:
    if value == "":
        return ""
    try:
        parse_s3_url(_text(value))
    except InvalidS3Url as error:
        raise _InvalidValue(f"{error}, got {_shown(value)}") from None
    return str(value)


def _key(value: Any) -> str:
    if len(key := _text(value).encode()) < SHORTEST_SECRET:
        raise ValueError
    if weakness := weakness_of(key):
        raise _InvalidValue(f"expected random characters; this secret is {weakness}")
    return str(value)


def _secrets(value: Any) -> tuple[str, ...]:
    try:
        return _each(_key)(value)
    except _InvalidEntry:
        # Its text would be shown.
        raise ValueError from None


def weakness_of(secret: bytes) -> str | None:
    """Return why `secret` is too weak to sign tokens, worded to follow "it is"; None if no weakness is found."""
    if len(secret) < SHORTEST_SECRET:
        return "too short"
    if secret.startswith((b"-----BEGIN", b"ssh-")):
        return "a private or public key, not a shared secret"
    repeats = any(secret[period:] == secret[:-period] for period in range(1, _MAX_PERIOD))
    return "easy to guess" if repeats or len(set(secret)) < _MIN_DISTINCT_BYTES else None


def _rate(default: float) -> Any:
    return _setting("a number, 0 (off) or more", _number, default)


def _at_least_one(value: Any) -> float:
    if (number := _number(value)) < 1:
        raise ValueError
    return number


def _choice(*names: str) -> Any:
    """Return a setting that takes one of `names`. The first is the default."""
    return _setting(" or ".join(names), _one_of(names), names[0])


def _one_of(names: tuple[str, ...]) -> _Parser[str]:
    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return parse


def _file() -> Any:
    return _setting("the path of a file", _optional(_path), None)


def _seconds(low: float, high: float) -> _Parser[float]:
    def parse(value: Any) -> float:
        if not low <= (number := _number(value)) <= high:
            raise ValueError
        return number

    return parse


@attrs.frozen(kw_only=True)
class LimitSettings:
    """Limits of what one user or network address may do. For rates and numbers of sockets, 0 = unlimited.

    `messages_per_second` and `burst` limit the messages of one user; `burst` is how many may come at once.
    `text_length` is in characters, `attachments` the number in one message.
    `visitors_per_minute` limits new anonymous visitors per network address. `chats_per_minute` limits the new chats of
    one user, `address_chats_per_minute` the new chats of users with a token per network address.
    `visitor_sockets` and `operator_sockets` are how many sockets one user may have open at a time.
    `session_age` is how many seconds an anonymous visitor can keep the same identity by renewing its token.
    """

    messages_per_second: float = _rate(10.0)
    burst: float = _setting("a number, 1 or more", _at_least_one, 30.0)
    text_length: int = _setting("a whole number, 1 to 16000", _integer(1, 16_000), 4000)
    attachments: int = _setting("a whole number, 0 to 100", _integer(0, 100), 10)
    visitors_per_minute: float = _rate(60.0)
    chats_per_minute: float = _rate(10.0)
    address_chats_per_minute: float = _rate(120.0)
    visitor_sockets: int = _setting("a whole number, 0 (unlimited) or more", _integer(0, 2**31), 50)
    operator_sockets: int = _setting("a whole number, 0 (unlimited) or more", _integer(0, 2**31), 500)
    session_age: float = _setting("a number of seconds, 60 to 1000000000", _seconds(60, 1e9), 2_592_000.0)


@attrs.frozen(kw_only=True)
class ChatSettings:
    """Rules of chats. Timeouts are in seconds, 0 = off.

    `capacity` is how many chats an operator may have, 0 = unlimited. `answer_timeout` returns an unanswered chat to the
    queue. `edit_within` is how long authors may edit and remove their messages, 0 = not at all. `idle_timeout` closes a
    chat in which the visitor has not replied. `reserved_timeout` deletes a chat without messages, counted from the last
    request for it. `retention_days` deletes a closed chat so many days after its last activity, 0 = never;
    `source_retention_days` has the days of single widget sources. `page_parameters` are the query parameters that are
    kept in the addresses of the pages that visitors view; others may hold secrets. `on_closed` is what a visitor's
    message does to a closed chat.
    """

    capacity: int = _setting("a whole number, 0 (unlimited) or more", _integer(0, 2**31), 0)
    answer_timeout: float = _rate(0.0)
    edit_within: float = _setting("a number of seconds, 0 (not at all) or more", _number, 900.0)
    idle_timeout: float = _rate(0.0)
    reserved_timeout: float = _rate(86_400.0)
    retention_days: float = _setting("a number of days, 0 (for ever) or more", _days, 0.0)
    source_retention_days: Mapping[str, float] = _setting(
        "a table of sources with a number of days, 0 (for ever) or more", _source_days, attrs.Factory(dict)
    )
    page_parameters: tuple[str, ...] = _setting("names of query parameters", _each(_parameter), ())
    on_closed: OnClosed = _setting(" or ".join(OnClosed), OnClosed, OnClosed.REOPEN)

    def policy(self) -> Policy:
        """The rules for chats that these settings describe."""
        return Policy(
            capacity=self.capacity,
            answer_timeout=self.answer_timeout,
            edit_within=self.edit_within,
            idle_timeout=self.idle_timeout,
            on_closed=self.on_closed,
            reserved_timeout=self.reserved_timeout,
            retention=Retention(
                self.retention_days * DAY, {name: days * DAY for name, days in self.source_retention_days.items()}
            ),
        )


def _header(value: Any) -> str:
    if not isinstance(value, str) or not _HEADER_NAME.fullmatch(value):
        raise ValueError
    return value.lower()


def _network(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return parse_network(value)


@attrs.frozen(kw_only=True)
class HttpSettings:
    """Settings of the HTTP server.

    `keep_alive` is how many seconds an idle connection stays open. A proxy in front has to close its idle connections
    earlier. `cors_headers` are the request headers, besides `authorization` and `content-type`, that pages of allowed
    origins may send. `trusted_proxies` are the addresses and networks of the proxies whose forwarding headers are
    used. `proxy_headers` names the headers that these proxies write: `x-forwarded` for `X-Forwarded-For` and
    `X-Forwarded-Proto`, or `forwarded`. The others are ignored, because a client could forge them.
    """

    keep_alive: float = _setting("a number of seconds, 1 to 3600", _seconds(1, 3600), 75.0)
    cors_headers: tuple[str, ...] = _setting("names of headers like traceparent", _each(_header), ())
    trusted_proxies: tuple[str, ...] = _setting(
        "addresses or networks like 127.0.0.1 or 10.0.0.0/8", _each(_network), ()
    )
    proxy_headers: str = _choice(*PROXY_HEADERS)


def _metrics_token(value: Any) -> str:
    if len(_text(value)) < SHORTEST_TOKEN or not value.isascii() or not value.isprintable():
        raise ValueError
    return str(value)


_MEDIA_TYPE: Final = re.compile(r"[a-z]+/[a-z0-9.+-]{1,64}")
_FILE_TYPES: Final = ("image", "video", "audio", "file", "program")


def _file_type(value: Any) -> str:
    if value not in _FILE_TYPES and not (isinstance(value, str) and _MEDIA_TYPE.fullmatch(value)):
        raise ValueError
    return str(value)


def _command(value: Any) -> tuple[str, ...]:
    """Parse a program with its arguments: a list, or text that is split like a shell does."""
    words = shlex.split(_text(value)) if isinstance(value, str) else list(value)
    if not words:
        raise ValueError
    return tuple(map(_text, words))


def _optional_command(value: Any) -> tuple[str, ...]:
    return () if value in ("", (), []) else _command(value)


def _link_base(value: Any) -> str:
    if value != "" and not (isinstance(value, str) and _LINK_BASE.fullmatch(value)):
        raise ValueError
    return str(value).rstrip("/")


def _scan_url(value: Any) -> str:
    if value == "":
        return ""
    try:
        parts = urlsplit(_text(value))
        has_place = is_host(parts.hostname or "") and parts.port != 0
        valid = parts.scheme in ("http", "https") and has_place and not parts.fragment
    except ValueError:
        valid = False
    if not valid or re.search(r"\s", value):
        raise ValueError
    # It refuses some addresses that `urlsplit` takes. Imported here, because it takes a while and is rarely needed.
    import httpx

    try:
        httpx.Request("POST", value)
    except httpx.InvalidURL as error:
        raise ValueError from error
    return str(value)


def _base_path(value: Any) -> str:
    path = _text(value).rstrip("/") if value != "" else ""
    if path and not _BASE_PATH.fullmatch(path):
        raise ValueError
    return path


_BASE_PATH: Final = re.compile(r"(/[0-9A-Za-z._~-]+)+")
_LINK_BASE: Final = re.compile(r"https?://[0-9A-Za-z.:\[\]-]+(/[0-9A-Za-z._~/-]*)?")


_SIZE: Final = "a whole number of bytes, 1 to 1099511627776"
_TYPES: Final = f"some of {', '.join(_FILE_TYPES)} and media types like application/pdf"
_PER_MESSAGE: Final = "a whole number, 0 to 100"


@attrs.frozen(kw_only=True)
class SourceAttachmentSettings:
    """Rules for files in the chats of one widget source. None: the rule for all sources.

    `size` is the maximum in bytes. `types` are the accepted types. `per_message` is how many files a message may have;
    it can't be more than `LimitSettings.attachments`.
    """

    size: int | None = _setting(_SIZE, _optional(_integer(1, 2**40)), None)
    types: tuple[str, ...] | None = _setting(_TYPES, _optional(_each(_file_type)), None)
    per_message: int | None = _setting(_PER_MESSAGE, _optional(_integer(0, 100)), None)


def _source_attachments(value: Any) -> dict[str, SourceAttachmentSettings]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise TypeError
    return {_source(name): _source_rules(name, rules) for name, rules in value.items()}


def _source_rules(source: str, value: Any) -> SourceAttachmentSettings:
    if isinstance(value, SourceAttachmentSettings):
        return value
    if not isinstance(value, Mapping):
        raise TypeError
    known = [field.name for field in attrs.fields(SourceAttachmentSettings)]
    if unknown := [name for name in value if name not in known]:
        raise _InvalidValue(f"{source} has no setting {unknown[0]}: expected some of {', '.join(known)}")
    return SourceAttachmentSettings(**value)


@attrs.frozen(kw_only=True)
class AttachmentSettings:
    """Rules for files in messages. `LimitSettings.attachments` limits their number; with 0, uploads are refused.

    `size` is the maximum in bytes. `types` are the accepted types, detected from the content: `image`, `video`,
    `audio`, `program`, `file` for all others, and media types such as `application/pdf`. `per_minute` limits the
    uploads of one user, `address_per_minute` those from one network address. A file that no message uses within
    `unused_timeout` seconds is deleted. A link is valid for at least `link_seconds` and at most twice as long. `url`
    is the prefix of links. `scan` is a command that is called with the path of each file: exit status 0 accepts the
    file, 1 rejects it. `scan_url` is the address of a service that each file is sent to by POST: a status of 200 to 299
    accepts the file, 406 and 422 reject it. After any other status, or after `scan_seconds`, the client may try again.
    `store` is the URL of an S3 bucket for the files; without it they are in the data folder.
    `unused_bytes` and `address_unused_bytes` limit the bytes that one user or one network address has uploaded but not
    sent; 0 = unlimited. One file of the maximum size is always accepted. `sources` has the rules of single widget
    sources, by name.
    """

    size: int = _setting(_SIZE, _integer(1, 2**40), 20_971_520)
    types: tuple[str, ...] = _setting(_TYPES, _each(_file_type), ("image", "video", "audio", "file"))
    per_minute: float = _rate(30.0)
    address_per_minute: float = _rate(120.0)
    unused_timeout: float = _setting("a number of seconds, 60 to 1000000000", _seconds(60, 1e9), 86_400.0)
    link_seconds: float = _setting("a number of seconds, 60 to 86400", _seconds(60, 86_400), 600.0)
    url: str = _setting(
        "an address like https://chat.example, or nothing", lambda value: value and _link_base(value), ""
    )
    scan: tuple[str, ...] = _setting("a command like clamdscan --no-summary", _optional_command, ())
    scan_url: str = _setting("an address like http://127.0.0.1:9000/scan, or nothing", _scan_url, "")
    scan_seconds: float = _setting("a number of seconds, 1 to 600", _seconds(1, 600), 60.0)
    store: str = _setting("a URL like s3://bucket/prefix, or nothing", _blob_store, "")
    unused_bytes: int = _setting("a whole number, 0 (unlimited) or more", _integer(0, 2**50), 209_715_200)
    address_unused_bytes: int = _setting("a whole number, 0 (unlimited) or more", _integer(0, 2**50), 1_073_741_824)
    sources: Mapping[str, SourceAttachmentSettings] = _setting(
        "tables like [attachments.sources.shop]", _source_attachments, attrs.Factory(dict)
    )

    def _conflicts(self, storage: str | None) -> Iterator[SettingFault]:
        """Yield a fault for each setting that does not go with another one. `storage` is the URL of the database."""
        store, scan, scan_url = map(_valid, (self.store, self.scan, self.scan_url))
        if storage == "memory://" and store:
            detail = "expected nothing, because memory:// keeps no record of the files in the bucket"
            yield SettingFault("attachments.store", detail)
        if scan and scan_url:
            yield SettingFault("attachments.scan_url", "expected nothing, because attachments.scan is set")


@attrs.frozen(kw_only=True)
class MetricsSettings:
    """Who may read `/metrics`: clients at the addresses in `networks` without a proxy in between, and everybody with
    the header `Authorization: Bearer` and `token`.
    """

    networks: tuple[str, ...] = _setting(
        "addresses or networks like 127.0.0.1 or 10.0.0.0/8", _each(_network), ("127.0.0.0/8", "::1/128")
    )
    token: str | None = _setting("at least 16 characters", _optional(_metrics_token), None, secret=True)


def _telemetry(value: Any) -> bool:
    if not _flag(value):
        return False
    try:
        installed = find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        raise _InvalidValue('OpenTelemetry is not installed: type pip install "actorchat[otel]"')
    return True


_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http"


def _collector(value: Any) -> str:
    if value == "":
        return ""
    parts = urlsplit(_text(value))
    has_place = is_host(parts.hostname or "") and parts.port != 0
    if parts.scheme not in ("http", "https") or not has_place or parts.username is not None or parts.query:
        raise ValueError
    if parts.fragment or re.search(r"\s", value):
        raise ValueError
    return str(value)


@attrs.frozen(kw_only=True)
class TelemetrySettings:
    """Spans for OpenTelemetry, which need the extra `otel`. `OTEL_…` variables of the environment apply too, and win.

    `enabled` sends spans to the collector at `endpoint`, by OTLP over HTTP; without it to `http://localhost:4318`.
    `service_name` is the name of this server there. With `continue_traces`, the span of a request belongs to the trace
    that its headers name. Otherwise it has a link to that trace, and callers can't decide what is recorded.
    """

    enabled: bool = _setting("true or false", _telemetry, False)
    endpoint: str = _setting("an address like http://127.0.0.1:4318, or nothing", _collector, "")
    service_name: str = _setting("a name", _text, "actorchat")
    continue_traces: bool = _setting("true or false", _flag, True)


@attrs.frozen(kw_only=True)
class AccountSettings:
    """Rules for operators' accounts.

    `session_age` is how many seconds an operator can stay signed in without giving the password again.
    `attempts_per_minute` limits the attempts to sign in with one login, `address_attempts_per_minute` those from one
    network address; successful ones don't count. 0 = unlimited.
    """

    session_age: float = _setting("a number of seconds, 60 to 1000000000", _seconds(60, 1e9), 2_592_000.0)
    attempts_per_minute: float = _rate(10.0)
    address_attempts_per_minute: float = _rate(30.0)


def _key_file(value: Any) -> str:
    kid, _, path = _text(value).rpartition("=")
    if not path or len(kid) > 256:
        raise ValueError
    return str(value)


def _key_set_url(value: Any) -> str:
    parts = urlsplit(_text(value))
    # Keys decide who may sign in, so nobody in between may replace them.
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"))
    if not safe or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError
    return str(value)


def _blocked_network(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return normal_network(value)


def _visitor_id(value: Any) -> str:
    return str(_integer(0, 2**53 - 1)(value))


@attrs.frozen(kw_only=True)
class BlockedSettings:
    """Visitors that may not use the chat: those with an id in `users`, and those at `addresses` and networks."""

    addresses: tuple[str, ...] = _setting(
        "addresses or networks like 192.0.2.7 or 10.0.0.0/8", _each(_blocked_network), ()
    )
    users: tuple[str, ...] = _setting("ids of visitors", _each(_visitor_id), ())


@attrs.frozen(kw_only=True)
class KeySettings:
    """Further keys whose tokens are accepted.

    `public` are PEM files with public keys of other issuers, written `kid=path` or `path`. `jwks` is the URL of the
    JSON Web Key Set of an identity provider. `previous_secrets` are secrets that signed tokens before the current one.
    """

    public: tuple[str, ...] = _setting("PEM files like site.pem or 2026=site.pem", _each(_key_file), ())
    jwks: str | None = _setting(
        "an address like https://id.example/jwks.json; http only on this machine", _optional(_key_set_url), None
    )
    previous_secrets: tuple[str, ...] = _setting(
        f"secrets of at least {SHORTEST_SECRET} bytes", _secrets, (), secret=True
    )


def _section(cls: Callable[..., T]) -> _Parser[T]:
    def parse(value: Any) -> T:
        return cls(**value) if isinstance(value, Mapping) else _own(value)

    def _own(value: Any) -> T:
        if type(value) is not cls:
            raise TypeError
        return value  # type: ignore[no-any-return] # checked above

    return parse


@attrs.frozen(kw_only=True)
class Settings:
    """All settings of one deployment. Invalid values raise InvalidSettings with all faults.

    `port` 0 takes any free port; None does not listen at all, so that only in-process sockets work. With `unix`,
    the server listens on a Unix socket at that path instead. `base_path` is the path below which a proxy serves it.
    `data` is the folder of the database and the secret, by default `./actorchat-data`; with `data` None and the
    storage `memory://` the server writes no files. `storage` None is SQLite in that folder. With `sources` empty,
    any valid name is a source. `bus` is how servers on one PostgreSQL database hear of each other at once: `auto` and
    `postgres` through that database, `local` not at all, so that it takes a second. `node_name` is the name of this
    server among them; without one it gets a new one with each start. `source_origins` has the
    origins from which visitors may use a source; a source that it does not name may be used from `origins`. Without
    `anonymous`, visitors have to be signed in by the site.
    """

    host: str = _setting("a host name or address", _text, "127.0.0.1")
    port: int | None = _setting("a port, 0 to 65535", _optional(_integer(0, 65_535)), 8000)
    unix: Path | None = _setting("the path of a socket", _optional(_path), None)
    base_path: str = _setting("a path like /chat, or nothing", _base_path, "")
    data: Path | None = _setting("the path of a folder", _optional(_path), None)
    storage: str | None = _setting("sqlite:///path, postgresql://… or memory://", _optional(_storage), None)
    bus: str = _setting("auto, local, postgres, postgresql://… or redis://…", _bus, "auto")
    node_name: str = _setting("up to 64 letters, digits and . _ -, or nothing", _node_name, "")
    broker: tuple[str, ...] = _setting("URLs of message brokers like redis://127.0.0.1", _each(_broker), ())
    broker_keep: float = _setting("a number of seconds, 60 to 1000000000", _seconds(60, 1e9), 604_800.0)
    transport: str = _choice("auto", "reactor", "trio-websocket")
    tls_cert: Path | None = _file()
    tls_key: Path | None = _file()
    workers: int = _setting("a number, 1 to 64", _integer(1, 64), 1)
    origins: tuple[str, ...] = _setting("origins like https://shop.example", _each(_origin), ())
    sources: tuple[str, ...] = _setting("names of a-z, 0-9, _ and -, at most 64 characters", _each(_source), ())
    source_origins: Mapping[str, tuple[str, ...]] = _setting(
        "a table of sources with their origins", _source_origins, attrs.Factory(dict)
    )
    anonymous: bool = _setting("true or false", _flag, True)
    secret: str | None = _setting(f"at least {SHORTEST_SECRET} bytes", _optional(_key), None, secret=True)
    public_key: Path | None = _file()
    log_format: str = _choice("text", "json")
    log_level: str = _choice("info", "debug", "warning", "error")
    limits: LimitSettings = _setting("the table [limits]", _section(LimitSettings), LimitSettings())
    chat: ChatSettings = _setting("the table [chat]", _section(ChatSettings), ChatSettings())
    http: HttpSettings = _setting("the table [http]", _section(HttpSettings), HttpSettings())
    attachments: AttachmentSettings = _setting(
        "the table [attachments]", _section(AttachmentSettings), AttachmentSettings()
    )
    metrics: MetricsSettings = _setting("the table [metrics]", _section(MetricsSettings), MetricsSettings())
    blocked: BlockedSettings = _setting("the table [blocked]", _section(BlockedSettings), BlockedSettings())
    keys: KeySettings = _setting("the table [keys]", _section(KeySettings), KeySettings())
    accounts: AccountSettings = _setting("the table [accounts]", _section(AccountSettings), AccountSettings())
    telemetry: TelemetrySettings = _setting("the table [telemetry]", _section(TelemetrySettings), TelemetrySettings())

    def __attrs_post_init__(self) -> None:
        faults = (*_faults(self), *self._conflicts())
        if faults:
            raise InvalidSettings(faults)

    def _conflicts(self) -> Iterator[SettingFault]:
        if not isinstance(self.workers, _Invalid) and self.workers > 1:
            yield from self._worker_conflicts()
        if not isinstance(self.broker, _Invalid):
            names = [url.name for url in broker_urls(self)]
            for name in sorted({name for name in names if names.count(name) > 1}):
                yield SettingFault("broker", f"{name} occurs twice")
        if not isinstance(self.attachments, _Invalid):
            yield from self.attachments._conflicts(self.storage)
        values: tuple[object, ...] = (self.storage, self.bus)
        if not any(isinstance(value, _Invalid) for value in values):
            shared = (self.storage or "").startswith("postgresql://")
            if not shared and self.bus not in ("auto", "local"):
                yield SettingFault("bus", "a bus connects servers on one PostgreSQL database: set storage to that")
        known = self.sources
        if known and not isinstance(known, _Invalid) and not isinstance(self.source_origins, _Invalid):
            for source in sorted(set(self.source_origins) - set(known)):
                yield SettingFault("source_origins", f"{source} is not among sources")
        if known and not isinstance(known, _Invalid) and not isinstance(self.chat, _Invalid):
            kept = self.chat.source_retention_days
            for source in () if isinstance(kept, _Invalid) else sorted(set(kept) - set(known)):
                yield SettingFault("chat.source_retention_days", f"{source} is not among sources")
        if (self.tls_cert is None) != (self.tls_key is None):
            missing, given = ("tls_key", "tls_cert") if self.tls_key is None else ("tls_cert", "tls_key")
            yield SettingFault(missing, f"missing: TLS needs it together with {given}")
        if self.unix is not None and self.tls_cert is not None:
            yield SettingFault("unix", "a Unix socket has no TLS: the proxy in front of it does that; remove tls_cert")
        if self.transport == "reactor" and self.tls_cert is not None:
            detail = "the reactor does not support TLS; with tls_cert, expected auto or trio-websocket"
            yield SettingFault("transport", detail)
        elif self.transport == "reactor" and not _HAS_REACTOR:
            detail = "the reactor does not work on this system; expected auto or trio-websocket"
            yield SettingFault("transport", detail)

    def _worker_conflicts(self) -> Iterator[SettingFault]:
        if not hasattr(socket, "SO_REUSEPORT"):
            yield SettingFault("workers", "this system has no ports that several processes share; use 1")
        elif self.unix is not None or self.port is None:
            yield SettingFault("workers", "several workers listen on a port, not on a Unix socket")
        elif not str(self.storage).startswith("postgresql://"):
            yield SettingFault(
                "workers",
                "several workers need --storage postgresql://…: SQLite's one writer is most of the work of a chat, so"
                " other processes would wait for one that is busy already",
            )

    @property
    def policy(self) -> Policy:
        """The rules that the transactions of the storage apply."""
        return attrs.evolve(self.chat.policy(), upload_timeout=self.attachments.unused_timeout, files=self.file_rules)

    @property
    def file_rules(self) -> FileRules:
        """The rules for files in messages."""
        general = FileRule(self.attachments.size, frozenset(self.attachments.types), self.limits.attachments)
        return FileRules(
            general,
            {
                source: FileRule(
                    general.size if rules.size is None else rules.size,
                    general.types if rules.types is None else frozenset(rules.types),
                    general.per_message if rules.per_message is None else rules.per_message,
                )
                for source, rules in self.attachments.sources.items()
            },
        )

    @property
    def folder(self) -> Path | None:
        """The data folder; None if this server writes no files."""
        if self.data is None and self.storage == "memory://":
            return None
        return self.data or DEFAULT_DATA

    @property
    def websocket_transport(self) -> str:
        """The transport in use. `auto` is `reactor` for plain TCP where the system has it, else `trio-websocket`."""
        if self.transport != "auto":
            return self.transport
        return "reactor" if _HAS_REACTOR and self.tls_cert is None else "trio-websocket"

    @property
    def storage_url(self) -> str:
        """The URL of the database: `storage` if it is set, else SQLite in the data folder."""
        if self.storage is not None:
            return self.storage
        return f"sqlite:///{(self.folder or DEFAULT_DATA).absolute() / 'actorchat.db'}"

    @property
    def bus_url(self) -> str:
        """The bus between servers on the same database: `postgres`, `local` or a URL."""
        if self.bus != "auto":
            return self.bus
        return "postgres" if self.storage_url.startswith("postgresql://") else "local"

    @property
    def database_file(self) -> Path | None:
        """The file of a SQLite database; None if chats are stored elsewhere or not at all."""
        scheme, _, path = self.storage_url.partition(":///")
        return Path(path) if scheme == "sqlite" else None


_SECTIONS: Final = (
    LimitSettings,
    ChatSettings,
    HttpSettings,
    AttachmentSettings,
    MetricsSettings,
    AccountSettings,
    BlockedSettings,
    KeySettings,
    TelemetrySettings,
)


def _faults(section: attrs.AttrsInstance, prefix: str = "") -> Iterator[SettingFault]:
    for field in attrs.fields(type(section)):
        value = getattr(section, field.name)
        if isinstance(value, _Invalid):
            yield SettingFault(prefix + field.name, value.detail)
        elif isinstance(value, _SECTIONS):
            yield from _faults(value, f"{field.name}.")
        elif isinstance(value, Mapping):
            for name, each in value.items():
                if attrs.has(type(each)):
                    yield from _faults(each, f"{prefix}{field.name}.{name}.")


def broker_urls(settings: Settings) -> tuple[BrokerUrl, ...]:
    """Return the parsed URLs of the message brokers."""
    return tuple(map(parse_broker_url, settings.broker))
