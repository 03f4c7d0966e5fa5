"""The benchmark of the actor core runs, and leaves out missing libraries. Its figures are not checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import actors as case
from bench.__main__ import main
from bench.actor_cases import Case


def failing() -> float:
    raise RuntimeError("an incompatible version")


@pytest.mark.slow
def test_every_case_of_the_actor_core_runs_and_has_its_target(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(main, ["actors", "--quick", "--json", str(file)])
    assert done.exit_code == 0, done.output
    report = json.loads(file.read_text())
    bars = {(bar["what"], bar["bound"], bar["at_least"]) for bar in report["bars"]}
    assert bars == {
        ("tell, checkpoints", 0.22, False),
        ("ask, checkpoints", 3.5, False),
        ("fan-out to 200, checkpoints", 0.55, False),
        ("parked, KiB", 6.0, False),
    }
    assert all(0 < min(figure["values"]) <= figure["median"] for figure in report["figures"])


def test_a_library_that_is_missing_or_fails_is_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    frail = Case("tell", "frail", failing, optional=True)
    monkeypatch.setattr(case, "trio_cases", lambda scale: [])
    monkeypatch.setattr(case, "memory_cases", list)
    monkeypatch.setattr(case, "library_cases", lambda scale: ([frail], ["pykka"]))
    done = CliRunner().invoke(main, ["actors", "--quick"])
    assert done.exit_code == 0, done.output
    assert "left out: pykka: not installed (pip install pykka)" in done.output
    assert "left out: frail, tell: failed (RuntimeError('an incompatible version'))" in done.output
