"""The answer to a websocket request when the server can't decide about access."""

from collections.abc import Awaitable
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.submitter import ChatRefused
from actorchat.http.origins import AllowedOrigins
from actorchat.http.ports import Caller, Sender
from actorchat.server.access_control import AccessControl
from actorchat.server.websocket_routes import WebsocketAccess
from actorchat.transports.listener import Rejection
from actorchat.transports.request_head import RequestHead, read_head

REQUEST = b"GET /ws/operators HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: bearer.x\r\n\r\n"


async def feed_request() -> RequestHead:
    async def receive() -> bytes:
        return REQUEST

    head = await read_head(receive)
    assert head is not None
    return head


class _AccessControl:
    """Never recognizes a user: calls `outcome` instead, or waits for ever."""

    def __init__(self, outcome: Exception | None) -> None:
        self._outcome = outcome

    def caller_nowait(self, authorization: str | None, sender: Sender) -> Caller:
        raise trio.WouldBlock

    async def caller(self, authorization: str | None, sender: Sender) -> Caller:
        if self._outcome is not None:
            raise self._outcome
        await trio.sleep_forever()
        raise AssertionError("it slept for ever")


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (None, b"overloaded"),
        (StorageUnavailable("disk"), b"storage_unavailable"),
        (ChatRefused("draining", "stopping"), b"draining"),
    ],
)
async def test_an_undecided_request_gets_503_and_can_be_repeated(
    autojump_clock: MockClock, outcome: Exception | None, code: bytes
) -> None:
    # An HTTP status instead of a close code: browsers report 1006, after which clients reconnect.
    verdict = WebsocketAccess(cast("AccessControl", _AccessControl(outcome)), AllowedOrigins())(
        await feed_request(), "192.0.2.1"
    )
    assert isinstance(verdict, Awaitable)
    verdict = await verdict
    assert isinstance(verdict, Rejection)
    assert (verdict.status, verdict.close_code) == (503, None)
    assert code in verdict.body
