"""Command line options of the transport tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parser-frames",
        type=int,
        default=None,
        metavar="N",
        help="compare the reactor's parser with wsproto on this many mutated frames (default: 5,000); "
        "name the folder: pytest tests/transports --parser-frames=1000000",
    )
