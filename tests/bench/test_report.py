"""Proves that the report says what was measured, who holds which bar, and what is missing."""

from __future__ import annotations

import json

import pytest

from bench.plan import choose
from bench.report import Figure, Report


def report() -> Report:
    made = Report(command="python -m bench rooms")
    made.figures += [
        Figure("rooms", "actorchat", "deliveries/s", (90.0, 100.0, 400.0), 0.5),
        Figure("rooms", "ws", "deliveries/s", (50.0, 80.0, 60.0), 0.25),
        Figure("idle", "actorchat", "KiB", (5.0,), less=True),
    ]
    return made


def test_a_bar_compares_medians_of_one_run() -> None:
    made = report()
    made.ask("x ws", "rooms", "actorchat", ("rooms", "ws"), 1.6)
    made.ask("x ws, more", "rooms", "actorchat", ("rooms", "ws"), 1.7)
    made.ask_value("KiB", "idle", "actorchat", 4.0, most=True)
    assert [(bar.value, bar.held) for bar in made.bars] == [(100 / 60, True), (100 / 60, False), (5.0, False)]


def test_who_was_not_measured_is_held_to_nothing() -> None:
    made = report()
    made.ask("x picows", "rooms", "actorchat", ("rooms", "picows"), 1.0)
    made.ask_value("KiB", "idle", "nobody", 1.0)
    assert made.bars == []


def test_the_page_shows_best_first_with_spread_and_verdicts() -> None:
    made = report()
    made.ask("x ws", "rooms", "actorchat", ("rooms", "ws"), 1.7)
    made.leave_out("Bun: needs node and npm")
    lines = made.markdown().splitlines()
    assert "| rooms, deliveries/s | actorchat | 100 | 90 to 400 | 1.00 | 50% |" in lines
    assert "|  | ws | 60 | 50 to 80 | 0.60 | 25% |" in lines
    assert "| x ws | 1.67 | ≥ 1.7: NOT HELD |" in lines
    assert lines[-1] == "- left out: Bun: needs node and npm"


def test_the_figures_are_json_with_every_round() -> None:
    written = json.loads(report().json())
    assert written["command"] == "python -m bench rooms"
    assert written["figures"][0]["values"] == [90.0, 100.0, 400.0]


def test_an_unknown_peer_is_named_with_those_there_are() -> None:
    with pytest.raises(Exception, match=r"no peer is called nginx; there are: .*uwebsockets\.js.*"):
        choose("ws,nginx")
    assert choose("none") == ()
