"""Reads from request headers which trace the caller is in."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry import propagate, trace
from opentelemetry.context import Context

__all__ = ["Callers"]


class Callers:
    """Reads the headers that `OTEL_PROPAGATORS` names, by default `traceparent` and `tracestate`.

    With `continue_traces`, spans belong to the caller's trace. Otherwise they begin a trace of their own, with a link
    to the caller's span.
    """

    def __init__(self, *, continue_traces: bool) -> None:
        self._continue_traces = continue_traces
        self._propagator = propagate.get_global_textmap()
        self._names = {field.lower().encode("latin-1"): field for field in self._propagator.fields}

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Context, tuple[trace.Link, ...]]:
        """Return the context in which the span of a request begins, and the links of that span.

        Names of headers are in lower case. The context has nothing of the current task, which may be that of the
        program that has opened the server.
        """
        names = self._names
        carrier = {names[name]: value.decode("latin-1") for name, value in headers if name in names}
        context = self._propagator.extract(carrier, Context())
        if self._continue_traces:
            return context, ()
        caller = trace.get_current_span(context).get_span_context()
        return Context(), (trace.Link(caller),) if caller.is_valid else ()
