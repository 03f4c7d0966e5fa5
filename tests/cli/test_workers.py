"""`actorchat serve --workers`: several processes serve one port, and are replaced without a refused connection."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import psutil  # type: ignore[import-untyped] # it has no types
import pytest

from tests.server.server_under_test import SECRET

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds until a process has started or ended on a busy machine."""


class Parent:
    """`actorchat serve` with two workers, by its settings file in `folder`, and PostgreSQL."""

    def __init__(self, url: str, folder: Path) -> None:
        self.log = folder / "log.txt"
        self._settings = folder / "settings.toml"
        self.write_settings()
        self.environment = {
            **os.environ,
            "ACTORCHAT_STORAGE": url,
            "ACTORCHAT_DATA": str(folder / "data of the shop"),
            "ACTORCHAT_SECRET": SECRET,
            "ACTORCHAT_NONSENSE": "1",
        }
        command = [sys.executable, "-m", "actorchat", "serve", "--config", str(self._settings)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.url = self.until(lambda: re.search(r"serves (\S+) with 2 workers", self.text))[1]

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def write_settings(self, **settings: object) -> None:
        values = {"node_name": "shop", "port": 0, "workers": 2, **settings}
        self._settings.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))

    def run(self, *command: str) -> str:
        """Run a command of `actorchat` with the environment of the server, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "actorchat", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until(self, look: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + PATIENCE
        while not (found := look()):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)
        return found

    def serves(self) -> bool:
        """Whether a new connection is answered."""
        return httpx.get(f"{self.url}/health/live", timeout=PATIENCE).status_code == 200

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def parent(new_postgres: Callable[[], str], tmp_path: Path) -> Iterator[Parent]:
    parent = Parent(new_postgres(), tmp_path)
    children = parent.workers
    yield parent
    if parent.process.poll() is None:
        children |= parent.workers
        parent.process.kill()
        parent.process.wait()
    # Workers end by themselves when their parent is gone.
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in children if psutil.pid_exists(pid)], timeout=PATIENCE)
    for process in alive:
        process.kill()
    assert not alive


@pytest.mark.slow
def test_workers_are_restarted_replaced_and_stopped(parent: Parent) -> None:
    first = parent.workers
    assert len(first) == 2
    assert all(parent.serves() for _ in range(10))
    killed = min(first)
    os.kill(killed, signal.SIGKILL)
    # Connections to its socket wait for its successor.
    assert all(parent.serves() for _ in range(10))
    parent.until(lambda: len(parent.workers - {killed}) == 2)
    second = parent.workers
    parent.process.send_signal(signal.SIGHUP)
    answered = 0
    while not ("all workers are replaced" in parent.text and parent.workers.isdisjoint(second)):
        assert parent.serves()
        answered += 1
        assert answered < 100_000
    assert len(parent.workers) == 2
    assert parent.stop() == 0
    assert "can't be replaced" not in parent.text
    assert "is killed" not in parent.text
    assert "another server uses" not in parent.text
    assert parent.text.count("ACTORCHAT_NONSENSE is ignored") == 1


@pytest.mark.slow
def test_what_can_not_change_while_workers_run_stays_as_it_was(parent: Parent) -> None:
    parent.write_settings(host="localhost", port=1, workers=1, log_format="json")
    parent.process.send_signal(signal.SIGHUP)
    parent.until(lambda: "all workers are replaced" in parent.text)
    lines = [json.loads(line) for line in parent.text.splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines if line["logger"] == "actorchat.cli"] == [
        "these settings changed but need a restart of the server: host, port, workers",
        "all workers are replaced",
    ]
    nodes = [json.loads(line) for line in parent.run("nodes", "--json").splitlines()]
    assert len(nodes) == 2
    for node in nodes:
        # The digits make the name of each worker unique.
        assert re.fullmatch(r"shop-[0-9a-f]{10}", node["node"])
        assert f"http://{node['address']}" == parent.url
    assert parent.stop() == 0
    assert "another one starts" not in parent.text


@pytest.mark.slow
def test_the_actors_of_the_folder_are_those_of_a_worker_that_is_named(parent: Parent) -> None:
    tree = json.loads(parent.run("actors", "tree", "--json"))
    names = [json.loads(line)["node"] for line in parent.run("nodes", "--json").splitlines()]
    assert tree["node"] in names
    assert {json.loads(parent.run("actors", "tree", "--json", "--node", name))["node"] for name in names} == set(names)


@pytest.mark.slow
def test_the_command_of_the_start_message_prints_a_code_that_signs_in(parent: Parent) -> None:
    printed = parent.until(lambda: re.search(r"with a link from: actorchat (.+)", parent.text))[1]
    code = re.search(r"#sign-in=(\S+)", parent.run(*shlex.split(printed)))
    assert code
    answer = httpx.post(f"{parent.url}/api/login/once", json={"code": code[1]}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_workers_end_with_their_parent(parent: Parent) -> None:
    workers = parent.workers
    parent.process.kill()
    parent.process.wait()
    assert not psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], PATIENCE)[1]


@pytest.mark.slow
def test_a_worker_that_can_not_start_ends_the_parent_with_its_reason(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "actorchat", "serve", "--port", "0", "--workers", "2"]
    storage = ["--storage", "postgresql://127.0.0.1:1/nowhere", "--data", str(tmp_path / "data")]
    done = subprocess.run([*command, *storage], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "the storage can't be used" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "2"], "several workers need --storage postgresql://…: the default is SQLite"),
        (["--workers", "2", "--storage", "sqlite:///a.db"], "postgresql://…: sqlite:///a.db is SQLite"),
        (["--workers", "2", "--storage", "memory://"], "memory:// keeps the chats in the memory of one process"),
        (["--workers", "2", "--storage", "postgresql://x/y", "--unix", "a.sock"], "listen on a port"),
        (["--workers", "0"], "1 to 64"),
    ],
)
def test_settings_that_several_workers_can_not_share_are_refused(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "actorchat", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert said in done.stderr
