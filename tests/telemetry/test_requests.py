"""HTTP requests have spans that continue the caller's trace, name no texts, and are named in log lines."""

from __future__ import annotations

import json
import logging

import attrs
import pytest
from opentelemetry import trace

from actorchat.server.logging_setup import configure_logging
from actorchat.server.settings import LimitSettings, Settings, TelemetrySettings
from tests.server.logging_state import logging_restored
from tests.server.server_under_test import SECRET, operator, run_server
from tests.telemetry.spans import Spans, attributes_of, context_of

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
SETTINGS = Settings(storage="memory://", port=0, secret=SECRET, limits=LimitSettings(messages_per_second=0))


async def test_a_span_has_the_route_the_status_and_the_request_id() -> None:
    spans = Spans()
    async with run_server(tracer_provider=spans.provider) as api:
        visitor, chat = await api.visit()
        answer = await api.call("GET", f"/api/chats/{chat}/messages", visitor)
    span = spans.named("GET /api/chats/{chat:uuid}/messages")
    assert span.kind is trace.SpanKind.SERVER
    assert span.parent is None
    assert dict(attributes_of(span)) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "http.route": "/api/chats/{chat:uuid}/messages",
        "http.response.status_code": 200,
        "actorchat.request_id": answer.headers["x-request-id"],
        "actorchat.chat": str(chat),
    }


async def test_a_span_without_a_route_is_named_after_the_method() -> None:
    spans = Spans()
    async with run_server(tracer_provider=spans.provider) as api:
        await api.call("GET", "/a/path?of=somebody")
        await api.call("BREW", "/api/visitors")
    assert [(span.name, attributes_of(span)["http.response.status_code"]) for span in spans] == [
        ("GET", 404),
        ("_OTHER /api/visitors", 405),
    ]
    assert "somebody" not in spans.everything()


async def test_the_span_of_a_failed_request_names_the_error_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("actorchat.http.api.Query", fail)
    spans = Spans()
    async with run_server(tracer_provider=spans.provider) as api:
        assert (await api.call("GET", "/api/operators", operator())).status_code == 500
    span = spans.named("GET /api/operators")
    assert span.status.status_code is trace.StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "RuntimeError"
    assert "planted" not in spans.everything()


async def test_the_trace_of_the_caller_is_continued() -> None:
    spans = Spans()
    async with run_server(tracer_provider=spans.provider) as api:
        await api.call("GET", "/health/live", headers={"traceparent": CALLER})
    span = spans.named("GET /health/live")
    assert context_of(span).trace_id == TRACE
    assert span.parent is not None
    assert span.parent.span_id == SPAN


async def test_a_caller_that_does_not_record_is_not_recorded() -> None:
    spans = Spans()
    async with run_server(tracer_provider=spans.provider) as api:
        await api.call("GET", "/health/live", headers={"traceparent": f"{CALLER[:-2]}00"})
    assert spans.names == []


async def test_without_continue_traces_a_request_begins_a_trace_with_a_link_to_the_caller() -> None:
    spans = Spans()
    settings = attrs.evolve(SETTINGS, telemetry=TelemetrySettings(continue_traces=False))
    async with run_server(settings, tracer_provider=spans.provider) as api:
        await api.call("GET", "/health/live", headers={"traceparent": f"{CALLER[:-2]}00"})
    span = spans.named("GET /health/live")
    assert (span.parent, context_of(span).trace_id == TRACE) == (None, False)
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(TRACE, SPAN)]


async def test_requests_do_not_belong_to_the_span_in_which_the_server_was_opened() -> None:
    spans = Spans()
    with spans.provider.get_tracer("program").start_as_current_span("start"):
        async with run_server(tracer_provider=spans.provider) as api:
            await api.talk()
    assert {span.parent for span in spans if span.name != "start"} == {None}


async def test_log_lines_of_a_request_have_the_ids_of_its_span(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("actorchat.http.api.Query", fail)
    spans = Spans()
    with logging_restored():
        configure_logging("json")
        async with run_server(tracer_provider=spans.provider) as api:
            await api.call("GET", "/api/operators", operator())
        logging.getLogger("actorchat.server").info("outside of requests")
    lines = {line["event"]: line for line in map(json.loads, capsys.readouterr().err.splitlines())}
    failed, context = lines["GET '/api/operators' failed"], context_of(spans.named("GET /api/operators"))
    assert int(failed["trace_id"], 16) == context.trace_id
    assert int(failed["span_id"], 16) == context.span_id
    assert "trace_id" not in lines["outside of requests"]


async def test_texts_and_tokens_are_not_recorded() -> None:
    spans = Spans()
    async with run_server(tracer_provider=spans.provider) as api:
        visitor, chat = await api.visit()
        await api.write(visitor, chat, "between the two of us")
        await api.call("GET", "/api/search?q=between", operator())
        async with api.socket(f"/ws/chats/{chat}", visitor) as socket:
            await socket.get_message()
    assert len(spans.names) > 5
    recorded = spans.everything()
    assert [secret for secret in (visitor, "between", "127.0.0.1") if secret in recorded] == []
