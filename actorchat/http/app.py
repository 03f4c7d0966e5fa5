"""Builds the ASGI application: its routes, its middleware, and its error responses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from actorchat.chat.ports import StorageDamaged, StorageUnavailable
from actorchat.chat.service import ChatRefused, ChatService
from actorchat.http.api import Api
from actorchat.http.attachments import AttachmentRoutes
from actorchat.http.cors import Cors
from actorchat.http.origins import AllowedOrigins
from actorchat.http.ports import Access, Files
from actorchat.http.problems import Problem, json_response, problem_of_refusal
from actorchat.http.proxies import BehindProxies, Proxies
from actorchat.protocol import asyncapi_document

__all__ = ["make_app"]

_log: Final = logging.getLogger("actorchat.http")


def make_app(
    chats: ChatService,
    access: Access,
    files: Files,
    *,
    origins: AllowedOrigins,
    cors_headers: Collection[str] = (),
    proxies: Proxies | None = None,
    unready: Callable[[], Problem | None],
    brokers: Callable[[], Sequence[Mapping[str, object]]] | None = None,
) -> ASGIApp:
    """Return the ASGI application.

    `unready` returns the reason why load balancers should not send requests to this server now, None if there is none.
    Pages of `origins` may call the API, and may send `cors_headers` besides the request headers that it uses.
    `proxies` finds the client of a request that a trusted proxy has forwarded.
    `brokers` returns the state of each message broker, None if there are no brokers.
    """

    async def live(request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(request: Request) -> Response:
        problem = unready()
        if problem is not None:
            return problem.response()
        # The chat works without brokers, so an unavailable one does not make the server unready.
        return json_response({"status": "ok"} if brokers is None else {"status": "ok", "brokers": brokers()})

    async def asyncapi(request: Request) -> Response:
        return json_response(asyncapi_document())

    async def socket(request: Request) -> Response:
        detail = "this is a websocket endpoint; if the client sent Upgrade and Connection, a proxy removed them"
        raise Problem("upgrade_required", detail)

    async def disconnected(request: Request, error: Exception) -> Response:
        # A draining server stops waiting for bodies, and the client gets this answer. Otherwise the client is gone.
        return (unready() or Problem("timeout", "the request's body is incomplete")).response()

    app = Starlette(
        routes=[
            *Api(chats, access).routes(),
            *AttachmentRoutes(access, files).routes(),
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
        case StorageDamaged():
            return Problem(
                "storage_unavailable", "a part of the database is damaged; the server's log says what to do"
            ).response()
        case StorageUnavailable():
            return Problem("storage_unavailable", "storage is unavailable; try again later").response()
        case HTTPException(status_code=405):
            problem = Problem("method_not_allowed", f"this path does not support {request.method}").response()
            problem.headers.update(error.headers or {})
            return problem
        case _:
            return Problem("not_found", "there is no resource at this path").response()


async def _failed(request: Request, error: Exception) -> Response:
    """Log an unexpected error. The answer does not show the cause."""
    # The path is decoded and may contain line breaks and escape sequences of terminals, so it is logged as a literal.
    _log.error("%s %r failed", request.method, request.scope["path"], exc_info=error)
    return Problem("internal", "the server failed").response()
