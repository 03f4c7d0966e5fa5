"""Owns the load generator: a C program, compiled when first needed, driven line by line; it tells its own CPU share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import click

__all__ = ["Connected", "Dialect", "Load", "Measured", "Socket", "cache_folder", "compile_c", "open_load", "pin_server"]

SOURCE = Path(__file__).with_name("generator.c")
HANDSHAKES = 64
"""Handshakes under way at once."""


@attrs.frozen
class Socket:
    """One websocket to open: its path and request headers, and whether it writes."""

    path: str
    headers: tuple[tuple[str, str], ...] = ()
    writes: bool = False


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
    """What came of a run: `messages` came back to their writers, `waiting` never did. Latency in microseconds."""

    deliveries: int
    messages: int
    sent: int
    waiting: int
    seconds: float
    cpu_share: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float

    @property
    def deliveries_per_second(self) -> float:
        return self.deliveries / self.seconds


class Load:
    """A running generator with its sockets."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def connect(self, port: int, sockets: Sequence[Socket], *, ids: bool, dialect: Dialect | None) -> Connected:
        lines = [f"port\t{port}", *(["ids"] if ids else [])]
        if dialect is not None:
            lines += [f"wrap\t{dialect.before}\t{dialect.behind}\t{dialect.delivery}", f"greet\t{dialect.greeting}"]
        for socket in sockets:
            headers = "\x1f".join(f"{name}: {value}" for name, value in socket.headers)
            lines.append(f"socket\t{'w' if socket.writes else 'r'}\t{socket.path}\t{headers}")
        lines.append(f"connect\t{HANDSHAKES}")
        return Connected(**self._say("\n".join(lines)))

    def closed_loop(self, *, in_flight: int, seconds: float) -> Measured:
        """Every writer keeps `in_flight` messages on their way."""
        return Measured(**self._say(f"run\t{seconds}\t{_warm(seconds)}\t{in_flight}"))

    def open_loop(self, *, rate: float, seconds: float) -> Measured:
        """`rate` messages a second in all, on schedule; latency counts from when each was due."""
        return Measured(**self._say(f"rate\t{seconds}\t{_warm(seconds)}\t{rate}"))

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
    port: int, sockets: Sequence[Socket], *, ids: bool = False, dialect: Dialect | None = None
) -> Iterator[tuple[Load, Connected]]:
    """A generator with all of `sockets` open. Raises RuntimeError with what the server did wrong."""
    pipe = subprocess.PIPE
    command = [str(compile_c(SOURCE))]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=pin_load)
    try:
        load = Load(process)
        yield load, load.connect(port, sockets, ids=ids, dialect=dialect)
    finally:
        process.kill()
        process.communicate()


def pin_server() -> None:
    """Called in a new process: keep it, and all that it starts, on the first core."""
    _pin(0)


def pin_load() -> None:
    """As `pin_server`, on the last core."""
    _pin(-1)


def _pin(which: int) -> None:
    """Not where there is one core, or no way."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
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
