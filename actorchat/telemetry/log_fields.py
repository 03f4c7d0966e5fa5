"""Keeps the ids of the current span for log lines, without OpenTelemetry."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

import attrs

__all__ = ["SPAN_IDS", "SpanIds"]


@attrs.frozen
class SpanIds:
    """A span, in hexadecimal digits as collectors show them."""

    trace_id: str
    span_id: str


SPAN_IDS: Final[ContextVar[SpanIds | None]] = ContextVar("actorchat.span_ids", default=None)
"""The span of the request that the current task answers, None outside of requests and without telemetry."""
