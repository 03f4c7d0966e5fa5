"""Rate limits for each person and each address."""

import pytest

from actorchat.server import rate_limits
from actorchat.server.rate_limits import AddressLimiter, MinuteLimiter


def test_an_address_gets_its_number_at_once_and_then_one_after_the_other() -> None:
    limiter = AddressLimiter(60)
    assert [limiter.take("192.0.2.1", 0.0) for _ in range(61)] == [0.0] * 60 + [1.0]
    assert limiter.take("192.0.2.1", 1.0) == 0.0
    assert limiter.take("192.0.2.2", 1.0) == 0.0


def test_a_rate_of_zero_means_no_limit() -> None:
    limiter = AddressLimiter(0)
    assert {limiter.take("192.0.2.1", 0.0) for _ in range(1000)} == {0.0}


def test_a_token_bucket_can_be_checked_and_refunded() -> None:
    limiter: MinuteLimiter[int] = MinuteLimiter(2)
    assert [limiter.wait(7, 0.0), limiter.take(7, 0.0), limiter.take(7, 0.0)] == [0.0] * 3
    assert limiter.wait(7, 0.0) == limiter.wait(7, 0.0) == pytest.approx(30.0)
    assert limiter.wait(7, 20.0) == pytest.approx(10.0)
    limiter.give_back(7, 20.0)
    assert limiter.wait(7, 20.0) == 0.0
    # A bucket never holds more than its initial tokens.
    for _ in range(5):
        limiter.give_back(8, 0.0)
    assert [limiter.take(8, 0.0) == 0.0 for _ in range(3)] == [True, True, False]
    assert MinuteLimiter[int](0).wait(7, 0.0) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("", "", True),
    ],
)
def test_a_sites_addresses_count_as_one(one: str, other: str, same: bool) -> None:
    limiter = AddressLimiter(1)
    assert limiter.take(one, 0.0) == 0.0
    assert bool(limiter.take(other, 0.0)) is same


def test_the_number_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_MAX_BUCKETS", 2)
    limiter = AddressLimiter(1)
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"):
        limiter.take(address, 0.0)
    assert limiter.take("192.0.2.1", 0.0) > 0
    assert limiter.take("192.0.2.2", 0.0) == 0.0
