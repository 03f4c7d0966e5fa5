"""Sends spans to a collector by OTLP over HTTP, in a thread of OpenTelemetry."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from math import inf
from typing import Final

import trio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

__all__ = ["FLUSH_SECONDS", "open_provider"]

FLUSH_SECONDS: Final = 1.5
"""How long the last spans may take to be sent when the server stops."""

LOG_PERIOD: Final = 60.0
"""Seconds between two log lines of the exporter. It warns with each attempt while the collector is away."""

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL: Final = "http/protobuf"

_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace.export",
)
"""The loggers that warn of an unreachable collector, in the supported versions of the libraries."""

_log: Final = logging.getLogger("actorchat.telemetry")


class _Throttle(logging.Filter):
    """Passes one line in `LOG_PERIOD`, and none after `silence`."""

    def __init__(self) -> None:
        super().__init__()
        self._next_at = -inf

    def silence(self) -> None:
        self._next_at = inf

    def filter(self, record: logging.LogRecord) -> bool:
        # Called in the exporter's thread, where there is no Trio clock.
        if (now := time.monotonic()) < self._next_at:
            return False
        self._next_at = now + LOG_PERIOD
        return True


@asynccontextmanager
async def open_provider(endpoint: str, service_name: str) -> AsyncIterator[TracerProvider]:
    """Make a provider whose spans are sent in batches. Leaving the block sends what is left, in `FLUSH_SECONDS`.

    `endpoint` is the base URL of the collector, "" for the default. The variables of OpenTelemetry's environment win
    over both arguments. Raises ValueError if one of them is invalid.
    """
    for name in _PROTOCOLS:
        if (protocol := os.environ.get(name, _PROTOCOL)) != _PROTOCOL:
            _log.warning("%s=%s is ignored: spans are sent by %s", name, protocol, _PROTOCOL)
    named = endpoint and not any(map(os.environ.get, _ENDPOINTS))
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces" if named else None)
    # At exit it would be too late: the program may have waited for the server to stop.
    provider = TracerProvider(resource=_resource(service_name), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    with _throttled() as throttle:
        try:
            yield provider
        finally:
            with trio.move_on_after(FLUSH_SECONDS, shield=True) as flushing:
                await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)
            if flushing.cancelled_caught:
                _log.warning("the last spans are lost: the collector didn't take them in %.1f s", FLUSH_SECONDS)
                throttle.silence()
                # Ends the wait before the next attempt. An attempt that has begun ends with the exporter's timeout, in
                # threads that don't keep the process from exiting.
                exporter.shutdown()  # type: ignore[no-untyped-call] # theirs


def _resource(service_name: str) -> Resource:
    ours = {"service.name": service_name, "service.version": version("actorchat")}
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in given})


@contextmanager
def _throttled() -> Iterator[_Throttle]:
    loggers, throttle = [logging.getLogger(name) for name in _LOGGERS], _Throttle()
    for logger in loggers:
        logger.addFilter(throttle)
    try:
        yield throttle
    finally:
        for logger in loggers:
            logger.removeFilter(throttle)
