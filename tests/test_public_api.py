"""Proves that the public names and signatures are those written down, so that no change of them goes unseen."""

from __future__ import annotations

import subprocess
import sys

from tests.public_api import SNAPSHOT, describe


def test_the_public_api_is_the_one_written_down() -> None:
    assert describe() == SNAPSHOT.read_text(), "`python -m tests.public_api` writes the new one down"


def test_the_actor_core_imports_nothing_but_trio_attrs_and_outcome() -> None:
    program = """
import sys
import trio, attrs, outcome
before = set(sys.modules)
import actorchat.actors
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["actorchat"]
