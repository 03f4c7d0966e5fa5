"""Proves that the load generator counts what it is sent, on real sockets."""

from __future__ import annotations

import shutil

import pytest

from bench.load import open_load
from bench.servers import LIMIT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="the generator is compiled when first needed"
    ),
]


def test_in_a_closed_loop_everybody_gets_every_message_and_no_more() -> None:
    with LIMIT.start() as target, open_load(target.port, target.rooms(3, 5, 2)) as (load, connected):
        assert connected.sockets == 15
        measured = load.closed_loop(in_flight=2, seconds=0.3)
        assert measured.messages > 0
        # Each message goes to the five of its room; at the edges of the time some of them are on their way.
        assert measured.deliveries == pytest.approx(5 * measured.messages, rel=0.05, abs=100)


def test_an_open_loop_sends_on_schedule_and_counts_latency_from_when_a_message_was_due() -> None:
    with LIMIT.start() as target, open_load(target.port, target.rooms(2, 2, 1)) as (load, _):
        measured = load.open_loop(rate=500, seconds=0.4)
        assert measured.sent == pytest.approx(200, abs=20)
        assert measured.waiting == 0
        assert 0 < measured.p50_us <= measured.p99_us <= measured.p999_us <= measured.max_us * 1.02


def test_a_server_that_is_not_there_is_told_by_its_port() -> None:
    with LIMIT.start() as target, pytest.raises(RuntimeError, match="port 1"), open_load(1, target.rooms(1, 1, 1)):
        pass
