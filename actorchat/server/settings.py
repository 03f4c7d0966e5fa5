"""Defines all settings of a deployment, their defaults, and the validation of their values."""

# ruff: noqa: RUF009 - the calls in class bodies define attrs fields

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from actorchat.brokers.urls import BrokerUrl, parse_broker_url
from actorchat.chat.file_rules import FileRule, FileRules
from actorchat.chat.model import OnClosed, Policy, Retention
from actorchat.http.proxies import PROXY_HEADERS
from actorchat.server.setting_values import (
    FILE_TYPES,
    SHORTEST_SECRET,
    Invalid,
    InvalidValue,
    Parser,
    choice,
    each,
    file,
    integer,
    optional,
    parse_at_least_one,
    parse_base_path,
    parse_blob_store,
    parse_blocked_network,
    parse_broker,
    parse_bus,
    parse_collector,
    parse_days,
    parse_file_type,
    parse_flag,
    parse_header,
    parse_key,
    parse_key_file,
    parse_key_set_url,
    parse_link_base,
    parse_metrics_token,
    parse_network_value,
    parse_node_name,
    parse_number,
    parse_optional_command,
    parse_origin_value,
    parse_parameter,
    parse_path,
    parse_scan_url,
    parse_secrets,
    parse_source,
    parse_source_days,
    parse_source_origins,
    parse_storage,
    parse_telemetry,
    parse_text,
    parse_visitor_id,
    rate,
    seconds,
    setting,
    valid,
)
from actorchat.urls import names_postgres

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
]

DEFAULT_DATA: Final = Path("actorchat-data")

DAY: Final = 86_400.0
"""In seconds."""

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

    messages_per_second: float = rate(10.0)
    burst: float = setting("a number, 1 or more", parse_at_least_one, 30.0)
    text_length: int = setting("a whole number, 1 to 16000", integer(1, 16_000), 4000)
    attachments: int = setting("a whole number, 0 to 100", integer(0, 100), 10)
    visitors_per_minute: float = rate(60.0)
    chats_per_minute: float = rate(10.0)
    address_chats_per_minute: float = rate(120.0)
    visitor_sockets: int = setting("a whole number, 0 (unlimited) or more", integer(0, 2**31), 50)
    operator_sockets: int = setting("a whole number, 0 (unlimited) or more", integer(0, 2**31), 500)
    session_age: float = setting("a number of seconds, 60 to 1000000000", seconds(60, 1e9), 2_592_000.0)


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

    capacity: int = setting("a whole number, 0 (unlimited) or more", integer(0, 2**31), 0)
    answer_timeout: float = rate(0.0)
    edit_within: float = setting("a number of seconds, 0 (not at all) or more", parse_number, 900.0)
    idle_timeout: float = rate(0.0)
    reserved_timeout: float = rate(86_400.0)
    retention_days: float = setting("a number of days, 0 (for ever) or more", parse_days, 0.0)
    source_retention_days: Mapping[str, float] = setting(
        "a table of sources with a number of days, 0 (for ever) or more", parse_source_days, attrs.Factory(dict)
    )
    page_parameters: tuple[str, ...] = setting("names of query parameters", each(parse_parameter), ())
    on_closed: OnClosed = setting(" or ".join(OnClosed), OnClosed, OnClosed.REOPEN)

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


@attrs.frozen(kw_only=True)
class HttpSettings:
    """Settings of the HTTP server.

    `keep_alive` is how many seconds an idle connection stays open. A proxy in front has to close its idle connections
    earlier. `cors_headers` are the request headers, besides `authorization` and `content-type`, that pages of allowed
    origins may send. `trusted_proxies` are the addresses and networks of the proxies whose forwarding headers are
    used. `proxy_headers` names the headers that these proxies write: `x-forwarded` for `X-Forwarded-For` and
    `X-Forwarded-Proto`, or `forwarded`. The others are ignored, because a client could forge them.
    """

    keep_alive: float = setting("a number of seconds, 1 to 3600", seconds(1, 3600), 75.0)
    cors_headers: tuple[str, ...] = setting("names of headers like traceparent", each(parse_header), ())
    trusted_proxies: tuple[str, ...] = setting(
        "addresses or networks like 127.0.0.1 or 10.0.0.0/8", each(parse_network_value), ()
    )
    proxy_headers: str = choice(*PROXY_HEADERS)


