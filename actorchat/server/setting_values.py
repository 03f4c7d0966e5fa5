"""Parses the values of settings, each to its type or with a reason why not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import attrs

from actorchat.blobs.s3_urls import InvalidS3Url, parse_s3_url
from actorchat.brokers.urls import InvalidBrokerUrl, parse_broker_url
from actorchat.chat.blocks import normal_network
from actorchat.http.origins import InvalidOrigin, parse_origin
from actorchat.http.proxies import parse_network
from actorchat.http.source_names import is_source_name
from actorchat.urls import is_host, names_postgres, without_secrets

__all__ = [
    "FILE_TYPES",
    "SHORTEST_SECRET",
    "SHORTEST_TOKEN",
    "Invalid",
    "InvalidEntry",
    "InvalidValue",
    "Parser",
    "choice",
    "each",
    "file",
    "integer",
    "one_of",
    "optional",
    "parse_at_least_one",
    "parse_base_path",
    "parse_blob_store",
    "parse_blocked_network",
    "parse_broker",
    "parse_bus",
    "parse_collector",
    "parse_command",
    "parse_days",
    "parse_file_type",
    "parse_flag",
    "parse_header",
    "parse_key",
    "parse_key_file",
    "parse_key_set_url",
    "parse_link_base",
    "parse_metrics_token",
    "parse_network_value",
    "parse_node_name",
    "parse_number",
    "parse_optional_command",
    "parse_origin_value",
    "parse_parameter",
    "parse_path",
    "parse_scan_url",
    "parse_secrets",
    "parse_source",
    "parse_source_days",
    "parse_source_origins",
    "parse_storage",
    "parse_telemetry",
    "parse_text",
    "parse_visitor_id",
    "rate",
    "seconds",
    "setting",
    "valid",
    "weakness_of",
]

SHORTEST_SECRET: Final = 32
"""In bytes. HS256 is no stronger than its key, and its hash has 32 bytes."""

SHORTEST_TOKEN: Final = 16
"""In characters, of the token for metrics."""

_MIN_DISTINCT_BYTES: Final = 8
"""A secret must contain this many different bytes. Even of 32 random decimal digits, over 99.9 % of the secrets do."""

_MAX_PERIOD: Final = 16
"""A secret that repeats a pattern shorter than this is weak."""

_MOST_DAYS: Final = 36_500

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")

T = TypeVar("T")

# Any: a value is text, a TOML type, or whatever an embedding program passes.
Parser = Callable[[Any], T]

_MEDIA_TYPE: Final = re.compile(r"[a-z]+/[a-z0-9.+-]{1,64}")

FILE_TYPES: Final = ("image", "video", "audio", "file", "program")

_BASE_PATH: Final = re.compile(r"(/[0-9A-Za-z._~-]+)+")

_LINK_BASE: Final = re.compile(r"https?://[0-9A-Za-z.:\[\]-]+(/[0-9A-Za-z._~/-]*)?")

_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http"


@attrs.frozen
class Invalid:
    """Takes the place of an invalid value until all faults are known and can be reported together."""

    detail: str


def valid(value: T) -> T | None:
    """Return the value, None if it is invalid."""
    return None if isinstance(value, Invalid) else value


class InvalidValue(ValueError):  # noqa: N818 - describes a value
    """A value is invalid for the reason in its text, which replaces the general text of the setting."""


class InvalidEntry(ValueError):  # noqa: N818 - describes a value
    """One entry of a list is invalid."""

    def __init__(self, entry: object) -> None:
        super().__init__()
        self.entry = entry


def setting(expected: str, parse: Parser[object], default: object, *, secret: bool = False) -> Any:
    """Return an attrs field that converts its value with `parse`. A value that `parse` rejects becomes `Invalid`.

    The fault quotes the value unless the setting is `secret`. Returns Any because the annotation has the field's type.
    """

    def convert(value: Any) -> object:
        try:
            return parse(value)
        except InvalidValue as reason:
            return Invalid(str(reason))
        except InvalidEntry as error:
            return Invalid(f"expected {expected}, got {_shown(error.entry)}")
        except (ValueError, TypeError):
            # No caller sees this object: Settings.__attrs_post_init__ raises.
            return Invalid(f"expected {expected}" + ("" if secret else f", got {_shown(value)}"))

    return attrs.field(default=default, converter=convert, repr=False if secret else _repr)


def _shown(value: object) -> str:
    text = without_secrets(str(value) if isinstance(value, str | Path) else repr(value))
    return repr(text) if text == "" or " " in text else text


def _repr(value: object) -> str:
    return without_secrets(repr(value))


def integer(low: int, high: int) -> Parser[int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool | float) or not low <= (number := int(value)) <= high:
            raise ValueError
        return number

    return parse


def parse_number(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= (number := float(value)) <= 1e9:
        raise ValueError
    return number


def parse_text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


def optional(parse: Parser[T]) -> Parser[T | None]:
    return lambda value: None if value is None else parse(value)


def parse_path(value: Any) -> Path:
    if isinstance(value, str):
        value = parse_text(value)
    try:
        return Path(value).expanduser()
    except RuntimeError:
        # The user in ~user does not exist, or has no home folder.
        raise ValueError from None


def each(parse: Parser[str]) -> Parser[tuple[str, ...]]:
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
        except InvalidValue:
            raise
        except (ValueError, TypeError):
            raise InvalidEntry(entry) from None

    return parse_all


def parse_source(value: Any) -> str:
    if not is_source_name(value):
        raise ValueError
    return str(value)


def parse_parameter(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable():
        raise ValueError
    return value


def parse_origin_value(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    try:
        return parse_origin(value)
    except InvalidOrigin as error:
        # A value with @ may contain a password, so it is not shown.
        raise InvalidValue(f"{error}" if "@" in value else f"{error}, got {_shown(value)}") from None


def parse_flag(value: Any) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(value, bool):
        return value
    if (text := str(value).lower()) not in known:
        raise ValueError
    return known[text]


def parse_days(value: Any) -> float:
    if (days := parse_number(value)) > _MOST_DAYS:
        raise ValueError
    return days


def parse_source_days(value: Any) -> dict[str, float]:
    """Parse a table of numbers, or text like `shop=90,blog=365`."""
    if isinstance(value, str):
        value = dict(part.split("=", 1) for part in filter(None, map(str.strip, value.split(","))))
    if not isinstance(value, Mapping):
        raise TypeError
    return {parse_source(source): parse_days(days) for source, days in value.items()}


def parse_source_origins(value: Any) -> dict[str, tuple[str, ...]]:
    """Parse a table of lists, or text like `shop=https://a.example,blog=https://b.example`."""
    if isinstance(value, str):
        table: dict[str, list[str]] = {}
        for part in filter(None, map(str.strip, value.split(","))):
            source, _, origin = part.partition("=")
            table.setdefault(source, []).append(origin)
        value = table
    if not isinstance(value, Mapping):
        raise TypeError
    return {parse_source(source): each(parse_origin_value)(origins) for source, origins in value.items()}


def parse_storage(value: Any) -> str:
    scheme, _, path = value.partition(":///")
    if names_postgres(value) and not value.endswith("://") and "\0" not in value:
        if find_spec("psycopg") is None:
            raise InvalidValue('postgresql:// needs a library: type pip install "actorchat[postgres]"')
        return str(value)
    # SQLite takes `:memory:` for a database in memory; here it would become a file of that name.
    if value == "memory://" or (scheme == "sqlite" and path not in ("", ":memory:") and "\0" not in path):
        return str(value)
    raise ValueError


def parse_broker(value: Any) -> str:
    try:
        parse_broker_url(parse_text(value))
    except InvalidBrokerUrl as error:
        raise InvalidValue(f"{error}, got {_shown(value)}") from None
    return str(value)


def parse_bus(value: Any) -> str:
    text = parse_text(value)
    if text in ("auto", "local", "postgres"):
        return text
    if names_postgres(text):
        return parse_storage(text)
    if not text.startswith(("redis://", "rediss://")):
        raise ValueError
    return parse_broker(text)


def parse_node_name(value: Any) -> str:
    if value != "" and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", parse_text(value)):
        raise ValueError
    return str(value)


def parse_blob_store(value: Any) -> str:
    if value == "":
        return ""
    try:
        parse_s3_url(parse_text(value))
    except InvalidS3Url as error:
        raise InvalidValue(f"{error}, got {_shown(value)}") from None
    return str(value)


def parse_key(value: Any) -> str:
    if len(key := parse_text(value).encode()) < SHORTEST_SECRET:
        raise ValueError
    if weakness := weakness_of(key):
        raise InvalidValue(f"expected random characters; this secret is {weakness}")
    return str(value)


def parse_secrets(value: Any) -> tuple[str, ...]:
    try:
        return each(parse_key)(value)
    except InvalidEntry:
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


def rate(default: float) -> Any:
    return setting("a number, 0 (off) or more", parse_number, default)


def parse_at_least_one(value: Any) -> float:
    if (number := parse_number(value)) < 1:
        raise ValueError
    return number


def choice(*names: str) -> Any:
    """Return a setting that takes one of `names`. The first is the default."""
    return setting(" or ".join(names), one_of(names), names[0])


def one_of(names: tuple[str, ...]) -> Parser[str]:
    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return parse


def file() -> Any:
    return setting("the path of a file", optional(parse_path), None)


def seconds(low: float, high: float) -> Parser[float]:
    def parse(value: Any) -> float:
        if not low <= (number := parse_number(value)) <= high:
            raise ValueError
        return number

    return parse


def parse_header(value: Any) -> str:
    if not isinstance(value, str) or not _HEADER_NAME.fullmatch(value):
        raise ValueError
    return value.lower()


def parse_network_value(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return parse_network(value)


def parse_metrics_token(value: Any) -> str:
    if len(parse_text(value)) < SHORTEST_TOKEN or not value.isascii() or not value.isprintable():
        raise ValueError
    return str(value)


def parse_file_type(value: Any) -> str:
    if value not in FILE_TYPES and not (isinstance(value, str) and _MEDIA_TYPE.fullmatch(value)):
        raise ValueError
    return str(value)


def parse_command(value: Any) -> tuple[str, ...]:
    """Parse a program with its arguments: a list, or text that is split like a shell does."""
    words = shlex.split(parse_text(value)) if isinstance(value, str) else list(value)
    if not words:
        raise ValueError
    return tuple(map(parse_text, words))


def parse_optional_command(value: Any) -> tuple[str, ...]:
    return () if value in ("", (), []) else parse_command(value)


def parse_link_base(value: Any) -> str:
    if value != "" and not (isinstance(value, str) and _LINK_BASE.fullmatch(value)):
        raise ValueError
    return str(value).rstrip("/")


def parse_scan_url(value: Any) -> str:
    if value == "":
        return ""
    try:
        parts = urlsplit(parse_text(value))
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


def parse_base_path(value: Any) -> str:
    path = parse_text(value).rstrip("/") if value != "" else ""
    if path and not _BASE_PATH.fullmatch(path):
        raise ValueError
    return path


def parse_telemetry(value: Any) -> bool:
    if not parse_flag(value):
        return False
    try:
        installed = find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        raise InvalidValue('OpenTelemetry is not installed: type pip install "actorchat[otel]"')
    return True


def parse_collector(value: Any) -> str:
    if value == "":
        return ""
    parts = urlsplit(parse_text(value))
    has_place = is_host(parts.hostname or "") and parts.port != 0
    if parts.scheme not in ("http", "https") or not has_place or parts.username is not None or parts.query:
        raise ValueError
    if parts.fragment or re.search(r"\s", value):
        raise ValueError
    return str(value)


def parse_key_file(value: Any) -> str:
    kid, _, path = parse_text(value).rpartition("=")
    if not path or len(kid) > 256:
        raise ValueError
    return str(value)


def parse_key_set_url(value: Any) -> str:
    parts = urlsplit(parse_text(value))
    # Keys decide who may sign in, so nobody in between may replace them.
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"))
    if not safe or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError
    return str(value)


def parse_blocked_network(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return normal_network(value)


def parse_visitor_id(value: Any) -> str:
    return str(integer(0, 2**53 - 1)(value))
