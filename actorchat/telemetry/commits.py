"""Makes a span of each commit, and links it to the requests whose operations it has stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from opentelemetry import trace
from opentelemetry.context import Context

__all__ = ["CommitSpans"]


class CommitSpans:
    """The spans of one journal. Sockets have no span for a message, so only requests are linked."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        # While outcomes are reported: the span of their commit.
        self._reported: trace.Span | None = None

    def on_operation(self) -> Callable[[], None] | None:
        """Return what to call when an operation of the current request is decided, None if nothing has to be called."""
        request = trace.get_current_span()
        return partial(self._link, request) if request.is_recording() else None

    @contextmanager
    def committed(self, operations: int, seconds: float, failure: str | None = None) -> Iterator[None]:
        """Make the span of a commit that has just ended after `seconds`. Its outcomes are reported in this block.

        `failure` says in a word why nothing is known to be stored.
        """
        end = time.time_ns()
        span = self._tracer.start_span(
            "journal commit",
            Context(),
            attributes={"actorchat.operations": operations},
            start_time=end - round(seconds * 1e9),
        )
        if failure is not None:
            span.set_attribute("error.type", failure)
            span.set_status(trace.StatusCode.ERROR)
        self._reported = span if span.is_recording() else None
        try:
            yield
        finally:
            self._reported = None
            span.end(end)

    def _link(self, request: trace.Span) -> None:
        commit = self._reported
        if commit is not None and request.is_recording():
            commit.add_link(request.get_span_context())
            request.add_link(commit.get_span_context())