_SIZE: Final = "a whole number of bytes, 1 to 1099511627776"
_TYPES: Final = f"some of {', '.join(FILE_TYPES)} and media types like application/pdf"
_PER_MESSAGE: Final = "a whole number, 0 to 100"


@attrs.frozen(kw_only=True)
class SourceAttachmentSettings:
    """Rules for files in the chats of one widget source. None: the rule for all sources.

    `size` is the maximum in bytes. `types` are the accepted types. `per_message` is how many files a message may have;
    it can't be more than `LimitSettings.attachments`.
    """

    size: int | None = setting(_SIZE, optional(integer(1, 2**40)), None)
    types: tuple[str, ...] | None = setting(_TYPES, optional(each(parse_file_type)), None)
    per_message: int | None = setting(_PER_MESSAGE, optional(integer(0, 100)), None)


def _source_attachments(value: Any) -> dict[str, SourceAttachmentSettings]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise TypeError
    return {parse_source(name): _source_rules(name, rules) for name, rules in value.items()}


def _source_rules(source: str, value: Any) -> SourceAttachmentSettings:
    if isinstance(value, SourceAttachmentSettings):
        return value
    if not isinstance(value, Mapping):
        raise TypeError
    known = [field.name for field in attrs.fields(SourceAttachmentSettings)]
    if unknown := [name for name in value if name not in known]:
        raise InvalidValue(f"{source} has no setting {unknown[0]}: expected some of {', '.join(known)}")
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

    size: int = setting(_SIZE, integer(1, 2**40), 20_971_520)
    types: tuple[str, ...] = setting(_TYPES, each(parse_file_type), ("image", "video", "audio", "file"))
    per_minute: float = rate(30.0)
    address_per_minute: float = rate(120.0)
    unused_timeout: float = setting("a number of seconds, 60 to 1000000000", seconds(60, 1e9), 86_400.0)
    link_seconds: float = setting("a number of seconds, 60 to 86400", seconds(60, 86_400), 600.0)
    url: str = setting(
        "an address like https://chat.example, or nothing", lambda value: value and parse_link_base(value), ""
    )
    scan: tuple[str, ...] = setting("a command like clamdscan --no-summary", parse_optional_command, ())
    scan_url: str = setting("an address like http://127.0.0.1:9000/scan, or nothing", parse_scan_url, "")
    scan_seconds: float = setting("a number of seconds, 1 to 600", seconds(1, 600), 60.0)
    store: str = setting("a URL like s3://bucket/prefix, or nothing", parse_blob_store, "")
    unused_bytes: int = setting("a whole number, 0 (unlimited) or more", integer(0, 2**50), 209_715_200)
    address_unused_bytes: int = setting("a whole number, 0 (unlimited) or more", integer(0, 2**50), 1_073_741_824)
    sources: Mapping[str, SourceAttachmentSettings] = setting(
        "tables like [attachments.sources.shop]", _source_attachments, attrs.Factory(dict)
    )

    def _conflicts(self, storage: str | None) -> Iterator[SettingFault]:
        """Yield a fault for each setting that does not go with another one. `storage` is the URL of the database."""
        store, scan, scan_url = map(valid, (self.store, self.scan, self.scan_url))
        if storage == "memory://" and store:
            detail = "expected nothing, because memory:// keeps no record of the files in the bucket"
            yield SettingFault("attachments.store", detail)
        if scan and scan_url:
            yield SettingFault("attachments.scan_url", "expected nothing, because attachments.scan is set")


