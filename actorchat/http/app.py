"""Builds the ASGI application: its routes, its middleware, and its error responses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Scope

from actorchat.chat.console_documents import ConsoleDocuments
from actorchat.chat.ports import StorageDamaged, StorageUnavailable
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.http.accounts import AccountRoutes
from actorchat.http.api import Api
from actorchat.http.attachments import AttachmentRoutes
from actorchat.http.base_path import BasePath
from actorchat.http.blocks import BlockList, BlockRoutes
from actorchat.http.console import ConsoleRoutes
from actorchat.http.cors import Cors
from actorchat.http.documentation import Documentation
from actorchat.http.idempotency import IdempotentCalls
from actorchat.http.origins import AllowedOrigins
from actorchat.http.ports import Access, Files, SignIns
from actorchat.http.problems import Problem, ResponseCutOff, json_response, problem_of_refusal
from actorchat.http.proxies import BehindProxies, Proxies
from actorchat.http.request_counts import RequestCounts
from actorchat.http.request_ids import RequestIds
from actorchat.protocol import asyncapi_document

__all__ = ["make_app"]

_log: Final = logging.getLogger("actorchat.http")


def make_app(
    chats: ChatService,
    access: Access,
    files: Files,
    documents: ConsoleDocuments,
    sign_ins: SignIns,
    blocks: BlockList,
    *,
    origins: AllowedOrigins,
    cors_headers: Collection[str] = (),
    proxies: Proxies | None = None,
    unready: Callable[[], Problem | None],
    brokers: Callable[[], Sequence[Mapping[str, object]]] | None = None,
    bus: Callable[[], str] | None = None,
    losses: Callable[[], int] | None = None,
    pages: Sequence[BaseRoute] = (),
    is_public: Callable[[str], bool] = lambda path: False,
    counts: RequestCounts | None = None,
    base_path: str = "",
    traced: Callable[[ASGIApp, Callable[[Scope], str | None]], ASGIApp] | None = None,
) -> ASGIApp:
    """Return the ASGI application.

    `unready` returns the reason why load balancers should not send requests to this server now, None if there is none.
    Pages of `origins` may call the API, and may send `cors_headers` besides the request headers that it uses.
    `proxies` finds the client of a request that a trusted proxy has forwarded.
    `brokers` returns the state of each message broker, None if there are no brokers.
    `bus` returns the state of the bus between servers, None if there is only one server. `losses` returns how often
    storage has lost commits since the start, None if that is not known.
    `pages` are further routes. Paths that `is_public` accepts are served to pages of every origin.
    `counts` counts the requests. `base_path` is the path below which a proxy serves the application.
    `traced` returns middleware that makes spans of requests; its second argument returns the route of an answered one.
    """

    async def live(request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(request: Request) -> Response:
        problem = unready()
        if problem is not None:
            return problem.response()
        # The chat works without brokers and without a bus, so an unavailable one does not make the server unready.
        state: dict[str, object] = {"status": "ok"}
        if brokers is not None:
            state["brokers"] = brokers()
        if bus is not None:
            state["bus"] = bus()
        if losses is not None:
            state["storage_losses"] = losses()
        return json_response(state)

    async def asyncapi(request: Request) -> Response:
        return json_response(asyncapi_document())

    async def socket(request: Request) -> Response:
        detail = "this is a websocket endpoint; if the client sent Upgrade and Connection, a proxy removed them"
        raise Problem("upgrade_required", detail)

    async def disconnected(request: Request, error: Exception) -> Response:
        # A draining server stops waiting for bodies, and the client gets this answer. Otherwise the client is gone.
        return (unready() or Problem("timeout", "the request's body is incomplete")).response()

    once = IdempotentCalls()
    routes: list[BaseRoute] = [
        *Api(chats, access, once).routes(),
        *AttachmentRoutes(access, files).routes(),
        *ConsoleRoutes(chats, access, documents, once).routes(),
        *AccountRoutes(access, sign_ins, documents).routes(),
        *BlockRoutes(access, blocks, once).routes(),
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/asyncapi.json", asyncapi),
        *Documentation().routes(),
        Route("/ws/{path:path}", socket),
        *pages,
    ]
    counts = counts or RequestCounts()
    counts.know(routes)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(counts.middleware)],
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
    identified: ASGIApp = RequestIds(Cors(app, origins, cors_headers, is_public), counts.route_of)
    if traced is not None:
        identified = traced(identified, counts.known_route_of)
    return BasePath(BehindProxies(identified, proxies or Proxies()), base_path)


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
            problem.headers["Allow"] = _allowed(request)
            return problem
        case _:
            return Problem("not_found", "there is no resource at this path").response()


def _allowed(request: Request) -> str:
    """The methods of a path, which may be spread over several routes."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    matching = (route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return ", ".join(sorted({method for methods in matching for method in methods}))


async def _failed(request: Request, error: Exception) -> Response:
    """Log an unexpected error. The answer does not show the cause."""
    if isinstance(error, ResponseCutOff):
        return Problem("internal", str(error)).response()
    # The path is decoded and may contain line breaks and escape sequences of terminals, so it is logged as a literal.
    _log.error("%s %r failed", request.method, request.scope["path"], exc_info=error)
    return Problem("internal", "the server failed").response()
