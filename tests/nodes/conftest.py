"""A Valkey that lives as long as the test session."""

from collections.abc import Iterator

import pytest

from tests.brokers.servers import Valkey


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()
