"""The load generator counts messages correctly, on real sockets."""

from __future__ import annotations

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from bench.load.generator import open_load
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
        # The clock starts and stops while each of the six writers has up to two messages in flight.
        in_flight = 6 * 2
        assert measured.backlog <= in_flight
        assert measured.sent == pytest.approx(measured.messages, abs=in_flight)
        # The same for each of the five sockets of a room; a busy machine reads some of them a little later than others.
        assert measured.deliveries == pytest.approx(5 * measured.messages, rel=0.05, abs=5 * 2 * in_flight)


def test_an_open_loop_sends_on_schedule_and_measures_from_the_due_time() -> None:
    with LIMIT.start() as target, open_load(target.port, target.rooms(2, 2, 1)) as (load, _):
        measured = load.open_loop(rate=500, seconds=0.4)
        assert measured.sent == pytest.approx(200, abs=1)
        assert measured.waiting == 0
        assert measured.deliveries == 2 * measured.sent
        assert measured.messages == measured.sent
        assert 0 < measured.p50_us <= measured.p99_us <= measured.p999_us <= measured.max_us * 1.02


def test_an_open_loop_sleeps_between_two_messages() -> None:
    with LIMIT.start() as target, open_load(target.port, target.rooms(2, 2, 1)) as (load, _):
        assert load.open_loop(rate=500, seconds=0.4).cpu_share < 0.25


def test_a_flood_to_the_sink_reaches_no_server() -> None:
    with LIMIT.start() as target, open_load(target.port, target.rooms(1, 2, 1), sink=True) as (load, _):
        measured = load.open_loop(rate=100, seconds=0.4, flood=2000)
        assert measured.flooded == pytest.approx(800, abs=1)
        assert measured.deliveries == pytest.approx(80, abs=2)


def test_what_a_console_gets_is_counted_apart() -> None:
    with LIMIT.start() as target:
        writer, reader = target.rooms(1, 2, 1)
        sockets = [writer, reader, *[attrs.evolve(reader, role="console")] * 3]
        with open_load(target.port, sockets) as (load, _):
            # An open loop waits until everything has arrived, so its counts are exact.
            measured = load.open_loop(rate=500, seconds=0.3)
    assert measured.messages == measured.sent > 0
    assert measured.deliveries == 2 * measured.sent
    assert measured.to_consoles == 3 * measured.sent


@pytest.mark.parametrize("who", ["server", "load"])
def test_latency_counts_from_the_due_time_if_server_or_generator_stalls(who: str) -> None:
    with LIMIT.start() as target, open_load(target.port, target.rooms(2, 2, 1)) as (load, _):
        stalling = target.process.pid if who == "server" else load.pid
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(load.open_loop, rate=500, seconds=0.8)
            time.sleep(0.4)
            os.kill(stalling, signal.SIGSTOP)
            time.sleep(0.4)
            os.kill(stalling, signal.SIGCONT)
            measured = running.result()
    assert measured.p99_us > 300_000
    # The generator's own delay is reported separately.
    assert (measured.late_p99_us > 300_000) == (who == "load")
    assert measured.waiting == 0


def test_an_unreachable_server_is_named_by_its_port() -> None:
    with LIMIT.start() as target, pytest.raises(RuntimeError, match="port 1"), open_load(1, target.rooms(1, 1, 1)):
        pass
