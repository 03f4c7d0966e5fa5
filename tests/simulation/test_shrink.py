"""Failing plans are shrunk, saved and run again."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from actorchat.testing.simulation import __main__ as command
from actorchat.testing.simulation.campaign import run_seeds
from actorchat.testing.simulation.chat_world import ChatVerdict, play
from actorchat.testing.simulation.coverage import Coverage
from actorchat.testing.simulation.invariants import INVARIANTS, sentence_of
from actorchat.testing.simulation.plan import Plan, Setup, load_plan, make_plan, save_plan
from actorchat.testing.simulation.report import describe, describe_failure
from actorchat.testing.simulation.shrink import shrink
from actorchat.testing.simulation.world import Verdict, Violation
from tests.simulation.planted_faults import planted


def _fails_with(*needed: str) -> object:
    """A run that fails once each of these verbs has been done."""

    def fake(plan: Plan, *, known: Collection[str] = ()) -> ChatVerdict:
        left = set(needed)
        at = 0.0
        for step in plan.steps:
            left.discard(step.verb)
            at = step.at
            if not left:
                break
        violation = None if left else Violation("broken", "as arranged", at)
        verdict = Verdict(seed=plan.seed, violation=violation, digest="", lines=(), virtual=at, real=0.0)
        return ChatVerdict(plan=plan, verdict=verdict, operations=0, commits=0, coverage=Coverage().counts)

    return fake


def test_a_plan_is_shrunk_to_the_steps_that_break_the_promise() -> None:
    small = shrink(make_plan(9), "broken", play=_fails_with("send", "mark"))  # type: ignore[arg-type] # a stand-in
    assert sorted(step.verb for step in small.plan.steps) == ["mark", "send"]
    kept = {name: getattr(small.plan.setup, name) for name in ("visitors", "operators", "seconds", "burst")}
    assert small.plan.setup == Setup(**kept)


def test_a_plan_that_does_not_fail_is_not_shrunk() -> None:
    with pytest.raises(ValueError, match="does not fail"):
        shrink(make_plan(9), "broken", play=_fails_with("no such verb"))  # type: ignore[arg-type] # a stand-in


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = make_plan(30)
    save_plan(plan, tmp_path / "plan.json", kind="broken")
    loaded = load_plan(tmp_path / "plan.json")
    assert loaded == plan
    # Some bounds have to be integers.
    assert plan.setup.bounds
    assert str(loaded.setup.bounds) == str(plan.setup.bounds)


def test_a_failure_is_reported_with_its_promise_and_its_last_events() -> None:
    with planted("malformed-for-ever"):
        played = next(played for played in map(play, map(make_plan, range(100))) if played.violation is not None)
    lines = list(describe_failure(played, last=5))
    assert f"seed {played.plan.seed} breaks" in lines[0]
    assert any("expected: " in line for line in lines)
    assert "VIOLATION" in lines[-1]
    assert str(played.violation) in describe(played)


def test_every_invariant_has_a_sentence_that_is_also_found_after_a_crash() -> None:
    assert all(sentence.endswith(".") for sentence in INVARIANTS.values())
    assert sentence_of("feed-order-after-crash") == sentence_of("feed-order") is not None
    assert sentence_of("somebody else's") is None


def test_every_kind_of_violation_is_an_invariant() -> None:
    package = Path(command.__file__).parent
    used = set[str]()
    for path in package.glob("*.py"):
        for line in path.read_text().splitlines():
            for call in ('fail("', 'self.bad("', 'self._fail("'):
                if call in line:
                    used.add(line.partition(call)[2].partition('"')[0])
    assert used
    assert used <= INVARIANTS.keys()


def test_the_command_replays_a_seed_and_a_plan(tmp_path: Path) -> None:
    plan = attrs.evolve(make_plan(8), steps=make_plan(8).steps[:5])
    save_plan(plan, tmp_path / "plan.json")
    traced = CliRunner().invoke(command.main, ["--plan", str(tmp_path / "plan.json"), "--trace"])
    assert traced.exit_code == 0, traced.output
    assert "server up" in traced.output
    assert "seed 8: ok" in traced.output


@pytest.mark.slow
def test_the_command_runs_many_seeds_and_shows_the_coverage() -> None:
    many = CliRunner().invoke(command.main, ["--seeds", "2", "--first", "8", "--jobs", "1"])
    assert "2 seeds" in many.output
    assert "console_off" in many.output


@pytest.mark.slow
def test_seeds_can_run_in_other_processes() -> None:
    here = {result.seed: result.digest for result in run_seeds([8, 12], jobs=1)}
    there = {result.seed: result.digest for result in run_seeds([8, 12], jobs=2)}
    assert here == there


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--seed", "3", "--seeds", "4"], "--seed and --plan play one plan"),
        (["--trace", "--seeds", "3"], "--trace and --save take one plan"),
        (["--seed", "3", "--ignore", "nonsense"], "no violation is called nonsense; there are: after-close,"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], reason: str) -> None:
    refused = CliRunner().invoke(command.main, options)
    assert (refused.exit_code, reason in refused.output) == (2, True), refused.output


@pytest.mark.parametrize("text", ["[project]", "{}", "[1]"])
def test_a_file_that_is_no_plan_is_named_as_such(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    refused = CliRunner().invoke(command.main, ["--plan", str(path)])
    assert (refused.exit_code, "is no plan that --save has written" in refused.output) == (2, True), refused.output
