"""Serves the OpenAPI document, and `/docs`, which shows it and the AsyncAPI document.

What makes them is imported at the first request, because that would make each start slower.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.http.base_path import base_path_of
from actorchat.http.problems import json_response

__all__ = ["Documentation"]


class Documentation:
    """The routes of the documents. Pages are rendered when one is asked for first."""

    def __init__(self) -> None:
        self._pages: Mapping[str, bytes] = {}
        self._headers: Mapping[str, str] = {}

    def routes(self) -> list[Route]:
        return [
            Route("/openapi.json", self._openapi),
            Route("/docs", self._serve("http")),
            Route("/docs/websockets", self._serve("websockets")),
        ]

    async def _openapi(self, request: Request) -> Response:
        from actorchat.http.openapi import openapi_document

        return json_response(openapi_document(base_path_of(request)))

    def _serve(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            if not self._pages:
                from actorchat.http.documentation_pages import page_headers, render_pages

                self._headers, self._pages = page_headers(), render_pages()
            return Response(self._pages[name], headers=self._headers, media_type="text/html")

        return serve
