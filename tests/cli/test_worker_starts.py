"""Starts, restarts and replacements of workers, which are small programs here, while the tests make time pass."""

import errno
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it has no types
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.chat.model import Policy
from actorchat.cli.serve import worker_environment
from actorchat.cli.workers import START_SECONDS, STORAGE_SECONDS, WorkerLink, Workers
from actorchat.server.settings import Settings

PATIENCE = 60.0
"""Real seconds until a small program has started on a busy machine."""

STAND_IN = """
import os, signal, socket, sys, time
folder, steps = sys.argv[1:]
number, link = map(int, os.environ["ACTORCHAT_WORKER"].split(","))
sock = socket.socket(fileno=link)
with open(f"{folder}/started", "a") as file:
    file.write(f"{number} {os.getpid()}\\n")
for step in steps:
    if step == "!":
        if os.path.exists(f"{folder}/kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if os.path.exists(f"{folder}/crash") or os.path.exists(f"{folder}/crash-{number}"):
            sys.exit(3)
    elif step == "_":
        open(f"{folder}/waiting", "w").close()
        while os.path.exists(f"{folder}/hold"):
            time.sleep(0.01)
    else:
        sock.send(step.encode())
open(f"{folder}/done", "w").close()
sock.recv(1)
"""
"""A worker that tells its parent what `steps` say. At `_` it waits, and at `!` it ends, while a file is there; with
`crash-1` only worker 1 ends. It makes the file `waiting` when it gets to `_`, and `done` after the last step."""


@pytest.fixture
def clock() -> MockClock:
    """Time that passes only when a test says so."""
    return MockClock()


class StandIns:
    """Workers that are small programs, controlled with files in `folder`."""

    def __init__(self, nursery: trio.Nursery, folder: Path, steps: str, count: int) -> None:
        self.hold, self.crash, self.kill, self.done = (folder / name for name in ("hold", "crash", "kill", "done"))
        self.waiting = folder / "waiting"
        self._started = folder / "started"
        command = [sys.executable, "-S", "-c", STAND_IN, str(folder), steps]
        self.workers = Workers(nursery, [()] * count, command, {})

    @property
    def started(self) -> list[tuple[int, int]]:
        """The number and the process of each that was started, the oldest first."""
        if not self._started.exists():
            return []
        return [(int(number), int(pid)) for number, pid in map(str.split, self._started.read_text().splitlines())]

    @property
    def alive(self) -> int:
        return sum(psutil.pid_exists(pid) for _, pid in self.started)

    def kill_first(self, number: int) -> None:
        os.kill(dict(reversed(self.started))[number], signal.SIGKILL)

    async def until_started(self, count: int) -> None:
        await until(lambda: len(self.started) == count)


