"""Holds connections with unfinished requests open, and measures how long new clients wait beside them."""

from __future__ import annotations

import resource
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs

__all__ = ["UnfinishedHeads", "allow_open_files", "newcomer", "unfinished_heads"]

HALF: Final = b"GET / HTTP/1.1\r\nHo"
WHOLE: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MOST_REOPENED: Final = 2_000
"""Reconnects a second, of peers that the server has closed."""


@attrs.define
class UnfinishedHeads:
    """Counts the connections that were `opened`, and those that the server `cut`; each of these is opened again."""

    opened: int = 0
    cut: int = 0
    failure: Exception | None = None


def allow_open_files(count: int) -> None:
    """Raise this process's limit for open files to `count`. Raises RuntimeError if the system does not allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise RuntimeError(f"this needs {count:,} open files, and the limit is {hard:,}: run `ulimit -n {count}`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@contextmanager
def unfinished_heads(port: int, count: int, *, addresses: int = 1) -> Iterator[UnfinishedHeads]:
    """Inside the block, hold `count` connections to 127.0.0.1 that have sent half a request.

    A thread opens all of them before the block begins. They come from that many `addresses` in 127.0.0.0/8, of which
    only Linux has more than one. The process needs a file descriptor for each.
    """
    held, stop = UnfinishedHeads(), threading.Event()
    thread = threading.Thread(target=_hold, args=(held, stop, port, count, addresses))
    thread.start()
    try:
        while held.opened < count and held.failure is None:
            time.sleep(0.01)
        yield held
    finally:
        stop.set()
        thread.join()
    if held.failure is not None:
        raise held.failure


def newcomer(port: int, *, most: float = 30.0) -> float:
    """Connect, send a request, and return the seconds until its answer.

    Raises OSError after `most` seconds, and RuntimeError if the request is not answered with 200.
    """
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=most) as sock:
        sock.sendall(WHOLE)
        answer = sock.recv(4_096)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"a new client got the answer {answer[:60]!r}")
    return time.monotonic() - begin


def _hold(held: UnfinishedHeads, stop: threading.Event, port: int, count: int, addresses: int) -> None:
    selector = selectors.DefaultSelector()
    try:
        for number in range(count):
            selector.register(_connect(port, number % addresses), selectors.EVENT_WRITE, number)
        while not stop.is_set():
            for key, _ in selector.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                held.opened += key.events == selectors.EVENT_WRITE
                if _goes_on(sock, key.events):
                    selector.modify(sock, selectors.EVENT_READ, key.data)
                    continue
                held.cut += 1
                selector.unregister(sock)
                sock.close()
                time.sleep(1 / MOST_REOPENED)
                selector.register(_connect(port, key.data % addresses), selectors.EVENT_WRITE, key.data)
    except Exception as error:
        held.failure = error
    finally:
        for key in tuple(selector.get_map().values()):
            with suppress(OSError):
                key.fileobj.close()  # type: ignore[union-attr] # always a socket
        selector.close()


def _connect(port: int, number: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    if number:
        sock.bind((f"127.1.{number // 250}.{number % 250 + 1}", 0))
    with suppress(BlockingIOError):
        sock.connect(("127.0.0.1", port))
    return sock


def _goes_on(sock: socket.socket, awaited: int) -> bool:
    try:
        return bool(sock.send(HALF) if awaited == selectors.EVENT_WRITE else sock.recv(4_096))
    except BlockingIOError:
        return True
    except OSError:
        return False
