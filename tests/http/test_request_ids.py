"""Answers and log lines of a request have the same id."""

from __future__ import annotations

import logging

import pytest

from actorchat.http.request_ids import REQUEST_ID
from tests.server.server_under_test import operator, run_server


class Collected(logging.Handler):
    """Keeps the id that each log line gets."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = REQUEST_ID.get()
        self.lines.append((record.getMessage(), found))


async def test_answers_have_ids_of_their_own() -> None:
    async with run_server() as api:
        ids = {(await api.http.get(path)).headers["x-request-id"] for path in ("/health/live", "/nowhere", "/docs")}
        foreign = {"Origin": "https://evil.example"}
        own = {"Origin": api.server.url, "Access-Control-Request-Method": "POST"}
        for headers, status in ((foreign, 403), (own, 204)):
            answer = await api.http.options("/api/visitors", headers=headers)
            assert answer.status_code == status
            ids.add(answer.headers["x-request-id"])
    assert len(ids) == 5
    assert all(len(each) == 16 for each in ids)


async def test_the_lines_of_a_failed_request_have_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("actorchat.http.api.Query", fail)
    log, handler = logging.getLogger("actorchat.http"), Collected()
    log.addHandler(handler)
    try:
        async with run_server() as api:
            answer = await api.call("GET", "/api/operators", operator())
    finally:
        log.removeHandler(handler)
    assert answer.status_code == 500
    assert ("GET '/api/operators' failed", answer.headers["x-request-id"]) in handler.lines


async def test_at_level_debug_requests_are_logged_by_route_and_without_tokens(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "actorchat.http.requests"):
        async with run_server() as api:
            visitor, chat = await api.talk()
            await api.call("GET", f"/api/chats/{chat}/messages", visitor)
            await api.call("GET", f"/{chat}", visitor)
    lines = [record.getMessage() for record in caplog.records if record.name == "actorchat.http.requests"]
    assert "GET /api/chats/{chat:uuid}/messages" in lines
    assert "GET none" in lines
    assert str(chat) not in caplog.text
    assert visitor not in caplog.text
