"""A busy machine is recognized, and its results are not judged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pexpect  # type: ignore[import-untyped]  # it comes without types
import pytest

from bench.noise import measure_noise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the benchmarks run on Linux only"),
]


@pytest.fixture
def busy_cores() -> Iterator[None]:
    """Inside the block, run an endless loop on every core of this process."""
    command = [sys.executable, "-c", "import sys\nsys.stdout.write('.')\nsys.stdout.flush()\nwhile True: pass"]
    loops = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in os.sched_getaffinity(0)]
    try:
        for loop in loops:
            assert loop.stdout is not None
            loop.stdout.read(1)
        yield
    finally:
        for loop in loops:
            with loop:
                loop.kill()


@pytest.mark.usefixtures("busy_cores")
def test_a_machine_with_a_busy_loop_on_every_core_is_too_noisy() -> None:
    before = os.sched_getaffinity(0)
    noise = measure_noise()
    assert noise.too_noisy
    assert noise.others > 0.2
    assert os.sched_getaffinity(0) == before


@pytest.mark.usefixtures("busy_cores")
def test_a_run_shows_progress_within_a_round_and_judges_no_time_on_a_busy_machine() -> None:
    command = ["-m", "bench", "actors", "--quick"]
    # The test runner's environment may set a smaller width.
    env = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
    program = pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=60, dimensions=(60, 160), env=env)
    program.expect("actors: round 1 of 1, noisy: ")
    program.expect(r" 1/\d+[^/]* actors: tell: ")
    program.expect(r" \d+/\d+[^/]* actors: ask: ")
    program.expect("tell, checkpoints[^\n]*too noisy to judge")
    program.expect("parked, KiB[^\n]*held")
    program.expect("noise in actors: one loop in ten took ")
    program.expect(pexpect.EOF)
    program.close()
    assert program.exitstatus == 0
