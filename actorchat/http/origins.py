"""Owns which sites' pages may call, and what browsers must be told for it.

Refuses to know routes and sockets: both sides of the port ask here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actorchat.http.problems import Problem

__all__ = ["Origins", "is_allowed_origin"]

_HEADERS: Final = ("authorization", "content-type")


def is_allowed_origin(origin: str | None, host: str | None, allowed: Collection[str]) -> bool:
    """Allowed: no `Origin` at all, the server's own `Host`, and the configured ones (scheme://host[:port])."""
    if origin is None:
        return True
    origin = origin.lower()
    if origin in allowed:
        return True
    try:
        authority = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(authority) and host is not None and authority == host.lower()


class Origins:
    """Refuses pages of foreign sites with 403, and lets browsers show answers to those of allowed ones."""

    def __init__(self, app: ASGIApp, allowed: Collection[str], headers: Collection[str] = ()) -> None:
        """`allowed` are other sites' origins; `headers` are further request headers that pages may send."""
        self._app = app
        self._allowed = allowed
        self._preflight = [
            (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE"),
            (b"access-control-allow-headers", ", ".join(dict.fromkeys([*_HEADERS, *headers])).encode("ascii")),
            (b"access-control-max-age", b"600"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not is_allowed_origin(origin, headers.get("host"), self._allowed):
            refusal = Problem("not_allowed", "pages of this origin may not call this server")
            await refusal.response()(scope, receive, send)
            return

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["Access-Control-Allow-Origin"] = origin
                answer["Access-Control-Expose-Headers"] = "Retry-After"
                answer.add_vary_header("Origin")
            await send(message)

        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await send_shared({"type": "http.response.start", "status": 204, "headers": self._preflight[:]})
            await send_shared({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send_shared)
