"""A seed gives the same run in this process and in others, whatever the string hashes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from actorchat.testing.simulation.chat_world import play
from actorchat.testing.simulation.plan import make_plan

SEEDS = (3, 7, 12)
PROGRAM = """
import sys
from actorchat.testing.simulation.chat_world import play
from actorchat.testing.simulation.plan import make_plan
for seed in map(int, sys.argv[1:]):
    print(play(make_plan(seed)).verdict.digest)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "22"])
def test_a_seed_gives_the_same_digest_in_another_process(hash_seed: str) -> None:
    ours = [play(make_plan(seed)).verdict.digest for seed in SEEDS]
    command = [sys.executable, "-c", PROGRAM, *map(str, SEEDS)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    theirs = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    assert theirs == ours


def test_a_plan_is_the_same_each_time_it_is_made() -> None:
    assert make_plan(41) == make_plan(41)
    assert make_plan(41) != make_plan(42)
