"""Reads the built files of `static/` and answers requests for them, with compression and caching."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Final

import attrs
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Asset", "Assets"]

_MEDIA_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    # The types of the SDK are text: browsers would show the media type of transport streams as a video.
    "ts": "text/plain; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}

_HASHED: Final = re.compile(r"-[A-Z0-9]{8}\.[a-z]+\Z")
"""The name of a file with the hash of its content, as esbuild writes it. Such a file never changes."""

IMMUTABLE: Final = "public, max-age=31536000, immutable"
SHORT: Final = "public, max-age=300, stale-while-revalidate=86400"
"""For files whose address never changes. An upgrade reaches every page within five minutes and one more load."""
ALWAYS_CHECKED: Final = "no-cache"

_SHORT_LIVED: Final = frozenset({"widget.js", "sdk.js", "sdk.d.ts", "desk.js", "desk.d.ts"})


@attrs.frozen
class Asset:
    """A file to serve: its bytes as they are and as each coding has them, its media type, its tag and its cache rule.

    The codings are in the server's order of preference.
    """

    body: bytes
    codings: Mapping[str, bytes]
    media_type: str
    etag: str
    cache: str

    @classmethod
    def of(cls, name: str, body: bytes, brotli: bytes | None = None) -> Asset:
        suffix = name.rpartition(".")[2]
        cache = IMMUTABLE if _HASHED.search(name) else SHORT if name in _SHORT_LIVED else ALWAYS_CHECKED
        # Weak, because the compressed and the plain bytes share it.
        etag = f'W/"{hashlib.sha256(body).hexdigest()[:20]}"'
        codings = {"br": brotli} if brotli else {}
        return cls(body, codings | {"gzip": gzip.compress(body, 9, mtime=0)}, _MEDIA_TYPES[suffix], etag, cache)

    def respond(self, request: Request, headers: Mapping[str, str] | None = None) -> Response:
        """Answer GET or HEAD: 304 if the client has this version, else the body, compressed if the client takes it."""
        answer = {
            "Cache-Control": self.cache,
            "ETag": self.etag,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        }
        if _matches(request.headers.get("if-none-match"), self.etag):
            return Response(status_code=304, headers=answer)
        body = self.body
        accepted = _accepted(request.headers.get("accept-encoding", ""))
        for coding, compressed in self.codings.items():
            if accepted.get(coding, accepted.get("*", False)):
                body, answer["Content-Encoding"] = compressed, coding
                break
        if request.method == "HEAD":
            return Response(None, 200, {**answer, "Content-Length": str(len(body))}, self.media_type)
        return Response(body, 200, answer, self.media_type)


def _accepted(header: str) -> dict[str, bool]:
    """Return which codings the client takes, or refuses with a weight of 0."""
    items = (item.partition(";") for item in header.lower().split(","))
    return {coding.strip(): re.fullmatch(r"\s*q=0(\.0*)?\s*", weight) is None for coding, _, weight in items}


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags


class Assets:
    """The built files, by their name in `static/`."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        """`contents` has the files by their names. A file `NAME.br` is the file `NAME` in the coding `br`."""
        self._assets = {
            name: Asset.of(name, body, contents.get(f"{name}.br"))
            for name, body in contents.items()
            if name.rpartition(".")[2] in _MEDIA_TYPES
        }

    def get(self, name: str) -> Asset | None:
        return self._assets.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._assets

    @staticmethod
    @lru_cache(maxsize=1)
    def of_package() -> Assets:
        """Read the files of this package. They are constant, so all servers of a process share them."""
        folder = files("actorchat.web") / "static"
        return Assets({file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()})
