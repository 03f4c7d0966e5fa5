"""The answers to errors: refusals, defects, timeouts and bad bodies."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn, cast
from uuid import UUID

import attrs
import httpx
import pytest
import trio
from starlette.requests import Request
from starlette.types import ASGIApp
from trio.testing import MockClock

from actorchat.chat.accounts import Rights
from actorchat.chat.console_documents import ConsoleDocuments
from actorchat.chat.model import ChatState
from actorchat.chat.ports import StorageDamaged, StorageUnavailable
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.http.answers import Health
from actorchat.http.app import _failed, make_app
from actorchat.http.blocks import BlockList
from actorchat.http.origins import AllowedOrigins
from actorchat.http.ports import Caller, Files, Sender, SignIns, Visit
from actorchat.http.problems import Problem
from actorchat.http.requests import BODY_SECONDS
from actorchat.protocol import User
from tests.server.server_under_test import error_of


class _Access:
    """Access control that answers every call with `outcome`."""

    def __init__(self, outcome: Exception | None) -> None:
        self._outcome = outcome

    def _fail(self) -> NoReturn:
        raise self._outcome or AssertionError("nobody asked for this")

    async def caller(self, authorization: str | None, sender: Sender) -> Caller:
        if self._outcome is None:
            await trio.sleep_forever()
        self._fail()

    async def visit(
        self, authorization: str | None, source: str, sender: Sender, anonymous: str | None = None
    ) -> Visit:
        self._fail()

    async def reserve(self, caller: Caller, source: str, owner: User) -> NoReturn:
        self._fail()

    async def chat(self, caller: Caller, chat: UUID) -> NoReturn:
        self._fail()

    def moderates(self, caller: Caller, chat: ChatState) -> NoReturn:
        self._fail()

    def sources(self, caller: Caller, requested: Collection[str]) -> frozenset[str]:
        self._fail()

    def require(self, caller: Caller, rights: Rights, action: str) -> None:
        self._fail()

    def count_widget(self, sender: Sender) -> NoReturn:
        self._fail()

    def check_source(self, source: str) -> None:
        self._fail()


def app_over(
    outcome: Exception | None,
    unready: Problem | None = None,
    brokers: Callable[[], Sequence[Mapping[str, object]]] | None = None,
    bus: Callable[[], str] | None = None,
) -> ASGIApp:
    # No request in this module reaches the chat service.
    return make_app(
        cast("ChatService", None),
        _Access(outcome),
        cast("Files", None),
        cast("ConsoleDocuments", None),
        cast("SignIns", None),
        cast("BlockList", None),
        origins=AllowedOrigins(),
        unready=lambda: unready,
        brokers=brokers,
        bus=bus,
    )


async def get(app: ASGIApp, path: str = "/api/chats") -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        return await http.get(path)


async def test_ready_answers_with_documented_fields_only() -> None:
    app = app_over(None, brokers=lambda: [{"broker": "redis", "status": "ok", "behind_seconds": 0.0}], bus=lambda: "ok")
    answer = (await get(app, "/health/ready")).json()
    assert answer == {
        "status": "ok",
        "brokers": [{"broker": "redis", "status": "ok", "behind_seconds": 0.0}],
        "bus": "ok",
    }
    assert set(answer) == {field.name for field in attrs.fields(Health)}


async def test_a_defect_is_a_500_without_details_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    answer = await get(app_over(RuntimeError("the secret is 42")))
    assert error_of(answer) == (500, "internal", "")
    assert "42" not in answer.text
    assert "GET '/api/chats' failed" in caplog.text
    assert "the secret is 42" in caplog.text


async def test_a_path_with_control_characters_makes_one_harmless_log_line(caplog: pytest.LogCaptureFixture) -> None:
    scope = {"type": "http", "method": "GET", "path": "/a\nforged\x1b[2J", "headers": []}
    await _failed(Request(scope), RuntimeError())
    (message,) = caplog.messages
    assert message == r"GET '/a\nforged\x1b[2J' failed"


@pytest.mark.parametrize(
    ("outcome", "status", "code", "retry_after"),
    [
        (StorageUnavailable("disk"), 503, "storage_unavailable", "1"),
        (StorageDamaged("a page"), 503, "storage_unavailable", "1"),
        (ChatRefused("storage_unavailable", "", 2.5), 503, "storage_unavailable", "3"),
        (ChatRefused("overloaded", ""), 503, "overloaded", "1"),
        (ChatRefused("draining", "", 1.0), 503, "draining", "1"),
        (ChatRefused("rate_limited", "", 0.2), 429, "rate_limited", "1"),
        (ChatRefused("not_owner", ""), 409, "not_owner", None),
        (ChatRefused("over_capacity", ""), 409, "over_capacity", None),
        (ChatRefused("blocked", ""), 403, "blocked", None),
    ],
)
async def test_a_refusal_has_its_status_and_a_retry_after(
    outcome: Exception, status: int, code: str, retry_after: str | None
) -> None:
    answer = await get(app_over(outcome))
    assert error_of(answer) == (status, code, "")
    assert answer.headers.get("retry-after") == retry_after


async def test_a_read_that_needs_damaged_rows_says_so_without_their_place() -> None:
    answer = await get(app_over(StorageDamaged("/data/actorchat.db is damaged")))
    assert answer.json()["error"]["detail"] == "a part of the database is damaged; the server's log says what to do"


async def test_without_a_token_the_answer_says_how_to_send_one() -> None:
    answer = await get(app_over(Problem("not_authenticated", "a token is needed")))
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_answer_that_takes_too_long_is_a_503(autojump_clock: MockClock) -> None:
    answer = await get(app_over(None))
    assert error_of(answer) == (503, "overloaded", "")
    assert "not known whether it takes effect" in answer.text


async def test_a_server_that_is_not_ready_says_why() -> None:
    answer = await get(app_over(None, Problem("draining", "stopping")), "/health/ready")
    assert error_of(answer) == (503, "draining", "")
    assert (await get(app_over(None, Problem("draining", "stopping")), "/health/live")).status_code == 200


async def post_for_ever(part: bytes, every: float) -> tuple[int, int]:
    """(status, bytes read) for a body without an end; the answer ends the connection."""
    sent: list[Any] = []  # Any: ASGI events
    taken = 0

    async def receive() -> dict[str, object]:
        nonlocal taken
        await trio.sleep(every)
        taken += len(part)
        return {"type": "http.request", "body": part, "more_body": True}

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "method": "POST", "path": "/api/visitors", "headers": [], "query_string": b""}
    await app_over(None)(scope, receive, send)
    assert (b"connection", b"close") in sent[0]["headers"]
    return sent[0]["status"], taken


async def test_a_slow_body_is_cut_off(autojump_clock: MockClock) -> None:
    assert (await post_for_ever(b" ", every=1))[0] == 408
    assert trio.current_time() == BODY_SECONDS


async def test_a_body_without_end_is_not_read_for_ever(autojump_clock: MockClock) -> None:
    status, taken = await post_for_ever(b" " * 65_536, every=0.001)
    assert status == 413
    assert taken < 2_000_000
