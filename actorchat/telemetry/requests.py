"""Makes a span of each HTTP request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actorchat.http.request_ids import REQUEST_ID
from actorchat.telemetry.callers import Callers
from actorchat.telemetry.log_fields import SPAN_IDS, SpanIds

__all__ = ["RequestSpans"]

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestSpans:
    """ASGI middleware around the one that gives requests their ids.

    Paths, queries and errors are left out: they may contain signatures of links, and texts of messages.
    `route_of` returns the route of an answered request, None if no route has answered it.
    """

    def __init__(
        self, app: ASGIApp, tracer: trace.Tracer, callers: Callers, route_of: Callable[[Scope], str | None]
    ) -> None:
        self._app = app
        self._tracer = tracer
        self._callers = callers
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        context, links = self._callers.read(scope["headers"])
        span = self._tracer.start_span(
            method,
            context,
            trace.SpanKind.SERVER,
            {"http.request.method": method, "url.scheme": scope["scheme"]},
            links,
        )
        # An exception is answered with 500 further out.
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                span.set_attribute("actorchat.request_id", REQUEST_ID.get())
            await send(message)

        ids = span.get_span_context()
        logged = SPAN_IDS.set(SpanIds(trace.format_trace_id(ids.trace_id), trace.format_span_id(ids.span_id)))
        current = contexts.attach(trace.set_span_in_context(span, context))
        try:
            await self._app(scope, receive, watch)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            raise
        finally:
            contexts.detach(current)
            SPAN_IDS.reset(logged)
            self._end(span, method, scope, status)

    def _end(self, span: trace.Span, method: str, scope: Scope, status: int) -> None:
        route = self._route_of(scope)
        if route is not None:
            span.update_name(f"{method} {route}")
            span.set_attribute("http.route", route)
        if (chat := scope.get("path_params", {}).get("chat")) is not None:
            span.set_attribute("actorchat.chat", str(chat))
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end()
