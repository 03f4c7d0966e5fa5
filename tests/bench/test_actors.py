"""Proves that the benchmark of the actor core runs, and leaves out what is missing. What it measures is no promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import actors as command
from bench.actor_cases import Case


def failing() -> float:
    raise RuntimeError("an incompatible version")


@pytest.mark.slow
def test_every_case_runs_and_the_figures_are_written(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(command.actors, ["--rounds", "1", "--scale", "0.01", "--json", str(file)])
    assert done.exit_code == 0, done.output
    report = json.loads(file.read_text())
    held = {(figure["what"], figure["bar"]) for figure in report["checkpoints"] + report["kib"] if figure["bar"]}
    assert held == {("tell", 0.22), ("ask", 3.5), ("fan-out to 200", 0.55), ("parked", 6.0)}
    assert all(0 < figure["low"] <= figure["median"] <= figure["high"] for figure in report["checkpoints"])


def test_a_library_that_is_missing_or_fails_is_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("tell", "frail", failing, optional=True)
    monkeypatch.setattr(command, "trio_cases", lambda scale: [])
    monkeypatch.setattr(command, "memory_cases", list)
    monkeypatch.setattr(command, "peer_cases", lambda scale: ([case], ["pykka"]))
    done = CliRunner().invoke(command.actors, ["--rounds", "1", "--scale", "0.01"])
    assert done.exit_code == 0, done.output
    assert "left out: pykka: not installed (pip install pykka)" in done.output
    assert "left out: frail, tell: failed (RuntimeError('an incompatible version'))" in done.output
