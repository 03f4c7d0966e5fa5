"""Bundles what makes the spans of one server."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from opentelemetry.trace import TracerProvider
from starlette.types import ASGIApp, Scope

from actorchat.telemetry.callers import Callers
from actorchat.telemetry.commits import CommitSpans
from actorchat.telemetry.publishing import PublishSpans
from actorchat.telemetry.requests import RequestSpans
from actorchat.telemetry.sockets import SocketSpans
from actorchat.transports.ports import Application

__all__ = ["Tracing"]


class Tracing:
    """Makes spans with `provider`. `continue_traces` is as in `Callers`."""

    def __init__(self, provider: TracerProvider, *, continue_traces: bool) -> None:
        self._tracer = provider.get_tracer("actorchat", version("actorchat"))
        self._callers = Callers(continue_traces=continue_traces)
        self.commits: CommitSpans = CommitSpans(self._tracer)
        self.publishing: PublishSpans = PublishSpans(self._tracer)

    def requests(self, app: ASGIApp, route_of: Callable[[Scope], str | None]) -> ASGIApp:
        """Return `app` with a span for each request."""
        return RequestSpans(app, self._tracer, self._callers, route_of)

    def sockets(self, application: Application) -> SocketSpans:
        """Return `application` with a span for each session."""
        return SocketSpans(self._tracer, self._callers, application)
