"""Measures the actor core, and plain Trio tasks and memory channels to compare with.

Every case returns seconds per operation, or bytes per actor.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from time import perf_counter
from typing import Final

import attrs
import trio
import trio.testing

from actorchat.actors import Actor, Group, Request, open_system

__all__ = ["MEMBERS", "Case", "Tally", "checkpoint_seconds", "memory_cases", "trio_cases"]

MEMBERS: Final = 200
"""The size of the group in the fan-out cases."""
BATCH: Final = 64
"""The number of messages that a channel's receiver handles before it yields, as an actor does."""

Measure = Callable[[], float]


@attrs.frozen
class Case:
    """One measurement: `who` does `what`. It may cost `bar` at most. A failing `optional` case is left out."""

    what: str
    who: str
    measure: Measure
    bar: float | None = None
    optional: bool = False


class Tally:
    """Counts the messages that are still to be handled, and sets `done` after the last."""

    __slots__ = ("done", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.done = trio.Event()

    def count(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()


@attrs.frozen
class Get(Request[int]):
    pass


class Sink(Actor[int]):
    """Does almost nothing with a message, so that its delivery is what is measured."""

    def __init__(self, left: int = 0, done: trio.Event | None = None) -> None:
        self.left = left
        self.done = trio.Event() if done is None else done

    async def receive(self, message: int) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()


class Answering(Actor[Get]):
    async def receive(self, message: Get) -> None:
        self.reply(message, 1)


class Starting(Sink):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    async def on_start(self) -> None:
        self.tally.count()


def trio_cases(scale: float) -> list[Case]:
    """All cases measured in time. `scale` multiplies the number of operations."""
    many, some, few = (max(round(count * scale), least) for count, least in ((50_000, 1_000), (5_000, 100), (50, 8)))
    return [
        Case("tell", "actorchat", partial(trio.run, tell, many), bar=0.22),
        Case("tell", "actorchat, virtual actor", partial(trio.run, tell_virtual, many)),
        Case("tell", "actorchat, send", partial(trio.run, send, some)),
        Case("tell", "memory channel, drained in batches", partial(trio.run, channel_tell, many, BATCH)),
        Case("tell", "memory channel, one by one", partial(trio.run, channel_tell, some, 1)),
        Case("ask", "actorchat", partial(trio.run, ask, some, None), bar=3.5),
        Case("ask", "actorchat, with a timeout", partial(trio.run, ask, some, 60.0)),
        Case("ask", "actorchat, 50 callers at once", partial(trio.run, ask_together, some, 50)),
        Case("ask", "memory channel, with a reply channel", partial(trio.run, channel_ask, some)),
        Case("fan-out to 200", "actorchat", partial(trio.run, fan_out, few, 1, 1), bar=0.55),
        Case("fan-out to 200", "actorchat, each message alone", partial(trio.run, fan_out, few, 1, 2)),
        Case("fan-out to 200", "actorchat, bursts of 16", partial(trio.run, fan_out, few // 8, 16, 1)),
        Case("fan-out to 200", "memory channels", partial(trio.run, channel_fan_out, few, 1)),
        Case("fan-out to 200", "memory channels, each message alone", partial(trio.run, channel_fan_out, few, 2)),
        Case("fan-out to 200", "bare tasks, only woken, each time alone", partial(trio.run, wake_tasks, few)),
        Case("spawn", "actorchat", partial(trio.run, spawn, some // 5)),
        Case("spawn", "bare task", partial(trio.run, spawn_tasks, some // 5)),
    ]


def memory_cases() -> list[Case]:
    """All cases measured in bytes."""
    return [
        Case("parked", "actorchat", partial(trio.run, parked, actors), bar=6.0 * 1024),
        Case("parked", "actorchat, virtual actor", partial(trio.run, parked, virtual_actors)),
        Case("parked", "actorchat, virtual address only", partial(trio.run, parked, addresses)),
        Case("parked", "bare task", partial(trio.run, parked, tasks)),
    ]


def checkpoint_seconds(count: int) -> float:
    """The unit of the results: the seconds of one checkpoint while no other task runs."""

    async def bare() -> float:
        checkpoint = trio.lowlevel.checkpoint
        start = perf_counter()
        for _ in range(count):
            await checkpoint()
        return (perf_counter() - start) / count

    return trio.run(bare)


async def tell(count: int) -> float:
    async with open_system() as system:
        done = trio.Event()
        ref = await system.start(lambda: Sink(count, done), inbox=count)
        return await tell_all(ref.tell, done, count)


async def tell_virtual(count: int) -> float:
    def sink(_: str) -> Sink:
        return Sink(count + 1, done)

    async with open_system() as system:
        done = trio.Event()
        ref = system.virtual(sink, inbox=count)["a"]
        ref.tell(0)
        return await tell_all(ref.tell, done, count)


async def tell_all(put: Callable[[int], object], done: trio.Event, count: int) -> float:
    await trio.testing.wait_all_tasks_blocked()
    start = perf_counter()
    for number in range(count):
        put(number)
    await done.wait()
    return (perf_counter() - start) / count


async def send(count: int) -> float:
    async with open_system() as system:
        done = trio.Event()
        ref = await system.start(lambda: Sink(count, done))
        start = perf_counter()
        for number in range(count):
            await ref.send(number)
        await done.wait()
        return (perf_counter() - start) / count


async def channel_tell(count: int, batch: int) -> float:
    async with trio.open_nursery() as nursery:
        sender, receiver = trio.open_memory_channel[int](inf)
        sink = Sink(count)
        nursery.start_soon(drain, receiver, sink, batch)
        seconds = await tell_all(sender.send_nowait, sink.done, count)
        nursery.cancel_scope.cancel()
        return seconds


async def drain(receiver: trio.MemoryReceiveChannel[int], sink: Sink, batch: int) -> None:
    receive, receive_nowait, more = sink.receive, receiver.receive_nowait, batch - 1
    while True:
        await receive(await receiver.receive())
        try:
            for _ in range(more):
                await receive(receive_nowait())
        except trio.WouldBlock:
            pass


async def ask(count: int, timeout: float | None) -> float:
    async with open_system() as system:
        ref, request = await system.start(Answering), Get()
        start = perf_counter()
        for _ in range(count):
            await ref.ask(request, timeout=timeout)
        return (perf_counter() - start) / count


async def ask_together(count: int, callers: int) -> float:
    async with open_system() as system:
        ref, request = await system.start(Answering), Get()

        async def call() -> None:
            for _ in range(count // callers):
                await ref.ask(request)

        start = perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(call)
        return (perf_counter() - start) / (count // callers * callers)


async def channel_ask(count: int) -> float:
    async with trio.open_nursery() as nursery:
        sender, receiver = trio.open_memory_channel[trio.MemorySendChannel[int]](inf)
        nursery.start_soon(answer, receiver)
        start = perf_counter()
        for _ in range(count):
            reply, replies = trio.open_memory_channel[int](1)
            sender.send_nowait(reply)
            await replies.receive()
        seconds = (perf_counter() - start) / count
        nursery.cancel_scope.cancel()
        return seconds


async def answer(receiver: trio.MemoryReceiveChannel[trio.MemorySendChannel[int]]) -> None:
    async for reply in receiver:
        reply.send_nowait(1)


async def fan_out(rounds: int, burst: int, passes: int) -> float:
    async with open_system() as system:
        sinks = [Sink() for _ in range(MEMBERS)]
        group: Group[int] = Group()
        for sink in sinks:
            group.add(system.spawn(partial(same, sink)))

        def publish() -> None:
            for number in range(burst):
                group.publish(number)

        return await deliver(publish, sinks, rounds, burst, passes)


def same(sink: Sink) -> Sink:
    return sink


async def channel_fan_out(rounds: int, passes: int) -> float:
    async with trio.open_nursery() as nursery:
        sinks = [Sink() for _ in range(MEMBERS)]
        senders: list[trio.MemorySendChannel[int]] = []
        for sink in sinks:
            sender, receiver = trio.open_memory_channel[int](inf)
            senders.append(sender)
            nursery.start_soon(drain, receiver, sink, 1)

        def publish() -> None:
            for sender in senders:
                sender.send_nowait(1)

        seconds = await deliver(publish, sinks, rounds, 1, passes)
        nursery.cancel_scope.cancel()
        return seconds


async def wake_tasks(rounds: int) -> float:
    """The least that an actor needs: one task switch for each delivery."""
    parked: list[trio.lowlevel.Task] = []
    sinks = [Sink() for _ in range(MEMBERS)]

    async def wait(sink: Sink) -> None:
        task = trio.lowlevel.current_task()
        while True:
            parked.append(task)
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)
            sink.left -= 1

    def wake() -> None:
        tasks = parked.copy()
        parked.clear()
        for task in tasks:
            trio.lowlevel.reschedule(task)

    async with trio.open_nursery() as nursery:
        for sink in sinks:
            nursery.start_soon(wait, sink)
        seconds = await deliver(wake, sinks, rounds, 1, 2)
        nursery.cancel_scope.cancel()
        return seconds


async def deliver(publish: Callable[[], None], sinks: list[Sink], rounds: int, burst: int, passes: int) -> float:
    """Publish `rounds` times to members that are parked at first.

    A member that is woken runs in the scheduler's next pass. With two `passes` between publications all members are
    parked again each time. With one, some have not run yet, as for a publisher that does not wait.
    """
    await trio.testing.wait_all_tasks_blocked()
    expected = {-rounds * burst}
    start = perf_counter()
    for _ in range(rounds):
        publish()
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    seconds = perf_counter() - start
    assert {sink.left for sink in sinks} == expected
    return seconds / (rounds * burst * len(sinks))


async def spawn(count: int) -> float:
    async with open_system() as system:
        tally = Tally(count)
        start = perf_counter()
        for _ in range(count):
            system.spawn(lambda: Starting(tally))
        await tally.done.wait()
        return (perf_counter() - start) / count


async def spawn_tasks(count: int) -> float:
    async with trio.open_nursery() as nursery:
        tally = Tally(count)

        async def task() -> None:
            tally.count()
            await trio.sleep_forever()

        start = perf_counter()
        for _ in range(count):
            nursery.start_soon(task)
        await tally.done.wait()
        seconds = (perf_counter() - start) / count
        nursery.cancel_scope.cancel()
        return seconds


def keyed_sink(_: str) -> Sink:
    return Sink()


Measured = Callable[[], Awaitable[None]]


async def parked(what: Callable[[Measured], Awaitable[None]]) -> float:
    """The bytes of one of a thousand, after a hundred others have paid the costs of the first use."""
    sizes: list[int] = []

    async def measured() -> None:
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        await what(measured)
    finally:
        tracemalloc.stop()
    return (sizes[1] - sizes[0]) / 1_000


async def actors(measured: Measured) -> None:
    async with open_system() as system:
        refs = [system.spawn(Sink) for _ in range(100)]
        await measured()
        refs += [system.spawn(Sink) for _ in range(1_000)]
        await measured()


async def virtual_actors(measured: Measured) -> None:
    async with open_system() as system:
        family = system.virtual(keyed_sink)
        for number in range(1_100):
            if number == 100:
                await measured()
            family[str(number)].tell(1)
        await measured()


async def addresses(measured: Measured) -> None:
    async with open_system() as system:
        family = system.virtual(keyed_sink)
        refs = [family[str(number)] for number in range(100)]
        await measured()
        refs += [family[str(number)] for number in range(100, 1_100)]
        await measured()


async def tasks(measured: Measured) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(1_100):
            if number == 100:
                await measured()
            nursery.start_soon(trio.sleep_forever)
        await measured()
        nursery.cancel_scope.cancel()
