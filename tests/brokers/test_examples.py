"""The examples of consumers read body and headers from real brokers, as programs of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

import actorchat
from actorchat.brokers import open_broker, parse_broker_url
from tests.brokers.servers import Nats, RabbitMq, Valkey
from tests.brokers.test_server import act, settings

ROOT = Path(__file__).parents[2]
CAP = 60.0
TEXTS = ("hello \N{WAVING HAND SIGN}", "good day", "a regular", "The chat was closed.")


@contextmanager
def example(name: str, broker: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"BROKER": broker, "PYTHONIOENCODING": "utf-8"}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", f"examples.{name}"], cwd=ROOT, env=environment, stdout=file, stderr=file
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def lines_of(name: str, consumer: str, publisher: str, output: Path) -> list[str]:
    """What the example prints of a whole session. The session is repeated until the example listens."""
    with trio.fail_after(CAP), example(name, consumer, output) as process:
        while True:
            async with actorchat.open_server(settings(publisher)) as server:
                await act(server)
            await trio.sleep(0.5)
            printed = await trio.Path(output).read_text(encoding="utf-8")
            assert process.poll() is None, printed
            if printed.count("The chat was closed.") and all(text in printed for text in TEXTS):
                return printed.splitlines()


@pytest.mark.slow
async def test_the_trio_example_reads_from_valkey(own_valkey: Valkey, tmp_path: Path) -> None:
    await trio.to_thread.run_sync(own_valkey.start)
    lines = await lines_of("broker_consumer", own_valkey.url, own_valkey.url, tmp_path / "lines.txt")
    assert "[lk] note for operators by Eve: a regular" in lines
    assert "[lk] Ann: hello \N{WAVING HAND SIGN}" in lines


@pytest.mark.slow
async def test_the_faststream_example_reads_from_valkey(own_valkey: Valkey, tmp_path: Path) -> None:
    await trio.to_thread.run_sync(own_valkey.start)
    publisher = f"{own_valkey.url}?format=faststream"
    check_faststream(await lines_of("faststream_consumer", own_valkey.url, publisher, tmp_path / "lines.txt"))


@pytest.mark.slow
async def test_the_faststream_example_reads_from_rabbitmq(rabbitmq: RabbitMq, tmp_path: Path) -> None:
    url = f"{rabbitmq.url}/"
    check_faststream(await lines_of("faststream_consumer", url, rabbitmq.url, tmp_path / "lines.txt"))


@pytest.mark.slow
async def test_the_faststream_example_reads_from_nats(own_nats: Nats, tmp_path: Path) -> None:
    await trio.to_thread.run_sync(own_nats.start)
    async with open_broker(parse_broker_url(own_nats.url)).connect():
        # It makes the streams, which a consumer needs.
        pass
    check_faststream(await lines_of("faststream_consumer", own_nats.url, own_nats.url, tmp_path / "lines.txt"))


def check_faststream(lines: list[str]) -> None:
    """Body and headers are there, and notes are marked as such."""
    printed = [line.split(" ", 4) for line in lines if line.startswith("[lk] ")]
    assert printed
    for _, id_, *_ in printed:
        assert id_.count("/") == 3
    told = {line.partition(" for ")[2] for line in lines}
    assert "operators only: a regular" in told
    assert "everybody: hello \N{WAVING HAND SIGN}" in told
    assert len({id_ for _, id_, *_ in printed}) == len(printed)
