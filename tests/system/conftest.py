"""Command line options of the system tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kill-rounds",
        type=int,
        default=None,
        metavar="N",
        help="kill a server under load N times, after up to 5 s each (default: 2 short rounds); "
        "name the folder: pytest tests/system --kill-rounds=20",
    )
    parser.addoption("--kill-seed", type=int, default=None, metavar="N", help="the seed of an earlier run of kills")
    parser.addoption(
        "--noise-frames",
        type=int,
        default=None,
        metavar="N",
        help="random frames that each transport reads (default: 8,000)",
    )
    parser.addoption(
        "--churn-joins", type=int, default=None, metavar="N", help="how many sockets join and leave (default: 600)"
    )
    parser.addoption(
        "--churn-seconds",
        type=float,
        default=None,
        metavar="N",
        help="let sockets join and leave a server process for N seconds (default: 6)",
    )
    parser.addoption(
        "--stop-moments",
        type=int,
        default=None,
        metavar="N",
        help="stop a server under load at N random moments (default: 3); name the folder, as for --kill-rounds",
    )
    parser.addoption("--stop-seed", type=int, default=None, metavar="N", help="the seed of an earlier run of stops")
