"""Serves the application below a path, such as `/chat`, behind a proxy that shares its host with other programs."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["BasePath", "base_path_of", "without_base_path"]

_KEY: Final = "actorchat.base_path"


def without_base_path(path: str, base: str) -> str:
    """Return `path` without `base` in front. Other paths are returned unchanged: the proxy may have removed it."""
    if base and (path == base or path.startswith(f"{base}/")):
        return path[len(base) :] or "/"
    return path


def base_path_of(request: Request) -> str:
    """Return what links in the answer begin with, "" if the application is at the root."""
    return str(request.scope.get(_KEY, ""))


class BasePath:
    """ASGI middleware: removes `base` from paths, and remembers it for links.

    A page at `base` itself is redirected to the path with a slash at the end, because links of pages are relative.
    """

    def __init__(self, app: ASGIApp, base: str) -> None:
        self._app = app
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._base and scope["type"] == "http":
            if scope["path"] == self._base and scope["method"] in ("GET", "HEAD"):
                query = scope["query_string"].decode("latin-1")
                to = RedirectResponse(f"{self._base}/?{query}" if query else f"{self._base}/", status_code=307)
                await to(scope, receive, send)
                return
            path = without_base_path(scope["path"], self._base)
            scope = {**scope, "path": path, _KEY: self._base}
        await self._app(scope, receive, send)
