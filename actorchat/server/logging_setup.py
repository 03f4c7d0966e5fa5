"""Configures logging of a server process: text or JSON on stderr.

Only the command line calls this. A program that embeds a server configures logging itself.
"""

from __future__ import annotations

import logging

import structlog
from structlog.typing import Processor

__all__ = ["configure_logging"]


def configure_logging(log_format: str) -> None:
    """Log to stderr in `log_format`, "text" or "json": actorchat from level INFO, other libraries from WARNING."""
    shared: list[Processor] = [
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
    logging.getLogger("actorchat").setLevel(logging.INFO)
