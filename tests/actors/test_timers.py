"""Timers and pipes fire on time, can be cancelled, and end with their incarnation."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actorchat.actors import ActorStopped, End, Ref, Restart
from actorchat.testing import crash, settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Broken, Call, Counter, Hold, Message, Total


async def seen(ref: Ref[Message]) -> tuple[int, ...]:
    return await ref.ask(Total())


async def do(ref: Ref[Message], *works: object) -> None:
    for work in works:
        await ref.ask(Call(work))  # type: ignore[arg-type] # lambdas over a Counter


async def test_after_and_every_tick_on_time_and_a_key_is_replaced(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter)
        await do(
            ref,
            lambda actor: actor.after(5, Add(1), key="a"),
            lambda actor: actor.after(2, Add(2), key="a"),
            lambda actor: actor.every(1, Add(3), key="b"),
        )
        await trio.sleep(3.5)
        assert sorted(await seen(ref)) == [2, 3, 3, 3]
        await do(ref, lambda actor: actor.cancel("b"))
        await trio.sleep(100)
        assert len(await seen(ref)) == 4


async def test_a_cancelled_tick_does_not_come_even_if_queued(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter)

        async def cancel_late(actor: Counter) -> bool:
            actor.after(1, Add(1), key="a")
            await trio.sleep(2)
            return actor.cancel("a")

        assert await ref.ask(Call(cancel_late)) is True
        await trio.sleep(2)
        assert await seen(ref) == ()


async def test_a_slow_handler_gets_one_tick_not_all_it_missed(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter)

        async def slow(actor: Counter) -> None:
            actor.every(1, Add(1), key="a")
            await trio.sleep(10.5)

        await do(ref, slow)
        await settle(system)
        assert await seen(ref) == (1,)
        await trio.sleep(0.6)
        assert await seen(ref) == (1, 1)


async def test_timers_pipes_and_watches_end_with_their_incarnation(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter, restart=Restart())
        other = system.spawn(Counter)
        await do(
            ref,
            lambda actor: actor.every(1, Add(1), key="a"),
            lambda actor: actor.pipe(partial(trio.sleep, 1), ok=lambda _: Add(2)),
            lambda actor: actor.watch(other, as_=lambda _: Add(3)),
        )
        ref.tell(Boom())
        await trio.sleep(5)
        other.stop()
        await trio.sleep(5)
        assert await seen(ref) == ()


async def test_the_inbox_moves_on_while_a_pipe_works(autojump_clock: MockClock) -> None:
    async def fail() -> int:
        await trio.sleep(1)
        raise Broken

    async with open_system() as system:
        ref = system.spawn(Counter)
        await do(ref, lambda actor: actor.pipe(lambda: give(5), ok=Add))
        await do(ref, lambda actor: actor.pipe(fail, ok=Add, err=lambda _: Add(-1)))
        ref.tell(Add(1))
        await settle(system)
        assert await seen(ref) == (1, -1, 5)


async def give(n: int) -> int:
    await trio.sleep(n)
    return n


async def test_a_pipe_error_nobody_handles_crashes_between_messages(autojump_clock: MockClock) -> None:
    async def fail() -> int:
        raise Broken

    trace: list[str] = []
    async with open_system() as system:
        ref = system.spawn(lambda: Counter(trace), restart=Restart())
        await do(ref, lambda actor: actor.pipe(fail, ok=Add))
        await settle(system)
        assert trace == ["start", "stop crashed", "start"]
        assert not system.dead_letters.counts


async def test_timers_of_an_idle_system_cost_one_waking_for_each_moment(autojump_clock: MockClock) -> None:
    wakings = 0

    class Watching(trio.abc.Instrument):
        def after_io_wait(self, timeout: float) -> None:
            nonlocal wakings
            wakings += 1

    async with open_system() as system:
        refs = [system.spawn(Counter) for _ in range(100)]
        for ref in refs:
            await do(
                ref, lambda actor: actor.every(600, Add(1), key="a"), lambda actor: actor.after(900, Add(2), key="b")
            )
        instrument = Watching()
        trio.lowlevel.add_instrument(instrument)
        await trio.sleep(3700)
        trio.lowlevel.remove_instrument(instrument)
        assert [await seen(ref) for ref in refs] == [(1, 2, 1, 1, 1, 1, 1)] * 100
    # Seven ticks and the end of the sleep, each with a jump of the clock and a few passes.
    assert wakings < 8 * 20


async def test_replaced_timers_do_not_pile_up_until_they_would_have_been_due(autojump_clock: MockClock) -> None:
    ticks: list[weakref.ref[Add]] = []

    def set_many(actor: Counter) -> None:
        for _ in range(1000):
            tick = Add(len(ticks))
            ticks.append(weakref.ref(tick))
            actor.after(10, tick, key="typing")

    async with open_system() as system:
        ref = system.spawn(Counter)
        objects: list[int] = []
        for _ in range(2):
            await do(ref, set_many)
            gc.collect()
            objects.append(len(gc.get_objects()) - len(ticks))
        assert sum(tick() is not None for tick in ticks) == 1
        assert objects[1] - objects[0] < 800
        await trio.sleep(3600)
        assert await seen(ref) == (1999,)


async def test_an_ended_actor_leaves_no_timer(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter, restart=Restart())
        for end in (lambda: ref.tell(Boom()), ref.stop):
            await do(ref, lambda actor: actor.every(1, Add(1), key="a"), lambda actor: actor.after(50, Add(2), key="b"))
            end()
            await settle(system)
            with trio.move_on_after(3600):
                await trio.sleep_forever()
            # The next deadline is the timeout of the test, which is far away.
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 1e5
        assert ref.stopped


async def test_cancelling_a_timer_after_its_last_tick_returns_false(autojump_clock: MockClock) -> None:
    found: list[bool] = []
    async with open_system() as system:
        ref = system.spawn(Counter)
        await do(
            ref,
            lambda actor: actor.after(1, Add(1), key="once"),
            lambda actor: actor.every(1, Add(2), key="often"),
        )
        await trio.sleep(1.5)
        await do(ref, lambda actor: found.extend([actor.cancel("once"), actor.cancel("often")]))
    assert found == [False, True]


async def test_timers_pipes_and_deferred_replies_end_before_on_stop(autojump_clock: MockClock) -> None:
    told: list[str] = []

    class Owing(Counter):
        async def receive(self, message: Message) -> None:
            if isinstance(message, Total):
                self.defer(message)
            else:
                await super().receive(message)

        async def on_stop(self, end: End) -> None:
            await trio.sleep(5)
            told.append("on_stop")

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            told.append("pipe")

    async with open_system() as system, trio.open_nursery() as nursery:
        ref = await system.start(Owing)

        async def ask() -> None:
            with pytest.raises(ActorStopped):
                await ref.ask(Total())
            told.append("asker")

        await do(ref, lambda actor: actor.pipe(work, ok=lambda _: Add(1)))
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        ref.stop()
        await ref.join()
    assert sorted(told[:2]) == ["asker", "pipe"]
    assert told[2:] == ["on_stop"]


async def test_timers_and_pipes_made_in_on_stop_end_with_the_actor(autojump_clock: MockClock) -> None:
    class Busy(Counter):
        async def on_stop(self, end: End) -> None:
            self.every(1, Add(1), key="a")
            self.pipe(trio.sleep_forever, ok=lambda _: Add(2))

    async with open_system() as system:
        ref = await system.start(Busy)
        before = trio.lowlevel.current_statistics().tasks_living
        ref.stop()
        await ref.join()
        with trio.move_on_after(100):
            await trio.sleep_forever()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 1e5
        assert trio.lowlevel.current_statistics().tasks_living == before - 1


async def test_a_planted_crash_hits_the_nth_message_and_leaves_no_trace() -> None:
    async with open_system() as system:
        with crash(Counter, on=Add, nth=2, after=True):
            ref = await system.start(Counter, restart=Restart())
            for n in range(4):
                ref.tell(Add(n))
            await settle(system)
        assert await seen(ref) == (2, 3)
        assert [letter.detail for letter in system.dead_letters.last] == ["InjectedCrash('Add(n=1)')"]
        fresh = await system.start(Counter)
        fresh.tell(Add(1))
        fresh.tell(Add(2))
        assert await seen(fresh) == (1, 2)


async def test_a_result_for_a_crashed_incarnation_does_not_reach_the_next(autojump_clock: MockClock) -> None:
    async def crash_later(actor: Counter) -> None:
        actor.pipe(lambda: give(0), ok=Add)
        actor.after(0, Add(2), key="a")
        await trio.sleep(1)
        raise Broken

    async with open_system() as system:
        ref = system.spawn(Counter, restart=Restart())
        ref.tell(Call(crash_later))
        await settle(system)
        assert await seen(ref) == ()


async def test_a_slow_tick_handler_blocks_neither_messages_nor_a_stop(
    autojump_clock: MockClock,
) -> None:
    class Slow(Counter):
        async def on_start(self) -> None:
            self.every(1, Hold(trio.Event()), key="tick")

        async def receive(self, message: Message) -> None:
            if isinstance(message, Hold):
                await trio.sleep(1.5)
            else:
                await super().receive(message)

    seen: list[int] = []
    async with open_system(drain=50) as system:
        ref = system.spawn(lambda: Slow(seen=seen))
        await trio.sleep(5)
        ref.tell(Add(1))
        await trio.sleep(10)
        assert seen == [1]
        ref.stop()
        with trio.fail_after(10):
            await ref.join()


async def test_after_a_suspend_of_the_machine_one_tick_comes_for_all_missed(mock_clock: MockClock) -> None:
    async def jump(seconds: float) -> None:
        mock_clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked()

    async with open_system() as system:
        ref = system.spawn(Counter)
        await do(ref, lambda actor: actor.every(1, Add(1), key="a"))
        await jump(10.5)
        assert await seen(ref) == (1,)
        await jump(0.4)
        assert await seen(ref) == (1,)
        await jump(0.2)
        assert await seen(ref) == (1, 1)


async def test_a_period_below_the_clocks_resolution_starves_no_other_task(mock_clock: MockClock) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter)
        mock_clock.jump(100_000)
        await ref.ask(Call(lambda actor: actor.every(1e-12, Add(1), key="tick")))
        mock_clock.jump(0.001)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        ref.kill()


@pytest.mark.parametrize("period", [0, -1])
async def test_an_invalid_period_is_refused(autojump_clock: MockClock, period: float) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter)

        def set_it(actor: Counter) -> None:
            with pytest.raises(ValueError, match="more than 0 seconds"):
                actor.every(period, Add(1), key="a")

        await do(ref, set_it)
