"""Owns the servers under test: each in a process of its own on a loopback port, ended with the block."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import attrs
import httpx

from actorchat.protocol import Role
from actorchat.server.auth import local_token

START_SECONDS = 15


@attrs.frozen
class Target:
    """Where a load goes: the address of the room's sockets, and the request headers of its readers and writers."""

    process: subprocess.Popen[bytes]
    port: int
    path: str
    readers: dict[str, str]
    writers: dict[str, str]


@contextmanager
def plain_server() -> Iterator[Target]:
    """The plain trio-websocket relay."""
    port = _free_port()
    with _running([sys.executable, "-m", "bench.plain_server", str(port)], port) as process:
        yield Target(process, port, "/", {}, {})


@contextmanager
def actorchat_server(storage: str) -> Iterator[Target]:
    """`actorchat serve` with rate limits out of reach, one chat, an operator as reader and its visitor as writer."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "actorchat", "serve", "--port", str(port), "--data", folder]
        command += ["--storage", "memory://" if storage == "memory" else f"sqlite:///{folder}/bench.db"]
        limits = {
            "ACTORCHAT_LIMITS_MESSAGES_PER_SECOND": "1000000",
            "ACTORCHAT_LIMITS_BURST": "1000000",
        }
        with _running(command, port, limits) as process:
            answer = (
                httpx.post(f"http://127.0.0.1:{port}/api/visitors", json={"source": "lk"}).raise_for_status().json()
            )
            operator = local_token(Path(folder), role=Role.OPERATOR, user_id=1, sources=["lk"])
            path = f"/ws/chats/{UUID(answer['chat']['uuid'])}"
            yield Target(process, port, path, _headers(operator), _headers(answer["token"]))


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": "actorchat.v1.ext"}


def resident_kib(process: subprocess.Popen[bytes]) -> int:
    """What the process holds in memory, in KiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None, "this measurement reads /proc, which only Linux has"
    return int(found.group(1))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(
    command: list[str], port: int, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=os.environ | (environment or {}), stdout=subprocess.DEVNULL)
    try:
        if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(process.pid, {0})
        _wait_for(port, process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")
