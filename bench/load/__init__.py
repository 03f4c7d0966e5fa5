"""Owns the load generator: a C program, compiled when first needed, driven line by line; it tells its own CPU share."""

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
    "on_the_loads_core",
    "open_load",
    "pin_server",
    "signals_held",
]

SOURCE = Path(__file__).with_name("generator.c")
PR_SET_PDEATHSIG = 1
# Loaded here, because little is safe between fork and exec.
_LIBC = ctypes.CDLL(None)
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM})
HANDSHAKES = 64
"""Handshakes under way at once."""


@attrs.frozen
class Socket:
    """One websocket to open: its path and request headers, and what it is there for."""

    path: str
    headers: tuple[tuple[str, str], ...] = ()
    role: Literal["writes", "reads", "console", "floods"] = "reads"
    """What comes to a console is counted apart; what comes to one that floods is not measured."""


@attrs.frozen
class Dialect:
    """How a server frames what is said: Socket.IO puts something before and behind, and wants to be greeted."""

    before: str = ""
    behind: str = ""
    delivery: str = ""
    greeting: str = ""


@attrs.frozen
class Connected:
    """Every socket was upgraded after `seconds`; the last of what came by itself, `deliveries`, after `settled`."""

    sockets: int
    seconds: float
    cpu_share: float
    settled: float
    deliveries: int


@attrs.frozen
class Measured:
    """What came of a run. Latency is in microseconds from when a message was due, and 0 in a closed loop.

    In the `seconds`: writers sent `sent`, `messages` came back to them, there were `deliveries` in rooms and
    `to_consoles`, `flooded` went out of sockets that flood, `refused` were answered so. At the end `backlog` had
    not come back, and `waiting` never did. In an open loop the counts, but for `refused`, are of what was due in the
    `seconds`, whenever it was sent and came back; what was sent too late is in the `backlog`. The generator sent
    `late_p99_us` later than due: that much is its own.
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
        """Every writer keeps `in_flight` messages on their way. Raises RuntimeError where some never came back."""
        measured = Measured(**self._say(f"run\t{seconds}\t{_warm(seconds)}\t{in_flight}"))
        if measured.waiting:
            raise RuntimeError(f"{measured.waiting:,} messages never came back")
        return measured

    def open_loop(self, *, rate: float, seconds: float, flood: float = 0.0) -> Measured:
        """`rate` messages a second in all, on schedule; beside them `flood` from the sockets that flood."""
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
    """A generator with all of `sockets` open. Raises RuntimeError with what the server did wrong.

    `sink`: it also has a socket that floods the generator itself, as the same load without the server's part in it.
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
    """Let what ends a benchmark come after the block, in which a process is started.

    Python runs functions of its own around a fork, and an exception in one of them, as of Ctrl-C, is lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pin_server() -> None:
    """Called in a new process: keep it, and all that it starts, on the first core; it ends when the benchmark does."""
    _begin(0)


def pin_load() -> None:
    """As `pin_server`, on the last core."""
    _begin(-1)


@contextmanager
def on_the_loads_core() -> Iterator[None]:
    """For a load that is made in this process."""
    before = os.sched_getaffinity(0)
    _pin(-1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _begin(core: int) -> None:
    # Even one that is killed leaves nothing behind.
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    _pin(core)


def _pin(which: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[which]})


def compile_c(source: Path) -> Path:
    """The compiled form of a C file, made once for each version of it in the user's cache folder."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise click.ClickException("the load is made by a C program: install a C compiler (cc, gcc or clang)")
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = cache_folder() / f"{source.stem}-{version}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / "made"
            subprocess.run([compiler, "-O2", "-o", str(made), str(source)], check=True)
            made.replace(target)
    return target


def cache_folder() -> Path:
    """Where compiled programs and packages of other languages are kept between runs."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actorchat-bench"
    root.mkdir(parents=True, exist_ok=True)
    return root


def _warm(seconds: float) -> float:
    return min(1.0, seconds / 4)
