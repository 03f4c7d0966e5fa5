"""Each batch that is published to a broker has a span."""

from __future__ import annotations

import attrs
import pytest
import trio
from opentelemetry import trace
from trio.testing import MockClock

from actorchat.brokers import open_relays
from actorchat.chat.operations import AddMessage
from actorchat.telemetry.publishing import PublishSpans
from tests.brokers.test_relay import ANN, CHAT, LINKS, NOW, Place, ScriptedBroker
from tests.server.server_under_test import run_server
from tests.telemetry.spans import Spans, attributes_of
from tests.telemetry.test_requests import SETTINGS


async def test_a_batch_has_a_span_with_its_broker_and_size() -> None:
    spans = Spans()
    async with run_server(
        attrs.evolve(SETTINGS, broker=("memory://?prefix=x",)), tracer_provider=spans.provider
    ) as api:
        await api.talk()
    published = [span for span in spans if span.name == "publish memory"]
    assert sum(int(str(attributes_of(span)["messaging.batch.message_count"])) for span in published) >= 2
    for span in published:
        assert span.kind is trace.SpanKind.PRODUCER
        assert attributes_of(span)["actorchat.broker"] == "memory://?prefix=x"
        assert span.parent is None


@pytest.mark.parametrize(
    ("broker", "system"),
    [("amqps://b.example:5671", "rabbitmq"), ("rediss://b.example:6379/0", "redis"), ("tls://b.example:4222", "nats")],
)
async def test_a_batch_that_a_broker_does_not_take_has_a_failed_span(
    broker: str, system: str, autojump_clock: MockClock
) -> None:
    spans, place, full = Spans(), Place(broker), ScriptedBroker()
    full.full = "no room"
    observe = PublishSpans(spans.provider.get_tracer("test")).publishing
    async with open_relays(
        {broker: full}, place.log, links=LINKS, keep=3_600, clock=lambda: NOW, observe=observe
    ) as relays:
        place.relays = relays
        place.commit(AddMessage(CHAT, ANN, "one"))
        await trio.sleep(1)
        assert relays.statistics()[0].problem == "no room"
    failed = next(iter(spans))
    assert (failed.name, attributes_of(failed)["messaging.system"]) == (f"publish {system}", system)
    assert attributes_of(failed)["error.type"] == "BrokerUnavailable"
    assert failed.status.status_code is trace.StatusCode.ERROR
