"""Sends signed requests to an S3-compatible storage service."""

from __future__ import annotations

import random
import ssl
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import trio

from actorchat.blobs.ports import BlobsMisconfigured, BlobsUnavailable
from actorchat.blobs.s3_urls import S3Url

__all__ = ["S3Requests", "open_s3_requests", "xml_root", "xml_text"]

_CONNECT_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 30.0
"""How long a request may wait for the next bytes to be sent or received."""

_CONNECTIONS: Final = 32
"""Requests in progress. Further ones wait."""

_ATTEMPTS: Final = 3
_FIRST_DELAY: Final = 0.2
"""Seconds before the second attempt, doubled before each further one."""

_SIGNING_THREADS: Final = 4

_TEMPORARY: Final = frozenset({408, 429, 500, 502, 503, 504})
_TEMPORARY_CODES: Final = frozenset(
    {"RequestTimeout", "SlowDown", "InternalError", "OperationAborted", "ConditionalRequestConflict"}
)

# Any: botocore has no type annotations.
_Credentials = Any
Sign = Callable[[str, str, Mapping[str, str], bytes], dict[str, str]]


class _Failure(Exception):  # noqa: N818 - internal, becomes BlobsUnavailable
    """An attempt that may succeed later. The text says why it failed."""


class _Silence(_Failure):
    """A request, or the requests for whose connections it waits, went no further for `_IDLE_SECONDS`."""


class S3Requests:
    """Requests to one bucket, made by `open_s3_requests`.

    Retries what fails for the moment: every request here has the same effect when it is sent twice. A service that said
    nothing is not asked again, because clients wait meanwhile.
    """

    def __init__(self, url: S3Url, http: httpx.AsyncClient, sign: Sign, base: str) -> None:
        self.name: str = url.name
        self._http = http
        self._sign = sign
        self._base = base
        self._threads = trio.CapacityLimiter(_SIGNING_THREADS)

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        expected: tuple[int, ...] = (200,),
    ) -> httpx.Response:
        """Send a request for `path` in the bucket, "" for the bucket itself, and return the whole answer.

        Raises `BlobsMisconfigured` if the service refuses it for good, and `BlobsUnavailable` if it has not answered
        after several attempts, unless its status is in `expected`.
        """
        # Sorted and quoted as the signature requires.
        asked = urlencode(sorted((query or {}).items()), quote_via=quote, safe="-_.~")
        url = f"{self._base}{path}" + (f"?{asked}" if asked else "")
        delay = _FIRST_DELAY
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._attempt(method, url, headers or {}, body, expected)
            except _Failure as failure:
                if attempt == _ATTEMPTS or isinstance(failure, _Silence):
                    raise BlobsUnavailable(f"{self.name}: {failure}") from None
            await trio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - spreads the load, hides nothing
            delay *= 2
        raise AssertionError("unreachable")

    async def _attempt(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, expected: tuple[int, ...]
    ) -> httpx.Response:
        # Each attempt is signed anew, because a signature contains the time. This runs in a thread, because it hashes
        # the body and may renew temporary credentials over the network.
        signed = await trio.to_thread.run_sync(
            partial(self._sign, method, url, headers, body), limiter=self._threads, abandon_on_cancel=True
        )
        try:
            answer = await self._http.request(method, url, headers=signed, content=body or None)
        except (httpx.ReadTimeout, httpx.WriteTimeout):
            raise _Silence(f"no answer for {_IDLE_SECONDS:.0f} s") from None
        except httpx.PoolTimeout:
            raise _Silence(f"all {_CONNECTIONS} connections were in use for {_IDLE_SECONDS:.0f} s") from None
        except httpx.HTTPError as error:
            raise _Failure(_describe(error)) from None
        if answer.status_code in expected:
            return answer
        code, message = _error_of(answer)
        detail = f"{code or answer.status_code}: {message or answer.reason_phrase}"
        if answer.status_code in _TEMPORARY or code in _TEMPORARY_CODES:
            raise _Failure(detail)
        raise BlobsMisconfigured(f"{self.name}: {detail}")


@asynccontextmanager
async def open_s3_requests(url: S3Url) -> AsyncIterator[S3Requests]:
    """Open a client for the bucket. Connects at the first request. Raises `BlobsMisconfigured` without credentials."""
    sign, region = await trio.to_thread.run_sync(_signer, url)
    timeout = httpx.Timeout(_IDLE_SECONDS, connect=_CONNECT_SECONDS)
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    async with httpx.AsyncClient(timeout=timeout, limits=limits, verify=_trusted(url)) as http:
        yield S3Requests(url, http, sign, _base(url, region))


def _base(url: S3Url, region: str) -> str:
    scheme, _, host = (url.endpoint or f"https://s3.{region}.amazonaws.com").partition("://")
    return f"{scheme}://{url.bucket}.{host}/" if url.virtual else f"{scheme}://{host}/{url.bucket}/"


def _trusted(url: S3Url) -> ssl.SSLContext | bool:
    if url.ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=url.ca)
    except (OSError, ssl.SSLError) as error:
        raise BlobsMisconfigured(f"{url.name}: {url.ca} can't be used as certificates: {error}") from None


def _signer(url: S3Url) -> tuple[Sign, str]:
    """Return a function that returns the headers of a signed request, and the region."""
    # Imported here: botocore is an extra, and takes a while to import.
    from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]  # it ships no types
    from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
    from botocore.credentials import Credentials  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
    from botocore.session import Session  # type: ignore[import-untyped]

    try:
        session = Session()
        region = url.region or session.get_config_variable("region") or "us-east-1"
        credentials: _Credentials = (
            session.get_credentials() if url.access_key is None else Credentials(url.access_key, url.secret_key)
        )
    except BotoCoreError as error:
        raise BlobsMisconfigured(f"{url.name}: {error}") from None
    if credentials is None:
        raise BlobsMisconfigured(
            f"{url.name}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write"
            " s3://ACCESS_KEY:SECRET_KEY@bucket"
        )

    def sign(method: str, target: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        request = AWSRequest(method, target, dict(headers), data=body)
        try:
            S3SigV4Auth(credentials.get_frozen_credentials(), "s3", region).add_auth(request)
        except BotoCoreError as error:
            raise _Failure(str(error)) from None
        return dict(request.headers.items())

    return sign, region


def _describe(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {_CONNECT_SECONDS:.0f} s"
    return f"can't be reached: {str(error) or type(error).__name__}"


def _error_of(answer: httpx.Response) -> tuple[str, str]:
    """Return the code and the message of an error, "" where there is none: an answer to HEAD has no body."""
    try:
        root = xml_root(answer.content)
    except ValueError:
        return "", ""
    return xml_text(root, "Code"), xml_text(root, "Message")


def xml_root(content: bytes) -> ET.Element:
    """Parse the body of an answer, and drop the namespaces of its elements. Raises ValueError if it is not XML."""
    try:
        # The service is trusted with all files, and expat limits the expansion of entities.
        root = ET.fromstring(content)  # noqa: S314
    except ET.ParseError as error:
        raise ValueError(str(error)) from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def xml_text(element: ET.Element, name: str) -> str:
    """Return the text of the child `name`, "" if there is none."""
    return element.findtext(name) or ""
