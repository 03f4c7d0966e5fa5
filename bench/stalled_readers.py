"""Opens connections that request a lot of data and read nothing, and measures the server's memory meanwhile."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import httpx

from actorchat.protocol import Role
from actorchat.server.auth import local_token
from bench.load.generator import on_load_core
from bench.servers import anonymous_kib

__all__ = ["PIPELINED", "Stalled", "history_requests", "peak_kib", "replay_requests", "say_a_lot", "stalled_readers"]

MESSAGES: Final = 400
TEXT: Final = "🐌" * 3_990
"""A text of 16 KB in UTF-8, four bytes a character; the whole history has 6.4 MB."""

PIPELINED: Final = 20
"""The number of requests that each stalled HTTP client sends."""

FIRST_OPERATOR: Final = 1_000


def say_a_lot(port: int) -> str:
    """Make a chat with a long history and return its id."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        visit = client.post("/api/visitors", json={"source": "lk"}).raise_for_status().json()
        chat: str = visit["chat"]["uuid"]
        for number in range(MESSAGES):
            client.post(
                f"/api/chats/{chat}/messages",
                json={"text": f"{number} {TEXT}"},
                headers={"Authorization": f"Bearer {visit['token']}"},
            ).raise_for_status()
    return chat


def replay_requests(port: int, folder: Path, chat: str, count: int) -> list[bytes]:
    """The requests of `count` operators for a socket in `chat` that replays everything."""
    return [
        (
            f"GET /ws/chats/{chat}?after=-1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Protocol: actorchat.v1.ext\r\nAuthorization: Bearer {token}\r\n\r\n"
        ).encode()
        for token in _operators(port, folder, chat, count)
    ]


def history_requests(port: int, folder: Path, chat: str, count: int) -> list[bytes]:
    """The pipelined requests of `count` operators for the largest history pages of `chat`."""
    line = f"GET /api/chats/{chat}/messages?limit=200 HTTP/1.1"
    return [
        f"{line}\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode() * PIPELINED
        for token in _operators(port, folder, chat, count)
    ]


def _operators(port: int, folder: Path, chat: str, count: int) -> Iterator[str]:
    """Tokens of operators whom the server already knows, so that storing them is not measured."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        for number in range(count):
            token = local_token(folder, role=Role.OPERATOR, user_id=FIRST_OPERATOR + number, sources=["lk"])
            client.get(f"/api/chats/{chat}", headers={"Authorization": f"Bearer {token}"}).raise_for_status()
            yield token


@attrs.define
class Stalled:
    """The stalled connections: `opened` have sent their requests; `failure` is the error that ended the opening."""

    opened: list[socket.socket] = attrs.Factory(list)
    failure: Exception | None = None

    def close(self) -> None:
        """Close all of them at once."""
        while self.opened:
            self.opened.pop().close()


@contextmanager
def stalled_readers(port: int, requests: Sequence[bytes], *, per_second: float) -> Iterator[Stalled]:
    """Send each of `requests` over its own connection, in a thread, and read nothing.

    `per_second` connections are opened each second, the first after the block has begun. The end of the block closes
    those that are still open.
    """
    stalled, stop = Stalled(), threading.Event()
    thread = threading.Thread(target=_open, args=(stalled, stop, port, requests, per_second))
    thread.start()
    try:
        yield stalled
    finally:
        stop.set()
        thread.join()
        stalled.close()
    if stalled.failure is not None:
        raise stalled.failure


def _open(stalled: Stalled, stop: threading.Event, port: int, requests: Sequence[bytes], per_second: float) -> None:
    begin = time.monotonic()
    try:
        with on_load_core():
            for number, request in enumerate(requests):
                if stop.wait(max(0.0, begin + number / per_second - time.monotonic())):
                    return
                sock = socket.create_connection(("127.0.0.1", port), timeout=10)
                stalled.opened.append(sock)
                sock.sendall(request)
    except Exception as error:
        stalled.failure = error


def peak_kib(process: subprocess.Popen[bytes], seconds: float) -> int:
    """The highest private memory of the server, in KiB, within that many seconds."""
    end = time.monotonic() + seconds
    peak = 0
    while time.monotonic() < end:
        peak = max(peak, anonymous_kib(process.pid))
        time.sleep(0.02)
    return peak
