"""An actor that is stopped or killed while it waits for its restart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.actors import ActorStopped, ActorSystem, Cause, DeadLetter, DeadLetterReason, Down, Ref, Restart, Virtual
from actorchat.testing import Probe
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Counter, Message, Total

LONG = Restart(backoff=1_000, cap=1_000, jitter=0)


@attrs.frozen
class Waiting:
    """An actor in its backoff with `Add(1)` in its inbox, its watcher, and its dead letters."""

    system: ActorSystem
    ref: Ref[Message]
    seen: list[int]
    watcher: Probe[Down]
    lost: list[DeadLetter]

    def downs(self) -> list[Cause]:
        return [down.cause for down in self.watcher.drain()]


@asynccontextmanager
async def waiting() -> AsyncIterator[Waiting]:
    lost: list[DeadLetter] = []
    seen: list[int] = []
    watcher = Probe[Down]()
    async with open_system(on_dead_letter=lost.append) as system:
        await system.start(lambda: watcher)
        ref = await system.start(lambda: Counter(seen=seen), "a", restart=LONG)
        watcher.watch(ref, as_=lambda down: down)
        ref.tell(Boom())
        await trio.testing.wait_all_tasks_blocked()
        assert ref.tell(Add(1))
        lost.clear()
        yield Waiting(system, ref, seen, watcher, lost)


async def test_killed_during_backoff_it_ends_at_once_with_dead_letters(autojump_clock: MockClock) -> None:
    async with waiting() as at:
        at.ref.kill()
        await at.ref.join()
        await trio.testing.wait_all_tasks_blocked()
        assert (at.ref.stopped, trio.current_time(), at.downs()) == (True, 0, [Cause.KILLED])
        assert [(letter.message, letter.reason) for letter in at.lost] == [(Add(1), DeadLetterReason.STOPPED)]
        await at.system.start(Counter, "a")
    assert at.seen == []


async def test_stopped_during_backoff_it_drains_at_once(autojump_clock: MockClock) -> None:
    async with waiting() as at:
        at.ref.stop()
        assert not at.ref.tell(Add(2))
        await at.ref.join()
        await trio.testing.wait_all_tasks_blocked()
        assert (at.seen, trio.current_time(), at.downs()) == ([1], 0, [Cause.STOPPED])


async def test_a_crash_while_draining_does_not_wait_for_the_backoff(autojump_clock: MockClock) -> None:
    seen: list[int] = []
    async with open_system() as system:
        ref = await system.start(lambda: Counter(seen=seen), restart=LONG)
        ref.tell(Boom())
        ref.tell(Add(1))
        ref.stop()
        await ref.join()
        assert (seen, trio.current_time()) == ([1], 0)


async def test_stopped_during_backoff_without_draining_it_ends_at_once(autojump_clock: MockClock) -> None:
    async with waiting() as at:
        at.ref.stop(drain=False)
        await at.ref.join()
        await trio.testing.wait_all_tasks_blocked()
        assert (at.seen, trio.current_time(), at.downs()) == ([], 0, [Cause.STOPPED])


async def test_an_ask_that_waits_for_a_restart_fails_when_the_actor_ends(autojump_clock: MockClock) -> None:
    async with waiting() as at, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(ActorStopped):
                await at.ref.ask(Total())

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        at.ref.kill()


async def test_leaving_a_system_drains_an_actor_in_backoff_and_cancelling_does_not(
    autojump_clock: MockClock,
) -> None:
    async with waiting() as at:
        pass
    assert at.seen == [1]
    with trio.CancelScope() as scope:
        async with waiting() as at:
            scope.cancel()
            await trio.sleep(1)
    assert (at.seen, at.ref.stopped) == ([], True)
    assert [(letter.message, letter.reason) for letter in at.lost] == [(Add(1), DeadLetterReason.STOPPED)]


@pytest.mark.parametrize("way", [Ref.kill, lambda ref: ref.stop(drain=False), Ref.stop], ids=["kill", "cut", "stop"])
async def test_a_virtual_actor_that_ended_in_its_backoff_is_activated_by_the_next_message(
    autojump_clock: MockClock, way: Callable[[Ref[Message]], None]
) -> None:
    seen: list[int] = []
    async with open_system() as system:
        rooms: Virtual[str, Message, None] = system.virtual(lambda key: Counter(seen=seen), restart=LONG)
        ref = rooms["a"]
        ref.tell(Boom())
        await trio.testing.wait_all_tasks_blocked()
        way(ref)
        await ref.join()
        assert ref.tell(Add(1))
        await ref.ask(Total())
        assert (seen, trio.current_time()) == ([1], 0)


async def test_a_virtual_actor_killed_before_its_next_activation_can_be_activated_again(
    autojump_clock: MockClock,
) -> None:
    seen: list[int] = []
    async with open_system() as system:
        rooms: Virtual[str, Message, None] = system.virtual(
            lambda key: Counter(seen=seen), restart=Restart(max=0, backoff=1_000, cap=1_000, jitter=0)
        )
        ref = rooms["a"]
        ref.tell(Boom())
        await trio.testing.wait_all_tasks_blocked()
        assert ref.tell(Add(1))
        ref.kill()
        await ref.join()
        assert rooms.active == 0
        assert ref.tell(Add(2))
        await trio.sleep(2_000)
        assert seen == [2]
