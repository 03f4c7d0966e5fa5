"""A websocket has one span for its handshake and one for its session, whatever is said on it."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import attrs
import pytest
import trio
from opentelemetry import trace
from trio_websocket import ConnectionRejected

from actorchat.chat.ports import Session
from actorchat.protocol import Profile, User
from actorchat.server.settings import LimitSettings, Settings
from actorchat.telemetry.callers import Callers
from actorchat.telemetry.sockets import SocketSpans
from actorchat.transports.listener import Deciding, Rejection
from actorchat.transports.memory import open_memory_transport
from actorchat.transports.ports import Admission, FeedTarget, Receiver
from actorchat.transports.request_head import HeadReader, RequestHead
from tests.server.server_under_test import SECRET, operator, run_server
from tests.telemetry.spans import Spans, attributes_of, context_of
from tests.telemetry.test_requests import CALLER, SPAN, TRACE

SETTINGS = Settings(storage="memory://", port=0, secret=SECRET, limits=LimitSettings(messages_per_second=0))


@pytest.mark.parametrize("transport", ["reactor", "trio-websocket"])
async def test_a_session_belongs_to_its_handshake_and_to_the_caller(transport: str) -> None:
    spans = Spans()
    async with run_server(attrs.evolve(SETTINGS, transport=transport), tracer_provider=spans.provider) as api:
        visitor, chat = await api.visit()
        async with api.socket(f"/ws/chats/{chat}", visitor, traceparent=CALLER) as socket:
            await socket.get_message()
    handshake, session = spans.named("GET /ws/chats/{chat}"), spans.named("websocket room")
    assert handshake.kind is trace.SpanKind.SERVER
    assert handshake.parent is not None
    assert (context_of(handshake).trace_id, handshake.parent.span_id) == (TRACE, SPAN)
    assert attributes_of(handshake)["http.response.status_code"] == 101
    assert session.parent is not None
    assert session.parent.span_id == context_of(handshake).span_id
    assert dict(attributes_of(session)) == {
        "actorchat.role": "user",
        "actorchat.profile": "actorchat.v1",
        "actorchat.chat": str(chat),
        "actorchat.close_code": 1000,
    }
    assert [event.name for event in session.events] == ["joined"]


async def test_a_feed_has_its_sources_and_the_code_with_which_the_server_closes() -> None:
    spans = Spans()
    eve = operator(sources=("b", "a"))
    async with (
        run_server(SETTINGS, tracer_provider=spans.provider) as api,
        api.socket("/ws/operators", eve) as socket,
    ):
        await socket.get_message()
        await api.call("POST", "/api/sign-out", eve)
    assert attributes_of(spans.named("websocket feed"))["actorchat.sources"] == ("a", "b")
    assert attributes_of(spans.named("websocket feed"))["actorchat.close_code"] == 4410


async def test_a_peer_that_is_gone_without_a_close_has_the_code_1006() -> None:
    spans = Spans()
    async with run_server(SETTINGS, tracer_provider=spans.provider) as api:
        visitor, chat = await api.visit()
        async with await trio.open_tcp_stream("127.0.0.1", api.server.port) as stream:
            await stream.send_all(
                f"GET /ws/chats/{chat} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {visitor}\r\n"
                "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
        while api.server.statistics().websockets:  # noqa: ASYNC110 - the server has no event for it
            await trio.sleep(0.01)
    assert attributes_of(spans.named("websocket room"))["actorchat.close_code"] == 1006


async def test_a_refused_handshake_has_a_span_with_its_status_and_no_session() -> None:
    spans = Spans()
    async with run_server(SETTINGS, tracer_provider=spans.provider) as api:
        with pytest.raises(ConnectionRejected):
            async with api.socket("/ws/operators", "no-token"):
                pass
        async with api.socket("/ws/operators", None, ["actorchat.v1", "bearer.no-token"]):
            pass
    refused = [attributes_of(span) for span in spans if span.name == "GET /ws/operators"]
    assert [(span["http.response.status_code"], span.get("actorchat.close_code")) for span in refused] == [
        (401, None),
        (401, 4401),
    ]
    assert len(spans.names) == 2


async def test_messages_on_a_socket_make_no_spans_but_those_of_commits() -> None:
    spans = Spans()
    async with run_server(SETTINGS, tracer_provider=spans.provider) as api:
        visitor, chat = await api.visit()
        async with api.socket(f"/ws/chats/{chat}", visitor) as socket:
            await socket.get_message()
            before = len(spans.names)
            for number in range(40):
                await socket.send_message(f'{{"type":"send_message","data":{{"text":"{number}","attachments":[]}}}}')
            for _ in range(40):
                while '"message_added"' not in await socket.get_message():
                    pass
            made = list(spans)[before:]
    commits = [span for span in made if span.name == "journal commit"]
    assert sum(int(str(attributes_of(span)["actorchat.operations"])) for span in commits) >= 40
    assert commits == made


async def test_a_handshake_that_has_to_read_storage_has_a_span(tmp_path: Path) -> None:
    spans = Spans()
    settings = attrs.evolve(SETTINGS, storage=f"sqlite:///{tmp_path}/chat.db", data=tmp_path)
    async with run_server(settings) as api:
        visitor, chat = await api.talk()
    async with (
        run_server(settings, tracer_provider=spans.provider) as api,
        api.socket(f"/ws/chats/{chat}", visitor) as socket,
    ):
        await socket.get_message()
    assert attributes_of(spans.named("GET /ws/chats/{chat}"))["http.response.status_code"] == 101
    assert [event.name for event in spans.named("websocket room").events] == ["joined"]


async def test_a_socket_within_the_process_belongs_to_the_span_of_the_program() -> None:
    spans = Spans()
    async with run_server(SETTINGS, tracer_provider=spans.provider) as api:
        with spans.provider.get_tracer("program").start_as_current_span("bot"):
            async with await api.server.connect_visitor(source="lk"):
                pass
    session = spans.named("websocket room")
    assert session.parent is not None
    assert session.parent.span_id == context_of(spans.named("bot")).span_id


class _Silent:
    """An application whose sockets say nothing."""

    def join(self, session: Session, admission: Admission) -> Receiver | Awaitable[Receiver]:
        raise NotImplementedError


def _spans() -> tuple[Spans, SocketSpans]:
    spans = Spans()
    tracer = spans.provider.get_tracer("test")
    return spans, SocketSpans(tracer, Callers(continue_traces=True), _Silent())


HEAD = HeadReader().feed(b"GET /ws/operators HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_a_decision_that_is_given_up_ends_its_span_and_closes_the_coroutine() -> None:
    spans, sockets = _spans()

    async def decide() -> Admission | Rejection:
        raise NotImplementedError

    def authorize(head: RequestHead, peer: str) -> Deciding:
        return decide()

    assert HEAD is not None
    decision = sockets.traced(authorize)(HEAD, "")
    assert not isinstance(decision, Admission | Rejection)
    # Otherwise Python warns that the coroutine was never awaited, which fails the test.
    decision.close()
    assert spans.names == ["GET /ws/operators"]


async def test_an_error_in_a_decision_fails_the_span() -> None:
    spans, sockets = _spans()

    def authorize(head: RequestHead, peer: str) -> Rejection:
        raise RuntimeError("planted")

    assert HEAD is not None
    with pytest.raises(RuntimeError):
        sockets.traced(authorize)(HEAD, "")
    assert attributes_of(spans.named("GET /ws/operators"))["error.type"] == "RuntimeError"
    assert spans.named("GET /ws/operators").status.status_code is trace.StatusCode.ERROR


async def test_a_session_whose_join_fails_ends_its_span() -> None:
    spans, sockets = _spans()
    admission = Admission(user=User(1, "operator"), profile=Profile.STRICT, target=FeedTarget(frozenset({"lk"})))  # type: ignore[arg-type]
    async with open_memory_transport(sockets) as transport:
        transport.sessions.observer = sockets
        connection = transport.connect(admission)
        await connection.aclose()
    assert attributes_of(spans.named("websocket feed"))["actorchat.close_code"] == 1011
    assert spans.named("websocket feed").events == ()
