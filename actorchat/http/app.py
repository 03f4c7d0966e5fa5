"""Owns the ASGI application: which routes there are, and how everything that goes wrong is answered.

Refuses to know connections and what the routes do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.service import ChatRefused, ChatService
from actorchat.http.api import Api
from actorchat.http.cors import Cors
from actorchat.http.origins import AllowedOrigins
from actorchat.http.ports import Access
from actorchat.http.problems import Problem, json_response, problem_of_refusal
from actorchat.http.proxies import BehindProxies, Proxies
from actorchat.protocol import asyncapi_document

__all__ = ["make_app"]

_log: Final = logging.getLogger("actorchat.http")


def make_app(
    chats: ChatService,
    access: Access,
    *,
    origins: AllowedOrigins,
    cors_headers: Collection[str] = (),
    proxies: Proxies | None = None,
    unready: Callable[[], Problem | None],
) -> ASGIApp:
    """The whole HTTP side. `unready` says why this server should get no new work now, None if it may.

    Pages of `origins` may call it, and send `cors_headers` beside those that the API takes. `proxies` are trusted to
    say which client a request comes from.
    """

    async def live(request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(request: Request) -> Response:
        problem = unready()
        return json_response({"status": "ok"}) if problem is None else problem.response()

    async def asyncapi(request: Request) -> Response:
        return json_response(asyncapi_document())

    async def socket(request: Request) -> Response:
        detail = "this is a websocket; if the client asked for one, a proxy dropped Upgrade and Connection"
        raise Problem("upgrade_required", detail)

    async def disconnected(request: Request, error: Exception) -> Response:
        # A draining server doesn't wait for bodies. Else nobody is left to read it.
        return (unready() or Problem("timeout", "the request ended before its body")).response()

    app = Starlette(
        routes=[
            *Api(chats, access).routes(),
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/asyncapi.json", asyncapi),
            Route("/ws/{path:path}", socket),
        ],
        exception_handlers={
            Problem: _answer,
            ChatRefused: _answer,
            StorageUnavailable: _answer,
            HTTPException: _answer,
            ClientDisconnect: disconnected,
            Exception: _failed,
        },
    )
    app.router.redirect_slashes = False
    return BehindProxies(Cors(app, origins, cors_headers), proxies or Proxies())


async def _answer(request: Request, error: Exception) -> Response:
    match error:
        case Problem():
            return error.response()
        case ChatRefused():
            return problem_of_refusal(error).response()
        case StorageUnavailable():
            return Problem("storage_unavailable", "storage is away; try again later").response()
        case HTTPException(status_code=405):
            problem = Problem("method_not_allowed", f"{request.method} is not for this path").response()
            problem.headers.update(error.headers or {})
            return problem
        case _:
            return Problem("not_found", "there is nothing at this path").response()


async def _failed(request: Request, error: Exception) -> Response:
    """A defect of ours: the client learns nothing of why."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Problem("internal", "the server failed").response()
