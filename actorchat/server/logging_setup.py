"""Owns how a server process writes its log: text for people, JSON for machines, on stderr.

Refuses to know who logs what. Configured by the command line only: an embedding program has its own way.
"""

from __future__ import annotations

import logging

import structlog
from structlog.typing import Processor

__all__ = ["configure_logging"]


def configure_logging(log_format: str) -> None:
    """Send our records from INFO on, and others' from WARNING on, to stderr, one line each."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    handler = logging.StreamHandler()
    last: list[Processor]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = handler.stream.isatty()
        last = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("actorchat").setLevel(logging.INFO)
