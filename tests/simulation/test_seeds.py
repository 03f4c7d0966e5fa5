"""The simulation passes with a range of seeds, and with every plan that once failed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from actorchat.testing.simulation.chat_world import play
from actorchat.testing.simulation.plan import load_plan, make_plan
from actorchat.testing.simulation.report import describe_failure

SEEDS = 300
CHUNKS = 20
SECONDS = 240.0
"""CPU seconds for all chunks together: two minutes on two cores."""

CORPUS = sorted(Path(__file__).with_name("corpus").glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_seeds_break_no_promise(chunk: int) -> None:
    # Set in tests/conftest.py, and printed in the header of the test run.
    first = int(os.environ["ACTORCHAT_SIMULATION_SEED"])
    # A busy machine runs fewer seeds instead of taking longer.
    until = time.monotonic() + SECONDS / CHUNKS
    for seed in range(first + chunk * SEEDS // CHUNKS, first + (chunk + 1) * SEEDS // CHUNKS):
        if time.monotonic() > until:
            break
        played = play(make_plan(seed))
        assert played.violation is None, "\n".join(describe_failure(played))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_plan_that_once_failed_breaks_no_promise(path: Path) -> None:
    played = play(load_plan(path))
    assert played.violation is None, "\n".join(describe_failure(played))
