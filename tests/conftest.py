"""Options and settings of all tests: Hypothesis has no deadline, because CI machines share their cores."""

import os

import pytest
from hypothesis import HealthCheck, settings

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


def pytest_configure() -> None:
    # Workers of pytest-xdist inherit it: the whole run has one. Fixed until 10,000 seeds have passed in one go: a rare
    # fault that is still unknown must not fail a change that has nothing to do with it. Fresh ones: `just simulate`.
    os.environ.setdefault("ACTORCHAT_SIMULATION_SEED", "1000")


def pytest_report_header() -> str:
    return f"simulation: seeds from {os.environ['ACTORCHAT_SIMULATION_SEED']} on"
