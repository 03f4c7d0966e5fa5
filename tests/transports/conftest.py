"""Owns the options of the transports' tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parser-frames",
        type=int,
        default=None,
        metavar="N",
        help="mutated frames that the reactor's parser and wsproto read alike (default: 5,000); "
        "name the folder: pytest tests/transports --parser-frames=1000000",
    )
