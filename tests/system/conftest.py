"""Owns the options of the system tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kill-rounds",
        type=int,
        default=None,
        metavar="N",
        help="kill a loaded server N times, after up to 5 s each (default: 2 short rounds); "
        "name the folder: pytest tests/system --kill-rounds=20",
    )
    parser.addoption("--kill-seed", type=int, default=None, metavar="N", help="the random choices of an earlier kill")
    parser.addoption(
        "--noise-frames",
        type=int,
        default=None,
        metavar="N",
        help="frames of noise that each transport reads (default: 8,000)",
    )
    parser.addoption(
        "--churn-joins", type=int, default=None, metavar="N", help="joins and leaves of the churn (default: 600)"
    )
    parser.addoption(
        "--churn-seconds",
        type=float,
        default=None,
        metavar="N",
        help="let sockets join and leave a server of its own process for N seconds (default: 6)",
    )
    parser.addoption(
        "--stop-moments",
        type=int,
        default=None,
        metavar="N",
        help="stop a loaded server in N random moments (default: 3); name the folder, as for --kill-rounds",
    )
    parser.addoption("--stop-seed", type=int, default=None, metavar="N", help="the random choices of an earlier stop")
