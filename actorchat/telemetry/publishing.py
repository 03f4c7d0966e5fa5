"""Makes a span of each batch of messages that is published to a broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context

__all__ = ["PublishSpans"]

_SYSTEMS: Final = {"amqp": "rabbitmq", "amqps": "rabbitmq", "rediss": "redis", "tls": "nats"}
"""OpenTelemetry's names of brokers, where they differ from the scheme of the URL."""


class PublishSpans:
    """The spans of all brokers."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def publishing(self, broker: str, messages: int) -> Iterator[None]:
        """Make a span of the block, which publishes `messages` to `broker`, a name without a password."""
        scheme = broker.partition(":")[0]
        system = _SYSTEMS.get(scheme, scheme)
        span = self._tracer.start_span(
            f"publish {system}",
            Context(),
            trace.SpanKind.PRODUCER,
            {
                "messaging.system": system,
                "messaging.operation.type": "send",
                "messaging.batch.message_count": messages,
                "actorchat.broker": broker,
            },
        )
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            span.end()
