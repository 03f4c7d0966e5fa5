"""Runs every test of the actor core under several task schedules, with and without a message ledger."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from tests.actors.checked_system import ledger_enabled


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if any(mark.args[0] == "schedule" for mark in metafunc.definition.iter_markers("parametrize")):
        return  # The test chooses its own schedules.
    count = metafunc.config.getoption("--schedules")
    metafunc.parametrize("schedule", range(count), indirect=True, ids=lambda seed: f"schedule {seed}")


@pytest.fixture(autouse=True)
def schedule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The seed of the order in which Trio runs tasks that are ready.

    Odd schedules have a ledger, and so an instrument; even ones take the faster path of messages without one.
    """
    seed: int = request.param
    run = trio._core._run
    before = run._r.getstate()
    monkeypatch.setattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    run._r.seed(seed)
    token = ledger_enabled.set(seed % 2 == 1)
    yield seed
    ledger_enabled.reset(token)
    run._r.setstate(before)
