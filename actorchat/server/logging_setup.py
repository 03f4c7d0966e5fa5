"""Configures logging of a server process: text or JSON on stderr.

Only the command line calls this. A program that embeds a server configures logging itself.
"""

from __future__ import annotations

import logging

import structlog
from structlog.typing import EventDict, Processor

from actorchat.http.request_ids import REQUEST_ID
from actorchat.telemetry.log_fields import SPAN_IDS

__all__ = ["configure_logging"]


def configure_logging(log_format: str, log_level: str = "info") -> None:
    """Log to stderr in `log_format`, "text" or "json": actorchat from `log_level`, other libraries from WARNING.

    May be called again, also while the server runs.
    """
    shared: list[Processor] = [
        _add_request_id,
        _add_span_ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    handler = logging.StreamHandler()
    renderers: list[Processor]
    if log_format == "json":
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = handler.stream.isatty()
        renderers = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # It warns of every malformed upload, which any client can send.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("actorchat").setLevel(log_level.upper())


def _add_request_id(logger: object, method: str, event: EventDict) -> EventDict:
    if request_id := REQUEST_ID.get():
        event["request_id"] = request_id
    return event


def _add_span_ids(logger: object, method: str, event: EventDict) -> EventDict:
    if (ids := SPAN_IDS.get()) is not None:
        event["trace_id"], event["span_id"] = ids.trace_id, ids.span_id
    return event
