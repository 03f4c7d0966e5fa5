"""Options and settings of all tests: Hypothesis has no deadline, because CI machines share their cores."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import actorchat
from actorchat.chat.model import Policy
from actorchat.storage.postgres.store import PostgresStore
from tests.blobs.s3_server import S3Server
from tests.postgres_server import QUICK, PostgresServer

settings.register_profile(
    "shared machine",
    deadline=None,
    print_blob=True,
    # Drawing the first text builds tables, which is slow once.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--schedules",
        type=int,
        default=2,
        help="run each test of the actor core under this many task schedules (default: 2; before a release: 20)",
    )


REAL_TIME = ("bench", "brokers", "cli", "nodes", "server", "system", "web")
"""Folders whose tests use browsers, server processes, brokers, terminals or sockets, and so wait in real time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests in real time once more after a failure, as a busy machine may be the reason (docs/testing.md)."""
    for item in items:
        parts = item.path.relative_to(Path(__file__).parent).parts
        if parts[0] in REAL_TIME and not _has_virtual_clock(item):
            item.add_marker(pytest.mark.flaky(reruns=1))


def _has_virtual_clock(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    return "autojump_clock" in item.fixturenames or hasattr(item.module, "MockClock")


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores, because many tests wait for servers, brokers and browsers."""
    return (os.cpu_count() or 1) + 1


def pytest_configure() -> None:
    # The workers of pytest-xdist inherit the variable, so they agree on the seeds.
    os.environ.setdefault("ACTORCHAT_SIMULATION_SEED", str(_seed_of_sources()))


def _seed_of_sources() -> int:
    """A number that changes with each change to the package: new seeds for new code, and the same for the same code."""
    digest = hashlib.sha256()
    for path in sorted(Path(actorchat.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:5], "big")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer(*QUICK)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def new_postgres(postgres_server: PostgresServer) -> Callable[[], str]:
    """Makes a database with the tables of actorchat, and returns its URL."""
    template = postgres_server.new_database()
    PostgresStore(template, Policy()).close()
    return lambda: postgres_server.new_database(template.rpartition("/")[2])


def pytest_report_header() -> str:
    return f"simulation: seeds from {os.environ['ACTORCHAT_SIMULATION_SEED']} on"
