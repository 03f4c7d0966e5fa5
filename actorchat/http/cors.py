"""Implements CORS: rejects pages of origins that are not allowed, and sends the CORS headers to allowed ones."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actorchat.http.origins import AllowedOrigins
from actorchat.http.problems import Problem

__all__ = ["Cors", "foreign_origin"]

_HEADERS: Final = ("authorization", "content-type", "idempotency-key", "if-none-match")


def foreign_origin() -> Problem:
    """Return the refusal of a request from a page whose origin is not allowed."""
    return Problem("not_allowed", "pages of this origin may not call this server")


class Cors:
    """ASGI middleware: answers 403 to pages whose origin is not allowed, and adds CORS headers for allowed ones."""

    def __init__(
        self,
        app: ASGIApp,
        allowed: AllowedOrigins,
        headers: Collection[str] = (),
        is_public: Callable[[str], bool] = lambda path: False,
    ) -> None:
        """`headers` are request headers that pages may send besides those that the API uses.

        Paths that `is_public` accepts are exempt: every page may load them, and their routes set the CORS headers.
        """
        self._app = app
        self._is_public = is_public
        self._allowed = allowed
        self._preflight = [
            (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", ", ".join(dict.fromkeys([*_HEADERS, *headers])).encode("ascii")),
            (b"access-control-max-age", b"600"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host")
        if origin is None or scope["type"] != "http" or self._is_public(scope["path"]):
            await self._app(scope, receive, send)
            return
        if not self._allowed.allow(origin, host):
            self._allowed.log_refusal(origin, host)
            await foreign_origin().response()(scope, receive, send)
            return

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["Access-Control-Allow-Origin"] = origin
                answer["Access-Control-Expose-Headers"] = "ETag, Idempotency-Replayed, Link, Retry-After, X-Request-ID"
                answer.add_vary_header("Origin")
            await send(message)

        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await send_with_cors({"type": "http.response.start", "status": 204, "headers": self._preflight[:]})
            await send_with_cors({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send_with_cors)
