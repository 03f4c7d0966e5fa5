"""Counts requests by method, route and status, and measures how long they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import trio
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actorchat.histogram import Histogram

__all__ = ["RequestCounts"]

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_NO_ROUTE: Final = "none"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestCounts:
    """The requests since the start. `in_progress` is as of now; `seconds` has the routes of answered requests.

    Routes are the paths of the API with the names of their parameters, so that their number is bounded.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.seconds: dict[str, Histogram] = {}
        self.in_progress: int = 0
        self._paths: dict[Callable[..., object], str] = {}

    def know(self, routes: Iterable[BaseRoute]) -> None:
        """Take the routes of the application. Requests to anything else count as one route."""
        self._paths = {route.endpoint: route.path for route in routes if isinstance(route, Route)}

    def route_of(self, scope: Scope) -> str:
        """Return the path of the route that answers a request, once the router has chosen it, "none" without one."""
        return self.known_route_of(scope) or _NO_ROUTE

    def known_route_of(self, scope: Scope) -> str | None:
        """Like `route_of`, but None without a route."""
        return self._paths.get(scope.get("endpoint", None))

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Return ASGI middleware around the router, which puts the endpoint into the scope."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            # An exception is answered with 500 further out.
            status, begun = 500, trio.current_time()

            async def watch(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            self.in_progress += 1
            try:
                await app(scope, receive, watch)
            finally:
                self.in_progress -= 1
                path = self.route_of(scope)
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self.requests[method, path, status] += 1
                histogram = self.seconds.get(path)
                if histogram is None:
                    histogram = self.seconds[path] = Histogram(_SECONDS)
                histogram.observe(trio.current_time() - begun)

        return counted
