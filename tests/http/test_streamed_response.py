"""Streamed responses: their generators are closed within the request, however it ends."""

from collections.abc import AsyncGenerator

import trio
from starlette.types import Message

from actorchat.http.streamed_response import StreamedResponse


async def test_the_generator_is_closed_when_the_client_leaves_in_the_middle() -> None:
    closed_by: list[trio.lowlevel.Task] = []
    leaving = trio.Event()

    async def parts() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"part"
        finally:
            closed_by.append(trio.lowlevel.current_task())

    async def receive() -> Message:
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message.get("body"):
            leaving.set()
            await trio.sleep_forever()

    response = StreamedResponse(parts())
    await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    assert closed_by == [trio.lowlevel.current_task()]


async def test_the_generator_is_closed_when_the_request_is_cancelled() -> None:
    closed: list[bool] = []

    async def parts() -> AsyncGenerator[bytes, None]:
        try:
            yield b"part"
        finally:
            closed.append(True)

    async def send(message: Message) -> None:
        if message.get("body"):
            await trio.sleep_forever()

    async def receive() -> Message:
        await trio.sleep_forever()

    with trio.move_on_after(0.01):
        await StreamedResponse(parts())({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    assert closed == [True]
