"""A proxy that changes what a server answers and sends, to prove that conformance checks notice it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import httpx
import trio

from actorchat.testing._raw_peer import frame_of

# Any: JSON of every shape.
Json = Any

_TEXT, _CLOSE = 0x1, 0x8


@attrs.define
class Request:
    """A request that may be changed before it is passed on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@attrs.define
class Answer:
    """An answer that may be changed. `json` is None if the body is no JSON."""

    status: int
    headers: dict[str, str]
    json: Json
    body: bytes


def _same(*_: object) -> None:
    return None


def _pass_on(path: str, event: Json) -> list[Json]:
    return [event]


@attrs.frozen(kw_only=True)
class Deviation:
    """How a deployment deviates: changes of requests, of answers, of events (by the path of the socket), of codes."""

    request: Callable[[Request], object] = _same
    answer: Callable[[Request, Answer], object] = _same
    events: Callable[[str, Json], list[Json]] = _pass_on
    code: Callable[[int], int] = lambda code: code


@asynccontextmanager
async def mutated(url: str, deviation: Deviation) -> AsyncIterator[str]:
    """Run the proxy in front of the server at `url`. Yields its own URL."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as http, trio.open_nursery() as nursery:
        port = int(url.rpartition(":")[2])
        listeners = await nursery.start(
            partial(trio.serve_tcp, partial(_serve, deviation, http, port), 0, host="127.0.0.1")
        )
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _serve(deviation: Deviation, http: httpx.AsyncClient, port: int, stream: trio.SocketStream) -> None:
    try:
        received = bytearray()
        while b"\r\n\r\n" not in received:
            if not (part := await stream.receive_some()):
                return
            received += part
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if headers.get("upgrade", "").lower() == "websocket":
            await _relay(deviation, port, stream, bytes(received), path)
            return
        while len(body) < int(headers.get("content-length", 0)):
            body += await stream.receive_some()
        await _answer(deviation, http, stream, Request(method, path, headers, body))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def _answer(deviation: Deviation, http: httpx.AsyncClient, stream: trio.SocketStream, request: Request) -> None:
    deviation.request(request)
    kept = {
        name: value for name, value in request.headers.items() if name not in ("host", "connection", "content-length")
    }
    got = await http.request(request.method, request.path, headers=kept, content=request.body)
    is_json = got.headers.get("content-type") == "application/json"
    answer = Answer(got.status_code, dict(got.headers), got.json() if is_json else None, got.content)
    deviation.answer(request, answer)
    body = answer.body if answer.json is None else json.dumps(answer.json).encode()
    answer.headers |= {"content-length": str(len(body)), "connection": "close"}
    lines = [f"HTTP/1.1 {answer.status} X", *(f"{name}: {value}" for name, value in answer.headers.items()), "", ""]
    await stream.send_all("\r\n".join(lines).encode("latin-1") + body)
    await stream.aclose()


async def _relay(deviation: Deviation, port: int, stream: trio.SocketStream, head: bytes, path: str) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
        await server.send_all(head)

        async def upstream() -> None:
            async for data in stream:
                await server.send_all(data)
            await server.send_eof()

        nursery.start_soon(_quietly, upstream)
        buffer = bytearray()
        while b"\r\n\r\n" not in buffer:
            if not (part := await server.receive_some()):
                break
            buffer += part
        answer, end, rest = bytes(buffer).partition(b"\r\n\r\n")
        await stream.send_all(answer + end)
        await _quietly(partial(_pass_frames, deviation, server, stream, bytearray(rest), path))
        await stream.aclose()
        nursery.cancel_scope.cancel()


async def _quietly(call: Callable[[], Any]) -> None:  # Any: an awaitable
    try:
        await call()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def _pass_frames(
    deviation: Deviation, server: trio.SocketStream, client: trio.SocketStream, buffer: bytearray, path: str
) -> None:
    while True:
        while (frame := _cut(buffer)) is not None:
            opcode, payload = frame
            if opcode == _TEXT:
                for event in deviation.events(path, json.loads(payload)):
                    await client.send_all(frame_of(_TEXT, json.dumps(event).encode(), masked=False))
                continue
            if opcode == _CLOSE and payload:
                payload = deviation.code(int.from_bytes(payload[:2])).to_bytes(2) + payload[2:]
            await client.send_all(frame_of(opcode, payload, masked=False))
        if not (part := await server.receive_some()):
            return
        buffer += part


def _cut(buffer: bytearray) -> tuple[int, bytes] | None:
    """Remove the first whole frame of the server."""
    if len(buffer) < 2:
        return None
    length, start = buffer[1], 2
    if length == 126:
        length, start = int.from_bytes(buffer[2:4]), 4
    elif length == 127:
        length, start = int.from_bytes(buffer[2:10]), 10
    if len(buffer) < start + length:
        return None
    opcode, payload = buffer[0] & 0x0F, bytes(buffer[start : start + length])
    del buffer[: start + length]
    return opcode, payload
