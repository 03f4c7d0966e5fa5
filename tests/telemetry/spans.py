"""Collects the spans of a server under test in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext
from opentelemetry.util.types import AttributeValue


class Spans:
    """A provider, and the spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider: TracerProvider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self._exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self]

    def named(self, name: str) -> ReadableSpan:
        """The only span of that name."""
        found = [span for span in self if span.name == name]
        assert len(found) == 1, self.names
        return found[0]

    def everything(self) -> str:
        """All that was recorded."""
        return "\n".join(span.to_json() for span in self)


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def attributes_of(span: ReadableSpan) -> Mapping[str, AttributeValue]:
    assert span.attributes is not None
    return span.attributes


def linked(span: ReadableSpan) -> set[int]:
    """The ids of the spans that `span` has links to."""
    return {link.context.span_id for link in span.links}
