"""The delays between attempts to reconnect."""

from random import Random

from actorchat.client.backoff import Backoff


def test_delays_spread_over_a_doubling_ceiling_with_a_cap() -> None:
    random = Random(1)
    for failures, ceiling in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30]):
        delays = []
        for _ in range(200):
            backoff = Backoff(random)
            for _ in range(failures):
                backoff.next_delay()
            delays.append(backoff.next_delay())
        assert max(delays) <= ceiling
        assert max(delays) > ceiling * 0.9
        assert min(delays) < ceiling * 0.1


def test_a_delay_is_never_shorter_than_the_server_asked_for() -> None:
    backoff = Backoff(Random(1))
    assert all(backoff.next_delay(7) >= 7 for _ in range(50))
