"""Holds idle HTTP connections, sends request heads slowly and signs in without end, in a thread."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import attrs
import trio

__all__ = ["HttpClients", "http_clients"]

HANDSHAKES: Final = 64
"""Connections that are opened at once."""

BYTE_SECONDS: Final = 1.0
"""How often a slow client sends a byte of its request head."""

OPEN_SECONDS: Final = 60.0
_FAILED: Final = "an HTTP client failed: %s"
_IDLE: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
_SLOW: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Padding: " + b"x" * 1_000
_LENGTH: Final = re.compile(rb"content-length: ([0-9]+)")
_BODY: Final = '{"login": "nobody-%d", "password": "not the password"}'


@attrs.define
class HttpClients:
    """Counts `idle` connections that are open, `slow` ones that have begun their request, and answers to sign-ins.

    `checked` sign-ins had a wrong password, `refused` ones were too many. `cut` slow connections were closed by the
    server; each of these is opened again. `failure` is the error that has ended the clients.
    """

    idle: int = 0
    slow: int = 0
    cut: int = 0
    checked: int = 0
    refused: int = 0
    failure: BaseException | None = None


@contextmanager
def http_clients(port: int, *, idle: int = 0, slow: int = 0, logins: int = 0) -> Iterator[HttpClients]:
    """Inside the block, hold that many connections of each kind to 127.0.0.1; `logins` of them sign in all the time.

    The block begins when all of them are open. Raises RuntimeError if that takes longer than `OPEN_SECONDS`, and at the
    end of the block if a client has failed.
    """
    clients, tokens = HttpClients(), list[trio.lowlevel.TrioToken]()
    stop = trio.Event()
    thread = threading.Thread(target=partial(_run, clients, tokens, stop, port, idle, slow, logins))
    thread.start()
    try:
        deadline = time.monotonic() + OPEN_SECONDS
        while not tokens or clients.idle < idle or clients.slow < slow or (logins and not clients.checked):
            if clients.failure is not None:
                raise RuntimeError(_FAILED % clients.failure)
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {clients.idle} idle and {clients.slow} slow connections are open")
            time.sleep(0.01)
        yield clients
    finally:
        with suppress(trio.RunFinishedError):
            tokens[0].run_sync_soon(stop.set)
        thread.join()
    if clients.failure is not None:
        raise RuntimeError(_FAILED % clients.failure)


def _run(
    clients: HttpClients,
    tokens: list[trio.lowlevel.TrioToken],
    stop: trio.Event,
    port: int,
    idle: int,
    slow: int,
    logins: int,
) -> None:
    async def run() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        opening = trio.CapacityLimiter(HANDSHAKES)
        async with trio.open_nursery() as nursery:
            for _ in range(idle):
                nursery.start_soon(_idle, clients, opening, port)
            for _ in range(slow):
                nursery.start_soon(_slow, clients, opening, port)
            for number in range(logins):
                nursery.start_soon(_sign_in, clients, port, number)
            await stop.wait()
            nursery.cancel_scope.cancel()

    try:
        trio.run(run)
    except BaseExceptionGroup as group:
        clients.failure = group.exceptions[0]
    except BaseException as error:
        clients.failure = error


async def _idle(clients: HttpClients, opening: trio.CapacityLimiter, port: int) -> None:
    async with opening:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await _ask(stream, _IDLE)
    async with stream:
        clients.idle += 1
        if not await stream.receive_some():
            raise RuntimeError("the server has closed an idle connection")


async def _slow(clients: HttpClients, opening: trio.CapacityLimiter, port: int) -> None:
    begun = False
    while True:
        async with opening:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            with suppress(trio.BrokenResourceError):
                for byte in _SLOW:
                    await stream.send_all(bytes((byte,)))
                    clients.slow += not begun
                    begun = True
                    with trio.move_on_after(BYTE_SECONDS):
                        # The answer to a head that takes too long, or the end of the connection.
                        while await stream.receive_some():
                            pass
                        break
        clients.cut += 1


async def _sign_in(clients: HttpClients, port: int, number: int) -> None:
    body = _BODY % number
    head = (
        f"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = (head + body).encode()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        while True:
            status = await _ask(stream, request)
            if status == 401:
                clients.checked += 1
            elif status == 503:
                clients.refused += 1
                await trio.sleep(1)
            else:
                raise RuntimeError(f"a sign-in was answered with {status}")


async def _ask(stream: trio.SocketStream, request: bytes) -> int:
    """Send a request, read its answer, and return the status."""
    await stream.send_all(request)
    answer = b""
    while True:
        part = await stream.receive_some()
        if not part:
            raise RuntimeError("the server has closed a connection")
        answer += part
        head, end, body = answer.partition(b"\r\n\r\n")
        if end and len(body) == int(_LENGTH.findall(head.lower())[0]):
            return int(answer[9:12])
