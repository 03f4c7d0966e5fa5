"""The limit for open files, and the number of connections that it allows."""

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource", reason="this system has no such limits")

PROGRAM = """
import resource
from actorchat.server.file_descriptors import connections_that_fit, raise_open_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (%s, %s))
raise_open_file_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], connections_that_fit())
"""


def limits(soft: int, hard: int) -> tuple[int, int]:
    """Run a process with these limits that raises its soft limit. Returns that and its number of connections."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM % (soft, hard)], capture_output=True, text=True, check=True)
    raised, fit = map(int, ended.stdout.split())
    return raised, fit


@pytest.mark.slow
def test_the_soft_limit_is_raised_and_a_reserve_is_kept() -> None:
    raised, fit = limits(256, 512)
    assert raised == 512
    assert 400 < fit <= 512 - 64
    raised, fit = limits(100, 100)
    assert raised == 100
    assert 40 < fit <= 75