@attrs.frozen(kw_only=True)
class MetricsSettings:
    """The clients that may read `/metrics`: those at the addresses in `networks` without a proxy in between, and those
    with the header `Authorization: Bearer` and `token`.
    """

    networks: tuple[str, ...] = setting(
        "addresses or networks like 127.0.0.1 or 10.0.0.0/8", each(parse_network_value), ("127.0.0.0/8", "::1/128")
    )
    token: str | None = setting("at least 16 characters", optional(parse_metrics_token), None, secret=True)


@attrs.frozen(kw_only=True)
class TelemetrySettings:
    """Spans for OpenTelemetry, which need the extra `otel`. `OTEL_…` variables of the environment apply too, and win.

    `enabled` sends spans to the collector at `endpoint`, by OTLP over HTTP; without it to `http://localhost:4318`.
    `service_name` is the name of this server there. With `continue_traces`, the span of a request belongs to the trace
    that its headers name. Otherwise it has a link to that trace, and callers can't decide what is recorded.
    """

    enabled: bool = setting("true or false", parse_telemetry, False)
    endpoint: str = setting("an address like http://127.0.0.1:4318, or nothing", parse_collector, "")
    service_name: str = setting("a name", parse_text, "actorchat")
    continue_traces: bool = setting("true or false", parse_flag, True)


@attrs.frozen(kw_only=True)
class AccountSettings:
    """Rules for operators' accounts.

    `session_age` is how many seconds an operator can stay signed in without giving the password again.
    `attempts_per_minute` limits the attempts to sign in with one login, `address_attempts_per_minute` those from one
    network address; successful ones don't count. 0 = unlimited.
    """

    session_age: float = setting("a number of seconds, 60 to 1000000000", seconds(60, 1e9), 2_592_000.0)
    attempts_per_minute: float = rate(10.0)
    address_attempts_per_minute: float = rate(30.0)


@attrs.frozen(kw_only=True)
class BlockedSettings:
    """Visitors that may not use the chat: those with an id in `users`, and those at `addresses` and networks."""

    addresses: tuple[str, ...] = setting(
        "addresses or networks like 192.0.2.7 or 10.0.0.0/8", each(parse_blocked_network), ()
    )
    users: tuple[str, ...] = setting("ids of visitors", each(parse_visitor_id), ())


@attrs.frozen(kw_only=True)
class KeySettings:
    """Further keys whose tokens are accepted.

    `public` are PEM files with public keys of other issuers, written `kid=path` or `path`. `jwks` is the URL of the
    JSON Web Key Set of an identity provider. `previous_secrets` are secrets that signed tokens before the current one.
    """

    public: tuple[str, ...] = setting("PEM files like site.pem or 2026=site.pem", each(parse_key_file), ())
    jwks: str | None = setting(
        "an address like https://id.example/jwks.json; http only on this machine", optional(parse_key_set_url), None
    )
    previous_secrets: tuple[str, ...] = setting(
        f"secrets of at least {SHORTEST_SECRET} bytes", parse_secrets, (), secret=True
    )


