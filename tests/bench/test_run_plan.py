"""However a run ends, it shows all measured figures and leaves no server behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import __main__ as command
from bench.report import Report
from bench.run_plan import Plan
from bench.servers import ACTORCHAT, Server, Target, Unavailable, private_kib


def broken() -> AbstractContextManager[Target]:
    raise Unavailable("does not listen")


def whole(plan: Plan) -> None:
    """A case that works."""
    plan.report.runs("whole", "x").add("actorchat", 1.0)


def failing(plan: Plan) -> None:
    """A case that fails after its first figure."""
    plan.report.runs("half", "x").add("actorchat", 2.0)
    raise RuntimeError("out of order")


def test_a_failing_case_is_named_and_the_others_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "CASES", (failing, whole))
    done = CliRunner().invoke(command.main, ["all", "--quick"])
    assert done.exit_code == 1
    assert "FAILED: failing: out of order" in done.output
    assert "half, x" in done.output
    assert "whole, x" in done.output


def test_a_run_fails_without_actorchat_and_leaves_out_a_missing_peer() -> None:
    report = Report()
    plan = Plan(report, 2, 0.1, True, ())
    # attrs compares by value, and actorchat is recognized by its name.
    plan.measure("rooms", (Server(ACTORCHAT.name, broken), Server("ws", broken)), lambda server, target: None)
    assert report.failed == ["rooms, actorchat: does not listen"]
    report.ask_value("x", "rooms", "ws", 1.0)
    assert report.bars[0].verdict == "not measured: ws: does not listen"


def test_a_server_that_is_measured_twice_is_a_fresh_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    @contextmanager
    def start() -> Iterator[None]:
        started.append(len(started))
        yield

    measured: list[str] = []
    plan = Plan(Report(), 2, 0.1, True, ())
    server = Server("any", start)  # type: ignore[arg-type] # the target is not used
    plan.measure("x", [server], lambda *_: measured.append("a"), lambda *_: measured.append("b"))
    assert measured == ["a", "b", "a", "b"]
    assert len(started) == 4


def test_an_interrupted_run_shows_its_figures_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def long(plan: Plan) -> None:
        """A case that takes a while."""
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(command, "CASES", (whole, long, failing))
    done = CliRunner().invoke(command.main, ["all", "--quick"])
    assert done.exit_code == 128 + signal.SIGTERM
    assert "whole, x" in done.output
    assert "half, x" not in done.output
    assert "FAILED: all: the run was interrupted" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda each: each.name)
def test_an_interrupted_benchmark_leaves_no_server(number: signal.Signals) -> None:
    arguments = [sys.executable, "-m", "bench", "rooms", "--quick", "--peers", "none", "--seconds", "20"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        children = wait_for_children(bench.pid)
        bench.send_signal(number)
        bench.wait(20)
    deadline = time.monotonic() + 10
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, children))


AT_A_FORK = """
import os, signal, subprocess, time
from bench.load.generator import pin_load, signals_held

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

os.register_at_fork(after_in_parent=interrupt)
try:
    with signals_held():
        process = subprocess.Popen(["sleep", "60"], preexec_fn=pin_load)
    print("it was lost")
except KeyboardInterrupt:
    process.send_signal(signal.SIGTERM)
    print("heard, and the process ended with", process.wait())
"""


@pytest.mark.slow
def test_an_interrupt_during_a_process_start_is_not_lost() -> None:
    ended = subprocess.run([sys.executable, "-c", AT_A_FORK], capture_output=True, text=True, timeout=90, check=False)
    assert ended.stdout == f"heard, and the process ended with {-signal.SIGTERM}\n"


def wait_for_children(pid: int) -> list[int]:
    """The processes of a server and its load generator."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        if len(children) > 1:
            return children
        time.sleep(0.05)
    raise AssertionError("it starts nothing")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.slow
def test_the_memory_of_child_processes_is_counted() -> None:
    holding = f"{sys.executable} -c 'held = bytearray(50 << 20); input()'; true"
    with subprocess.Popen(["/bin/sh", "-c", holding], stdin=subprocess.PIPE, start_new_session=True) as launcher:
        deadline = time.monotonic() + 20
        while private_kib(launcher) < 50 << 10 and time.monotonic() < deadline:
            pass
        held = private_kib(launcher)
        launcher.communicate(b"\n")
    assert held > 50 << 10
