"""Brokers that live as long as the test session, and programs that read from them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.servers import RABBITMQ, Nats, RabbitMq, Valkey


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--broker-seconds", type=float, help="how long test_loss.py sends while brokers are killed")


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """One that a test may stop, and that has its own options."""
    server = Valkey(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    server = Nats(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[Nats]:
    """One that a test may stop, and that has its own options."""
    server = Nats(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    """Skips where RabbitMQ isn't installed: it is no Python package. `.ci/run` installs it."""
    if RABBITMQ is None:
        pytest.skip("RabbitMQ is not installed: type apt-get install rabbitmq-server")
    server = RabbitMq(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.start()
        yield server
    finally:
        server.close()
