"""Output that cannot be written."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from contextlib import suppress
from actorchat.cli.output import discard_unwritable_output, echo
with suppress(OSError):
    echo("words")
discard_unwritable_output()
sys.exit(0)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_output_that_cannot_be_written_does_not_change_the_exit_status() -> None:
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run([sys.executable, "-c", PROGRAM], stdout=full, check=False, env={}).returncode == 0