async def until(happened: Callable[[], bool]) -> None:
    """Wait in real time for other processes."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        await trio.to_thread.run_sync(time.sleep, 0.01)
    await wait_all_tasks_blocked()


@asynccontextmanager
async def stand_ins(folder: Path, steps: str, count: int = 2) -> AsyncIterator[StandIns]:
    async with trio.open_nursery() as nursery:
        made = StandIns(nursery, folder, steps, count)
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await made.workers.stop()
            nursery.cancel_scope.cancel()


def logged(caplog: pytest.LogCaptureFixture, words: str) -> Callable[[], bool]:
    return lambda: any(re.search(words, message) for message in caplog.messages)


@pytest.mark.slow
async def test_sighup_in_the_middle_of_a_roll_is_one_more_roll_after_it(tmp_path: Path, clock: MockClock) -> None:
    async with stand_ins(tmp_path, "_r") as made:
        assert await made.workers.start()
        made.hold.touch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.workers.roll)
            await made.until_started(3)
            nursery.start_soon(made.workers.roll)
            nursery.start_soon(made.workers.roll)
            await wait_all_tasks_blocked()
            made.hold.unlink()
        assert [number for number, _ in made.started[2:]] == [0, 1, 0, 1]


@pytest.mark.slow
async def test_a_worker_that_crashes_while_another_one_is_replaced_is_restarted_at_once(
    tmp_path: Path, clock: MockClock
) -> None:
    async with stand_ins(tmp_path, "_r") as made:
        assert await made.workers.start()
        made.hold.touch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.workers.roll)
            await made.until_started(3)
            made.kill_first(1)
            await made.until_started(4)
            made.hold.unlink()
        # The restarted one is replaced in its turn.
        assert [number for number, _ in made.started[2:]] == [0, 1, 1]
        await until(lambda: made.alive == 2)


@pytest.mark.slow
async def test_a_worker_that_crashes_while_it_is_replaced_is_not_restarted(tmp_path: Path, clock: MockClock) -> None:
    async with stand_ins(tmp_path, "_r") as made:
        assert await made.workers.start()
        made.hold.touch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.workers.roll)
            await made.until_started(3)
            made.kill_first(0)
            await until(lambda: made.alive == 2)
            made.hold.unlink()
        assert [number for number, _ in made.started[2:]] == [0, 1]


@pytest.mark.slow
async def test_a_worker_that_can_not_be_replaced_ends_the_roll_which_says_how_far_it_got(
    tmp_path: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with stand_ins(tmp_path, "!r") as made:
        assert await made.workers.start()
        (tmp_path / "crash-1").touch()
        await made.workers.roll()
        kept = "it and those after it stay as they were (replaced: 1 of 2)"
        assert f"worker 1 can't be replaced: {kept}" in caplog.messages
        assert made.alive == 2


@pytest.mark.slow
async def test_sighup_while_the_first_workers_start_replaces_them_afterwards(tmp_path: Path, clock: MockClock) -> None:
    async with stand_ins(tmp_path, "_r") as made:
        made.hold.touch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.workers.start)
            await made.until_started(1)
            nursery.start_soon(made.workers.roll)
            await wait_all_tasks_blocked()
            made.hold.unlink()
        assert [number for number, _ in made.started] == [0, 1, 0, 1]


@pytest.mark.slow
async def test_a_worker_that_opens_the_storage_may_take_longer(tmp_path: Path, clock: MockClock) -> None:
    async with stand_ins(tmp_path, "o_sr", count=1) as made, trio.open_nursery() as nursery:
        made.hold.touch()
        started: list[bool] = []

        async def start() -> None:
            started.append(await made.workers.start())

        nursery.start_soon(start)
        await until(made.waiting.exists)
        clock.jump(STORAGE_SECONDS - 1)
        await wait_all_tasks_blocked()
        assert started == []
        made.hold.unlink()
        await until(lambda: bool(started))
        assert started == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "seconds"), [("_r", START_SECONDS), ("o_r", STORAGE_SECONDS), ("os_r", START_SECONDS)]
)
async def test_a_worker_that_hangs_while_it_starts_is_killed(
    tmp_path: Path, clock: MockClock, caplog: pytest.LogCaptureFixture, steps: str, seconds: float
) -> None:
    async with stand_ins(tmp_path, steps, count=1) as made:
        made.hold.touch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.workers.start)
            await until(made.waiting.exists)
            clock.jump(seconds + 1)
        assert made.alive == 0
        assert "worker 0 takes too long to start: it is killed" in caplog.messages


@pytest.mark.slow
async def test_a_worker_that_serves_when_its_time_to_start_is_over_is_killed_and_not_restarted(
    tmp_path: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with stand_ins(tmp_path, "_r", count=1) as made:
        made.hold.touch()
        started: list[bool] = []

        async def start() -> None:
            started.append(await made.workers.start())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await made.until_started(1)
            made.hold.unlink()
            deadline = time.monotonic() + PATIENCE
            while not made.done.exists():
                assert time.monotonic() < deadline
                # No task of the test reads the link meanwhile.
                time.sleep(0.01)  # noqa: ASYNC251
            clock.jump(START_SECONDS + 1)
        assert started == [False]
        await wait_all_tasks_blocked()
        assert caplog.messages == ["worker 0 takes too long to start: it is killed"]


@pytest.mark.slow
async def test_a_worker_that_can_not_be_forked_is_tried_again_and_the_others_stay(
    tmp_path: Path, clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stand_ins(tmp_path, "r") as made:
        assert await made.workers.start()

        def fails(*arguments: object, **options: object) -> None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", fails)
            made.kill_first(1)
            await until(logged(caplog, "has not started: another one starts in 0.5 s"))
            clock.jump(0.6)
            await until(logged(caplog, "has not started: another one starts in 1 s"))
            await made.workers.roll()
            kept = "it and those after it stay as they were (replaced: 0 of 2)"
            assert f"worker 0 can't be replaced: {kept}" in caplog.messages
            assert made.alive == 1
        clock.jump(1.1)
        await made.until_started(3)
        assert "worker 1 can't be started: Resource temporarily unavailable" in caplog.messages
        await until(lambda: made.alive == 2)


@pytest.mark.slow
async def test_a_worker_that_crashes_again_and_again_is_restarted_more_and_more_slowly(
    tmp_path: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "actorchat.cli")
    async with stand_ins(tmp_path, "r_!", count=1) as made:
        assert await made.workers.start()
        made.hold.touch()
        made.kill_first(0)
        await made.until_started(2)
        made.crash.touch()
        made.hold.unlink()
        for pause in (0.5, 1, 2, 4, 8, 10, 10):
            await until(logged(caplog, rf"worker 0 ended with status 3: another one starts in {pause:g} s"))
            caplog.clear()
            clock.jump(pause / 2)
            await wait_all_tasks_blocked()
            assert not caplog.messages
            clock.jump(pause)
        await until(logged(caplog, r"in 10 s"))
        made.crash.unlink()
        count = len(made.started)
        clock.jump(10)
        await made.until_started(count + 1)
        # After a minute of service it is as good as new.
        clock.jump(61)
        caplog.clear()
        os.kill(made.started[-1][1], signal.SIGKILL)
        await until(logged(caplog, "worker 0 was ended by SIGKILL: another one starts$"))


@pytest.mark.slow
async def test_a_first_start_that_fails_ends_the_server_with_the_reason(
    tmp_path: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with stand_ins(tmp_path, "!r") as made:
        made.kill.touch()
        assert not await made.workers.start()
        assert len(made.started) == 1
        assert caplog.messages == ["worker 0 was ended by SIGKILL before it served"]
        # A roll that was asked for meanwhile does nothing.
        await made.workers.roll()
        assert len(made.started) == 1


async def test_a_worker_tells_when_it_opens_the_storage_and_when_it_serves(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = WorkerLink(1, theirs, ())
        environment = worker_environment(Settings(data=tmp_path), link)
        async with environment.open_store("memory://", Policy(), clock=time.time):
            assert ours.recv(10) == b"os"
        link.ready()
        assert ours.recv(10) == b"r"