def _section(cls: Callable[..., T]) -> Parser[T]:
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

    host: str = setting("a host name or address", parse_text, "127.0.0.1")
    port: int | None = setting("a port, 0 to 65535", optional(integer(0, 65_535)), 8000)
    unix: Path | None = setting("the path of a socket", optional(parse_path), None)
    base_path: str = setting("a path like /chat, or nothing", parse_base_path, "")
    data: Path | None = setting("the path of a folder", optional(parse_path), None)
    storage: str | None = setting("sqlite:///path, postgresql://… or memory://", optional(parse_storage), None)
    bus: str = setting("auto, local, postgres, postgresql://… or redis://…", parse_bus, "auto")
    node_name: str = setting("up to 64 letters, digits and . _ -, or nothing", parse_node_name, "")
    broker: tuple[str, ...] = setting("URLs of message brokers like redis://127.0.0.1", each(parse_broker), ())
    broker_keep: float = setting("a number of seconds, 60 to 1000000000", seconds(60, 1e9), 604_800.0)
    transport: str = choice("auto", "reactor", "trio-websocket")
    tls_cert: Path | None = file()
    tls_key: Path | None = file()
    workers: int = setting("a number, 1 to 64", integer(1, 64), 1)
    origins: tuple[str, ...] = setting("origins like https://shop.example", each(parse_origin_value), ())
    sources: tuple[str, ...] = setting("names of a-z, 0-9, _ and -, at most 64 characters", each(parse_source), ())
    source_origins: Mapping[str, tuple[str, ...]] = setting(
        "a table of sources with their origins", parse_source_origins, attrs.Factory(dict)
    )
    anonymous: bool = setting("true or false", parse_flag, True)
    secret: str | None = setting(f"at least {SHORTEST_SECRET} bytes", optional(parse_key), None, secret=True)
    public_key: Path | None = file()
    log_format: str = choice("text", "json")
    log_level: str = choice("info", "debug", "warning", "error")
    limits: LimitSettings = setting("the table [limits]", _section(LimitSettings), LimitSettings())
    chat: ChatSettings = setting("the table [chat]", _section(ChatSettings), ChatSettings())
    http: HttpSettings = setting("the table [http]", _section(HttpSettings), HttpSettings())
    attachments: AttachmentSettings = setting(
        "the table [attachments]", _section(AttachmentSettings), AttachmentSettings()
    )
    metrics: MetricsSettings = setting("the table [metrics]", _section(MetricsSettings), MetricsSettings())
    blocked: BlockedSettings = setting("the table [blocked]", _section(BlockedSettings), BlockedSettings())
    keys: KeySettings = setting("the table [keys]", _section(KeySettings), KeySettings())
    accounts: AccountSettings = setting("the table [accounts]", _section(AccountSettings), AccountSettings())
    telemetry: TelemetrySettings = setting("the table [telemetry]", _section(TelemetrySettings), TelemetrySettings())

    def __attrs_post_init__(self) -> None:
        faults = (*_faults(self), *self._conflicts())
        if faults:
            raise InvalidSettings(faults)

    def _conflicts(self) -> Iterator[SettingFault]:
        if not isinstance(self.workers, Invalid) and self.workers > 1:
            yield from self._worker_conflicts()
        if not isinstance(self.broker, Invalid):
            names = [url.name for url in broker_urls(self)]
            for name in sorted({name for name in names if names.count(name) > 1}):
                yield SettingFault("broker", f"{name} occurs twice")
        if not isinstance(self.attachments, Invalid):
            yield from self.attachments._conflicts(self.storage)
        values: tuple[object, ...] = (self.storage, self.bus)
        if not any(isinstance(value, Invalid) for value in values):
            shared = names_postgres(self.storage or "")
            if not shared and self.bus not in ("auto", "local"):
                yield SettingFault("bus", "a bus connects servers on one PostgreSQL database: set storage to that")
        known = self.sources
        if known and not isinstance(known, Invalid) and not isinstance(self.source_origins, Invalid):
            for source in sorted(set(self.source_origins) - set(known)):
                yield SettingFault("source_origins", f"{source} is not among sources")
        if known and not isinstance(known, Invalid) and not isinstance(self.chat, Invalid):
            kept = self.chat.source_retention_days
            for source in () if isinstance(kept, Invalid) else sorted(set(kept) - set(known)):
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
        storage: object = self.storage
        if not hasattr(socket, "SO_REUSEPORT"):
            yield SettingFault("workers", "this system has no ports that several processes share; use 1")
        elif self.unix is not None or self.port is None:
            yield SettingFault("workers", "several workers listen on a port, not on a Unix socket")
        elif storage == "memory://":
            detail = "memory:// keeps the chats in the memory of one process"
            yield SettingFault("workers", f"several workers need --storage postgresql://…: {detail}")
        elif not isinstance(storage, Invalid) and not names_postgres(str(storage)):
            detail = f"{storage or 'the default'} is SQLite, whose one writer is most of the work of a chat"
            yield SettingFault("workers", f"several workers need --storage postgresql://…: {detail}")

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
        return "postgres" if names_postgres(self.storage_url) else "local"

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
        if isinstance(value, Invalid):
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
