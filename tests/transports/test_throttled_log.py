"""Repeated log lines are throttled."""

import logging

import pytest
import trio
from trio.testing import MockClock

from actorchat.transports.throttled_log import PERIOD, ThrottledLog


async def test_a_repeated_line_is_logged_once_a_period_with_a_count(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    notice = ThrottledLog(logging.getLogger("actorchat.test"))
    for _ in range(3):
        notice("%d are full", 7)
    await trio.sleep(PERIOD)
    notice("%d are full", 8)
    await trio.sleep(PERIOD)
    notice("%d are full", 9)
    assert caplog.messages == ["7 are full", "8 are full (3 times since it was last logged)", "9 are full"]
