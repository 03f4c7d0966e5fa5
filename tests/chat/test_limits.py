"""Rate limits and size limits of messages."""

from uuid import uuid4

import pytest
import trio
import trio.testing

from actorchat.chat.limits import InFlightLimiter, Limits, RateLimiter, check_message
from actorchat.chat.model import Identity
from actorchat.chat.operations import Refused
from actorchat.protocol import Role

ANNA = Identity(Role.USER, 7)


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    limiter = RateLimiter(Limits(messages_per_second=10, burst=3))
    assert [limiter.take(ANNA, 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.take(ANNA, 0.0) == pytest.approx(0.1)
    assert limiter.take(ANNA, 0.1) == 0.0


def test_users_share_no_allowance_but_the_sockets_of_one_user_do() -> None:
    limiter = RateLimiter(Limits(messages_per_second=10, burst=1))
    assert limiter.take(ANNA, 0.0) == 0.0
    assert limiter.take(Identity(Role.OPERATOR, 7), 0.0) == 0.0
    assert limiter.take(Identity(Role.USER, 7), 0.0) == pytest.approx(0.1)


def test_no_rate_means_no_limit() -> None:
    limiter = RateLimiter(Limits(messages_per_second=0, burst=1))
    assert [limiter.take(ANNA, 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "attachments", "code"),
    [("", 0, "empty"), ("x" * 4_001, 0, "too_long"), ("x", 11, "too_many_attachments")],
)
def test_a_message_out_of_bounds_is_refused(text: str, attachments: int, code: str) -> None:
    refused = check_message(text, tuple(uuid4() for _ in range(attachments)), Limits())
    assert refused is not None
    assert refused.code == code


@pytest.mark.parametrize(("text", "attachments"), [("x" * 4_000, 10), ("", 1)])
def test_a_message_at_the_bounds_passes(text: str, attachments: int) -> None:
    assert check_message(text, tuple(uuid4() for _ in range(attachments)), Limits()) is None


async def test_the_in_flight_limiter_refuses_over_capacity_and_while_draining() -> None:
    in_flight_limiter = InFlightLimiter(1)
    assert in_flight_limiter.take() is None
    overloaded = in_flight_limiter.take()
    assert isinstance(overloaded, Refused)
    assert overloaded.code == "overloaded"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_flight_limiter.drain)
        await trio.testing.wait_all_tasks_blocked()
        draining = in_flight_limiter.take()
        assert isinstance(draining, Refused)
        assert draining.code == "draining"
        in_flight_limiter.done()
