"""A busy actor does not starve other tasks."""

from __future__ import annotations

import trio

from actorchat.actors import Ref, Restart
from actorchat.testing import settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Broken, Counter, Message, Total

PASSES = 6
"""The most passes of the scheduler that an ask and its reply may take."""


async def test_asks_are_answered_promptly_beside_an_overloaded_actor() -> None:
    passes = 0
    took: list[int] = []

    async def count() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    async def ask(ref: Ref[Message]) -> None:
        before = passes
        await ref.ask(Total())
        took.append(passes - before)

    async with open_system() as system, trio.open_nursery() as nursery:
        busy = system.spawn(Counter, inbox=20_000)
        quiet = [system.spawn(Counter) for _ in range(100)]
        await settle(system)
        for n in range(20_000):
            busy.tell(Add(n))
        nursery.start_soon(count)
        async with trio.open_nursery() as asking:
            for ref in quiet:
                asking.start_soon(ask, ref)
        assert busy.queued > 15_000
        nursery.cancel_scope.cancel()
        busy.kill()
    assert len(took) == len(quiet)
    assert max(took) <= PASSES


async def test_an_actor_overloaded_with_signals_yields_too() -> None:
    async with open_system() as system:
        busy, quiet = system.spawn(Counter), system.spawn(Counter)
        await settle(system)
        for n in range(10_000):
            busy.signal(Add(n))
        busy.tell(Add(-1))
        await quiet.ask(Total())
        assert busy.queued == 1
        assert await busy.ask(Total()) == (*range(10_000), -1)


async def test_a_draining_actor_yields_no_more_often() -> None:
    passes = 0

    async def count() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    async with open_system() as system, trio.open_nursery() as nursery:
        busy = system.spawn(Counter, inbox=20_000)
        await settle(system)
        for n in range(6_400):
            busy.tell(Add(n))
        nursery.start_soon(count)
        busy.stop()
        await busy.join()
        nursery.cancel_scope.cancel()
    assert passes < 6_400 / 64 + 20


async def test_an_actor_that_crashes_again_and_again_without_delay_yields_each_time() -> None:
    starts = 0

    class Failing(Counter):
        async def on_start(self) -> None:
            nonlocal starts
            starts += 1
            raise Broken

    async with open_system() as system:
        ref = system.spawn(Failing, restart=Restart(max=9_000))
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        ref.kill()
    assert 10 <= starts <= 25
