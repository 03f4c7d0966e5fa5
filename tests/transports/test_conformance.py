"""Every transport passes `check_transport`."""

from functools import partial

import pytest
import trio
import trio.testing

from actorchat.testing._transport_checks import TIMED_TRANSPORT_CHECKS, TRANSPORT_CHECKS, Check
from tests.transports.dialers import OPENERS, open_memory, open_sockets, open_streams


def _name(check: Check) -> str:
    return getattr(check, "__name__", "check")


@pytest.mark.parametrize("check", [*TRANSPORT_CHECKS, *TIMED_TRANSPORT_CHECKS], ids=_name)
async def test_memory(check: Check, autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1_000):
        await check(open_memory)


@pytest.mark.parametrize("check", [*TRANSPORT_CHECKS, *TIMED_TRANSPORT_CHECKS], ids=_name)
async def test_websockets_over_any_stream(check: Check, autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1_000):
        await check(open_streams)


@pytest.mark.parametrize("transport", OPENERS)
@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=_name)
async def test_websockets_over_sockets(check: Check, transport: str) -> None:
    with trio.fail_after(20):
        await check(partial(open_sockets, transport=transport))


@pytest.mark.parametrize("transport", OPENERS)
@pytest.mark.parametrize("check", TIMED_TRANSPORT_CHECKS, ids=_name)
async def test_websockets_over_sockets_in_time(
    check: Check, transport: str, autojump_clock: trio.testing.MockClock
) -> None:
    # Loopback delivers at once, so the clock does not jump over data in flight.
    with trio.fail_after(1_000):
        await check(partial(open_sockets, transport=transport))
