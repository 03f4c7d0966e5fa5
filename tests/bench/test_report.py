"""The report shows what was measured, which targets are met, and what is missing."""

from __future__ import annotations

import json

import pytest

from bench.noise import Noise
from bench.report import Report
from bench.run_plan import choose


def report() -> Report:
    made = Report(command="python -m bench rooms")
    rooms = made.runs("rooms", "deliveries/s")
    for who, load, values in (("actorchat", 0.5, (90.0, 100.0, 400.0)), ("ws", 0.25, (50.0, 80.0, 60.0))):
        for value in values:
            rooms.add(who, value, load)
    made.runs("idle", "KiB", less=True).add("actorchat", 5.0)
    return made


def test_a_target_is_compared_with_the_median_of_the_rounds() -> None:
    made = report()
    made.ask("x ws", "rooms", "actorchat", ("rooms", "ws"), 1.8)
    made.ask("x ws, more", "rooms", "actorchat", ("rooms", "ws"), 1.81)
    made.ask_value("KiB", "idle", "actorchat", 4.0, most=True)
    assert [(bar.value, bar.held) for bar in made.bars] == [(1.8, True), (1.8, False), (5.0, False)]
    assert made.bars[0].values == (90 / 50, 100 / 80, 400 / 60)


def test_a_target_with_a_missing_peer_is_not_measured_and_says_why() -> None:
    made = report()
    made.leave_out("picows", "not installed")
    made.ask("x picows", "rooms", "actorchat", ("rooms", "picows"), 1.0)
    made.ask_value("KiB", "idle", "nobody", 1.0)
    assert [(bar.held, bar.verdict) for bar in made.bars] == [
        (None, "not measured: picows: not installed"),
        (None, "not measured: nobody: not measured in this run"),
    ]


def test_a_target_below_the_noise_of_its_figure_is_not_measured() -> None:
    made = report()
    made.runs("noise", "KiB").add("two alike", 4.5)
    made.ask_value("KiB", "idle", "actorchat", 4.0, most=True, noise=("noise", "two alike"))
    assert made.bars[0].verdict == "not measured: the noise is 4.5"


QUIET, LOUD = Noise(0.05, 0.01, 0.0), Noise(0.9, 0.5, 0.0)


def test_on_a_noisy_machine_targets_for_memory_are_judged_but_not_for_times() -> None:
    made = report()
    made.begin("rooms")
    made.ask("x ws", "rooms", "actorchat", ("rooms", "ws"), 1.8)
    made.ask_value("KiB", "idle", "actorchat", 6.0, most=True, timed=False)
    made.ask_value("KiB", "idle", "nobody", 6.0)
    for noise in (LOUD, QUIET, LOUD):
        made.listen(noise)
    made.begin("later")
    made.ask("x ws, later", "rooms", "actorchat", ("rooms", "ws"), 1.8)
    made.listen(QUIET)
    loud, memory, missing, quiet = made.bars
    assert loud.verdict == "too noisy to judge"
    assert (loud.value, loud.held, memory.held, quiet.held) == (1.8, None, True, True)
    assert missing.verdict.startswith("not measured: ")
    assert "- noise in rooms: one loop in ten took 90% longer, others used 50%, 0% was stolen" in made.markdown()
    assert json.loads(made.json())["noise"]["later"] == {"spread": 0.05, "others": 0.01, "steal": 0.0}


def test_one_noisy_moment_does_not_prevent_a_verdict() -> None:
    made = report()
    made.ask("x ws", "rooms", "actorchat", ("rooms", "ws"), 1.8)
    for noise in (QUIET, LOUD, QUIET):
        made.listen(noise)
    assert made.bars[0].held


@pytest.mark.parametrize("noise", [Noise(0.3, 0, 0), Noise(0, 0.3, 0), Noise(0, 0, 0.1)])
def test_a_loop_that_varies_other_processes_and_stolen_time_are_noise(noise: Noise) -> None:
    assert noise.too_noisy
    assert not QUIET.too_noisy


def test_a_target_may_be_declared_before_its_measurement() -> None:
    made = Report()
    made.ask_value("x", "case", "actorchat", 1.0)
    made.runs("case", "x").add("actorchat", 1.0)
    assert made.bars[0].held


def test_the_markdown_shows_the_best_first_with_spread_and_verdicts() -> None:
    made = report()
    made.ask("x ws", "rooms", "actorchat", ("rooms", "ws"), 1.9)
    made.leave_out("Bun", "needs node and npm")
    made.fail("idle", "out of order")
    lines = made.markdown().splitlines()
    assert "| rooms, deliveries/s | actorchat | 100 | 90 to 400 | 1.00 | 50% |" in lines
    assert "|  | ws | 60 | 50 to 80 | 0.60 | 25% |" in lines
    assert "| x ws | ≥ 1.9 | 1.8 | 1.25 to 6.67 | NOT HELD |" in lines
    assert lines[-2:] == ["- left out: Bun: needs node and npm", "- FAILED: idle: out of order"]


def test_the_figures_are_json_with_every_round() -> None:
    written = json.loads(report().json())
    assert written["command"] == "python -m bench rooms"
    assert written["figures"][0]["values"] == [90.0, 100.0, 400.0]


def test_an_unknown_peer_is_named_with_the_known_ones() -> None:
    with pytest.raises(Exception, match=r"no peer is called nginx; there are: .*uwebsockets\.js.*"):
        choose("ws,nginx")
    assert choose("none") == ()
