"""The client's end of a connection of the memory transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from actorchat.protocol import CloseCode, Frames, Profile, SendMessage, UserConnected, encode_event
from actorchat.testing import RecordingApplication, admission_of
from actorchat.transports.memory import MemoryConnection, open_memory_transport


@asynccontextmanager
async def connected(application: RecordingApplication) -> AsyncIterator[MemoryConnection]:
    async with (
        open_memory_transport(application) as transport,
        transport.connect(admission_of(1)) as connection,
    ):
        await trio.testing.wait_all_tasks_blocked()
        yield connection


async def test_commands_go_in_and_events_come_out_as_values() -> None:
    application = RecordingApplication()
    event = UserConnected(admission_of(1).user)
    async with connected(application) as connection:
        await connection.send(SendMessage("a", (), "key"))
        assert application.commands == [SendMessage("a", (), "key")]
        application.sessions[0].push(Frames.of([encode_event(event, Profile.EXTENDED)]))
        application.sessions[0].close(CloseCode.SIGNED_OUT, "bye")
        assert [got async for got in connection] == [event]
        assert (connection.close_code, connection.close_reason) == (4410, "bye")


async def test_a_lost_socket_reads_as_1006_and_accepts_nothing(autojump_clock: trio.testing.MockClock) -> None:
    application = RecordingApplication()
    async with connected(application) as connection:
        connection.abort()
        assert [got async for got in connection] == []
        assert connection.close_code == 1006
        with pytest.raises(trio.BrokenResourceError, match="1006"):
            await connection.send(SendMessage("a"))


async def test_a_sender_waits_while_the_server_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    application = RecordingApplication()
    application.takes = True
    async with connected(application) as connection:
        with trio.move_on_after(1) as waited:
            for _ in range(100):
                await connection.send(SendMessage("x" * 2_000))
        assert waited.cancelled_caught
        assert len(application.commands) == 8


async def test_a_frame_larger_than_the_buffer_passes() -> None:
    application = RecordingApplication()
    async with open_memory_transport(application) as transport:
        connection = transport.connect(admission_of(1), buffer_bytes=1_000)
        await trio.testing.wait_all_tasks_blocked()
        for size in (5_000, 70_000, 10):
            application.sessions[0].push(Frames.of([b"x" * size]))
        assert [len(await connection.receive_payload()) for _ in range(3)] == [5_000, 70_000, 10]


async def test_closing_waits_for_what_was_sent_but_not_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    application = RecordingApplication()
    application.takes = True
    async with connected(application) as connection:
        for _ in range(9):
            await connection.send(SendMessage("a"))
        await connection.aclose()
        assert trio.current_time() == 5
    assert len(application.commands) == 8


async def test_every_drain_returns_when_the_last_session_has_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_memory_transport(RecordingApplication()) as transport, trio.open_nursery() as nursery:
        connection = transport.connect(admission_of(1))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(60):
            async with trio.open_nursery() as draining:
                draining.start_soon(transport.drain)
                draining.start_soon(transport.drain)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(connection.aclose)
