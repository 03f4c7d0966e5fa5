"""Makes a span of each websocket handshake and of each websocket session."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, Final

import attrs
from opentelemetry import trace
from opentelemetry.context import Context, get_current

from actorchat.chat.ports import Session
from actorchat.telemetry.callers import Callers
from actorchat.transports.listener import AuthorizeUpgrade, Deciding, Rejection
from actorchat.transports.ports import Admission, Application, Receiver, RoomTarget
from actorchat.transports.request_head import RequestHead

__all__ = ["SocketSpans"]

_LOST: Final = 1006
"""The close code of a socket that has ended without a Close."""

_ROUTES: Final = {"/ws/chats/": "/ws/chats/{chat}", "/ws/operators": "/ws/operators"}


class SocketSpans:
    """The spans of sockets: an `Application` around `application`, and the `SessionObserver` of transports.

    A session has one span, whatever is said on it.
    """

    def __init__(self, tracer: trace.Tracer, callers: Callers, application: Application) -> None:
        self._tracer = tracer
        self._callers = callers
        self._application = application
        # The sessions that have not ended, with their spans from the moment they join.
        self._open: dict[Session, trace.Span | None] = {}

    def traced(self, authorize: AuthorizeUpgrade) -> AuthorizeUpgrade:
        """Return `authorize` with a span for each handshake, to which the session's span will belong."""

        def decide(head: RequestHead, peer: str) -> Admission | Rejection | Deciding:
            context, links = self._callers.read(head.headers)
            # The handshake is valid, so its method is GET.
            span = self._tracer.start_span("GET", context, trace.SpanKind.SERVER, {"http.request.method": "GET"}, links)
            route = next((route for part, route in _ROUTES.items() if part in head.path), None)
            if route is not None:
                span.update_name(f"GET {route}")
                span.set_attribute("http.route", route)
            try:
                decision = authorize(head, peer)
            except Exception as error:
                _fail(span, error)
                raise
            return _decided(span, decision) if isinstance(decision, Admission | Rejection) else _Waiting(span, decision)

        return decide

    def join(self, session: Session, admission: Admission) -> Receiver | Awaitable[Receiver]:
        target = admission.target
        # Sockets within the process belong to the span in which the program opens them.
        context = admission.trace if isinstance(admission.trace, Context) else get_current()
        name = "websocket room" if isinstance(target, RoomTarget) else "websocket feed"
        span = self._tracer.start_span(name, context)
        span.set_attribute("actorchat.role", str(admission.user.role))
        span.set_attribute("actorchat.profile", admission.profile.value)
        if isinstance(target, RoomTarget):
            span.set_attribute("actorchat.chat", str(target.chat))
        else:
            span.set_attribute("actorchat.sources", sorted(target.sources))
        if session in self._open:
            self._open[session] = span
        else:
            # It has ended during its handshake.
            span.end()
        joined = self._application.join(session, admission)
        if isinstance(joined, Awaitable):
            return _joined(span, joined)
        span.add_event("joined")
        return joined

    def expected(self, session: Session) -> None:
        self._open[session] = None

    def ended(self, session: Session, close_code: int | None) -> None:
        span = self._open.pop(session)
        if span is not None:
            span.set_attribute("actorchat.close_code", close_code or _LOST)
            span.end()


class _Waiting:
    """A decision about a handshake that has to wait for storage."""

    def __init__(self, span: trace.Span, decision: Deciding) -> None:
        self._span = span
        self._decision = decision

    def __await__(self) -> Generator[Any, Any, Admission | Rejection]:  # Any: as in `Coroutine`
        try:
            decided = yield from self._decision.__await__()
        except BaseException as error:
            _fail(self._span, error)
            raise
        return _decided(self._span, decided)

    def close(self) -> None:
        self._decision.close()
        self._span.end()


def _decided(span: trace.Span, decision: Admission | Rejection) -> Admission | Rejection:
    if isinstance(decision, Admission):
        if isinstance(decision.target, RoomTarget):
            span.set_attribute("actorchat.chat", str(decision.target.chat))
        span.set_attribute("http.response.status_code", 101)
        decision = attrs.evolve(decision, trace=trace.set_span_in_context(span, Context()))
    else:
        span.set_attribute("http.response.status_code", decision.status)
        if decision.close_code is not None:
            span.set_attribute("actorchat.close_code", decision.close_code)
        if decision.status >= 500:
            span.set_status(trace.StatusCode.ERROR)
    span.end()
    return decision


async def _joined(span: trace.Span, joining: Awaitable[Receiver]) -> Receiver:
    receiver = await joining
    span.add_event("joined")
    return receiver


def _fail(span: trace.Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(trace.StatusCode.ERROR)
    span.end()
