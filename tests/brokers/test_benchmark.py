"""The benchmark of brokers measures real brokers: each part gives a figure of what it says."""

from pathlib import Path

import pytest
import trio

from actorchat.brokers import open_broker, parse_broker_url
from actorchat.protocol import BrokerChannel
from bench.message_brokers import _Broker, _catch_up, _fill, _log_cost, _measure_lag, _publish
from bench.report import Runs
from tests.brokers.readers import redis_reader
from tests.brokers.servers import Valkey

CAP = 60.0


@pytest.mark.slow
async def test_everything_that_is_logged_counts_as_caught_up_and_is_in_the_broker(
    own_valkey: Valkey, tmp_path: Path
) -> None:
    await trio.to_thread.run_sync(own_valkey.start)
    broker = _Broker("Valkey", own_valkey.url)
    path = tmp_path / "logged.db"
    _fill(path, 600, [broker])
    with trio.fail_after(CAP):
        seconds, microseconds = await _catch_up(path, broker.url, [broker])
        async with redis_reader(own_valkey.port, b"0")(BrokerChannel.MESSAGE) as reader:
            assert len({message.id for message in await reader.read(600)}) == 600
    assert seconds > 0
    assert microseconds > 0


@pytest.mark.slow
async def test_the_rate_is_that_of_messages_in_the_broker(own_valkey: Valkey) -> None:
    await trio.to_thread.run_sync(own_valkey.start)
    with trio.fail_after(CAP):
        rate, microseconds = await _publish(own_valkey.url, 0.2)
        async with redis_reader(own_valkey.port, b"0")(BrokerChannel.MESSAGE) as reader:
            assert await reader.read(500)
    assert rate > 0
    assert microseconds > 0
    async with open_broker(parse_broker_url(own_valkey.url)).connect() as connection:
        await connection.ping()


@pytest.mark.slow
def test_the_lag_is_measured_from_a_socket_to_another_program(own_valkey: Valkey, tmp_path: Path) -> None:
    own_valkey.start()
    lags = {name: Runs(name, "ms") for name in ("p50", "p99")}
    _measure_lag(tmp_path / "data", _Broker("Valkey", own_valkey.url), 0.5, lags)
    [p50], [p99] = (lags[name].values["actorchat, Valkey"] for name in ("p50", "p99"))
    assert 0 < p50 <= p99 < CAP * 1_000


def test_the_log_is_measured_beside_a_store_without_it(tmp_path: Path) -> None:
    without, _ = _log_cost(tmp_path, 2)
    assert without > 0
