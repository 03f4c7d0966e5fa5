"""Gives each HTTP request an id, which its log lines and its answer have."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import trio
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["REQUEST_ID", "RequestIds"]

REQUEST_ID: Final[ContextVar[str]] = ContextVar("actorchat.request_id", default="")
"""The id of the request that the current task answers, "" outside of requests."""

_log: Final = logging.getLogger("actorchat.http.requests")


class RequestIds:
    """ASGI middleware: adds the header `X-Request-ID` to answers, and `request_id` to log lines of the request.

    At level DEBUG each request is logged, with `route_of(scope)` instead of its path, which may name a chat.
    """

    def __init__(self, app: ASGIApp, route_of: Callable[[Scope], str]) -> None:
        self._app = app
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        status, begun = 500, trio.current_time()

        async def identify(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        before = REQUEST_ID.set(request_id)
        try:
            await self._app(scope, receive, identify)
        finally:
            if _log.isEnabledFor(logging.DEBUG):
                milliseconds = round((trio.current_time() - begun) * 1_000, 1)
                fields = {"status": status, "milliseconds": milliseconds}
                _log.debug("%s %s", scope["method"], self._route_of(scope), extra=fields)
            REQUEST_ID.reset(before)
