"""Parses the URL that names a bucket of an S3-compatible storage service."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from actorchat.urls import is_host

__all__ = ["InvalidS3Url", "S3Url", "parse_s3_url"]

_EXPECTED: Final = "expected s3://bucket/prefix?endpoint=https://s3.example&region=eu-central-1"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"([0-9A-Za-z_~-][0-9A-Za-z._~-]*/)*")
_ENDPOINT: Final = re.compile(r"https?://[0-9A-Za-z.-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_REGION: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_PARAMETERS: Final = ("endpoint", "region", "style", "ca")
_STYLES: Final = ("path", "virtual")


class InvalidS3Url(ValueError):  # noqa: N818 - names the state of the URL
    """The URL does not name a bucket. The text says what is wrong with it, and does not contain its credentials."""


@attrs.frozen(kw_only=True)
class S3Url:
    """The parts of an S3 URL. `prefix` is empty or ends in a slash.

    `endpoint` "" is AWS. `region` and the two keys are None if the URL does not have them: they then come from the
    environment. `virtual`: the bucket is part of the host name, not of the path. `ca` is a file of certificates to
    trust, None for those of the system.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = attrs.field(default=None, repr=False)
    virtual: bool = False
    ca: Path | None = None

    @property
    def name(self) -> str:
        """The URL without credentials and parameters, for logs and errors."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def parse_s3_url(url: str) -> S3Url:
    """Raises `InvalidS3Url`, also if the library for S3 is not installed."""
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise InvalidS3Url(_EXPECTED) from None
    if parts.scheme != "s3" or parts.fragment:
        raise InvalidS3Url(_EXPECTED)
    if find_spec("botocore") is None:
        raise InvalidS3Url('s3:// needs a library: type pip install "actorchat[s3]"')
    if "@" in parts.path:
        raise InvalidS3Url("write / in a key as %2F")
    credentials, _, bucket = parts.netloc.rpartition("@")
    access_key, _, secret_key = credentials.partition(":")
    if credentials and not (access_key and secret_key):
        raise InvalidS3Url("expected both keys before the bucket, as in s3://ACCESS_KEY:SECRET_KEY@bucket")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidS3Url(f"{_EXPECTED}; the name of a bucket has 3 to 63 characters of a-z, 0-9, '.', '_' and '-'")
    prefix = parts.path.strip("/")
    prefix = f"{prefix}/" if prefix else ""
    if not _PREFIX.fullmatch(prefix) or len(prefix) > 512:
        raise InvalidS3Url("the prefix may have letters, digits and . _ ~ - between slashes")
    values = _parameters(query)
    endpoint = values.get("endpoint", "").rstrip("/")
    return S3Url(
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint,
        region=values.get("region"),
        access_key=unquote(access_key) or None,
        secret_key=unquote(secret_key) or None,
        # Few other services have DNS names for buckets. A wildcard certificate matches no bucket name with dots.
        virtual=values.get("style", "path" if endpoint or "." in bucket else "virtual") == "virtual",
        ca=Path(values["ca"]).expanduser() if "ca" in values else None,
    )


def _is_endpoint(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return bool(_ENDPOINT.fullmatch(value) and parts.port != 0 and is_host(parts.hostname or ""))
    except ValueError:
        return False


def _parameters(query: list[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in query:
        if name not in _PARAMETERS:
            raise InvalidS3Url(f"s3:// has no parameter {name}; there are {', '.join(_PARAMETERS)}")
        if name in values:
            raise InvalidS3Url(f"the parameter {name} is there twice")
        if name == "endpoint" and not _is_endpoint(value.rstrip("/")):
            raise InvalidS3Url("endpoint: expected an address like https://s3.example or http://127.0.0.1:9000")
        if name == "region" and not _REGION.fullmatch(value):
            raise InvalidS3Url("region: expected a name like eu-central-1")
        if name == "style" and value not in _STYLES:
            raise InvalidS3Url("style: expected path or virtual")
        if name == "ca" and not value:
            raise InvalidS3Url("ca: expected the path of a file")
        values[name] = value
    return values
