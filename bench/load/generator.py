"""Compiles the load generator `generator.c` on first use, and drives it with commands and answers on its pipes."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import attrs
import click

__all__ = [
    "Connected",
    "Dialect",
    "Load",
    "Measured",
    "Socket",
    "cache_folder",
    "compile_c",
    "on_load_core",
    "on_server_core",
    "open_load",
    "pin_server",
    "signals_held",
]

SOURCE = Path(__file__).with_name("generator.c")
PR_SET_PDEATHSIG = 1
# Loaded now, because little is safe between fork and exec.
_LIBC = ctypes.CDLL(None)
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM})
HANDSHAKES = 64
"""The number of concurrent handshakes."""


@attrs.frozen
class Socket:
    """One websocket to open: its path, request headers and role."""

    path: str
    headers: tuple[tuple[str, str], ...] = ()
    role: Literal["writes", "reads", "console", "floods"] = "reads"
    """Messages that a console receives are counted apart; those that a flooding socket receives are not counted."""


@attrs.frozen
class Dialect:
    """How a server wraps messages: Socket.IO adds a prefix and a suffix, and expects a greeting first."""

    before: str = ""
    behind: str = ""
    delivery: str = ""
    greeting: str = ""


@attrs.frozen
class Connected:
    """The result of connecting.

    All sockets were upgraded after `seconds`. They received `deliveries` events without a request, the last of them
    after `settled` seconds.
    """

    sockets: int
    seconds: float
    cpu_share: float
    settled: float
    deliveries: int


@attrs.frozen
class Measured:
    """The result of a run of `seconds`.

    Writers sent `sent` messages, of which `messages` came back to them. There were `deliveries` to sockets in rooms
    and `to_consoles` to consoles. Flooding sockets sent `flooded` messages. `refused` messages were refused. When the
    time was over, `backlog` messages had not come back yet, and `waiting` never did.

    In an open loop all counts except `refused` are of the messages that were due within the time, however late they
    were sent or came back; messages that the generator sent late are part of the `backlog`. Latencies are in
    microseconds from when a message was due, and 0 in a closed loop. `late_p99_us` is the generator's own delay.
    """

    deliveries: int
    to_consoles: int
    messages: int
    refused: int
    sent: int
    flooded: int
    backlog: int
    waiting: int
    seconds: float
    cpu_share: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    late_p99_us: float

    @property
    def deliveries_per_second(self) -> float:
        return self.deliveries / self.seconds


class Load:
    """A running generator with its sockets."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def connect(
        self, port: int, sockets: Sequence[Socket], *, ids: bool, dialect: Dialect | None, sink: bool
    ) -> Connected:
        lines = [f"port\t{port}", *(["ids"] if ids else [])]
        if dialect is not None:
            lines += [f"wrap\t{dialect.before}\t{dialect.behind}\t{dialect.delivery}", f"greet\t{dialect.greeting}"]
        for socket in sockets:
            headers = "\x1f".join(f"{name}: {value}" for name, value in socket.headers)
            lines.append(f"socket\t{socket.role[0]}\t{socket.path}\t{headers}")
        if sink:
            lines.append("sink")
        lines.append(f"connect\t{HANDSHAKES}")
        return Connected(**self._say("\n".join(lines)))

    def closed_loop(self, *, in_flight: int, seconds: float) -> Measured:
        """Let every writer keep `in_flight` messages in flight. Raises RuntimeError if some never came back."""
        measured = Measured(**self._say(f"run\t{seconds}\t{_warm(seconds)}\t{in_flight}"))
        if measured.waiting:
            raise RuntimeError(f"{measured.waiting:,} messages never came back")
        return measured

    def open_loop(self, *, rate: float, seconds: float, flood: float = 0.0) -> Measured:
        """Send `rate` messages a second in total, on schedule, and `flood` a second from flooding sockets."""
        return Measured(**self._say(f"rate\t{seconds}\t{_warm(seconds)}\t{rate}\t{flood}"))

    def _say(self, lines: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(lines + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait(10)
            assert self._process.stderr is not None
            raise RuntimeError(self._process.stderr.read().strip() or "the load generator ended")
        return dict(json.loads(answer))


@contextmanager
def open_load(
    port: int, sockets: Sequence[Socket], *, ids: bool = False, dialect: Dialect | None = None, sink: bool = False
) -> Iterator[tuple[Load, Connected]]:
    """Start a generator and open all of `sockets`. Raises RuntimeError with the reason if the server fails.

    With `sink` the generator also has a flooding socket to itself: the same work for it, without a server.
    """
    pipe = subprocess.PIPE
    command = [str(compile_c(SOURCE))]
    with signals_held():
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=pin_load)
    try:
        load = Load(process)
        yield load, load.connect(port, sockets, ids=ids, dialect=dialect, sink=sink)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM while the block starts a process.

    Python runs its own functions around a fork, and an exception in one of them, such as KeyboardInterrupt, is lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pin_server() -> None:
    """For `preexec_fn`: pin the new process and its children to the first core; it is killed with the benchmark."""
    _begin(0)


def pin_load() -> None:
    """The same as `pin_server`, for the last core."""
    _begin(-1)


@contextmanager
def on_load_core() -> Iterator[None]:
    """Inside the block, pin this process to the last core, for load that it makes itself. New processes inherit it."""
    with _pinned(-1):
        yield


@contextmanager
def on_server_core() -> Iterator[None]:
    """Inside the block, pin this process to the first core, for parts of a server that it runs itself."""
    with _pinned(0):
        yield


@contextmanager
def _pinned(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    _pin(core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _begin(core: int) -> None:
    # Kill the new process when the benchmark ends, even if the benchmark itself is killed.
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    _pin(core)


def _pin(which: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[which]})


def compile_c(source: Path) -> Path:
    """Compile a C file into the user's cache folder, unless that version is already there. Returns the program."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise click.ClickException("the load generator is a C program: install a C compiler (cc, gcc or clang)")
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = cache_folder() / f"{source.stem}-{version}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / "made"
            subprocess.run([compiler, "-O2", "-o", str(made), str(source)], check=True)
            made.replace(target)
    return target


def cache_folder() -> Path:
    """The folder that keeps compiled programs and packages of other languages between runs."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actorchat-bench"
    root.mkdir(parents=True, exist_ok=True)
    return root


def _warm(seconds: float) -> float:
    return min(1.0, seconds / 4)
