"""Implements the HTTP routes that show administrators the live actors and the numbers of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.actor_tree import ActorTree, InspectionRequest, SortOrder
from actorchat.chat.accounts import Rights
from actorchat.http.answers import ServerNumbers
from actorchat.http.ports import Access
from actorchat.http.problems import Problem, json_response
from actorchat.http.requests import Query, sender_of

__all__ = ["MAX_FILTER", "LiveRoutes"]

MAX_FILTER: Final = 200
_MAX_PAGE: Final = 2**31
_MAX_READERS: Final = 8
"""Requests for the tree at a time. Each reads all actors."""


class LiveRoutes:
    """The endpoints `/api/actors` and `/api/statistics`, for administrators."""

    def __init__(self, access: Access, actors: ActorTree, numbers: Callable[[], ServerNumbers]) -> None:
        self._access = access
        self._actors = actors
        self._numbers = numbers

    def routes(self) -> list[Route]:
        return [
            Route("/api/actors", self._tree, methods=["GET"]),
            Route("/api/statistics", self._statistics, methods=["GET"]),
        ]

    async def _admin(self, request: Request, *parameters: str) -> Query:
        caller = await self._access.caller(request.headers.get("authorization"), sender_of(request))
        query = Query(request, parameters)
        self._access.require(caller, Rights.ADMIN, "see the live server")
        return query

    async def _tree(self, request: Request) -> Response:
        query = await self._admin(request, "q", "sort", "limit", "page")
        text, page = query.text("q") or "", query.number("page")
        if len(text) > MAX_FILTER:
            raise Problem("malformed", f"q: expected at most {MAX_FILTER} characters", path="q", status=400)
        if page is not None and not 1 <= page <= _MAX_PAGE:
            raise Problem("malformed", f"page: expected 1 to {_MAX_PAGE}", path="page", status=400)
        wanted = InspectionRequest(
            sort=query.one_of("sort", SortOrder, SortOrder.INBOX), filter=text, limit=query.limit(), page=page or 1
        )
        if self._actors.readers >= _MAX_READERS:
            raise Problem("overloaded", "others are looking at the actors; try again", retry_after=2.0)
        return json_response(await self._actors.page(wanted))

    async def _statistics(self, request: Request) -> Response:
        await self._admin(request)
        return json_response(self._numbers())
