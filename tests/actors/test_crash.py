"""What a crash of an actor loses, and what it does not affect."""

from __future__ import annotations

import gc
import logging
import weakref
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from actorchat.actors import (
    ActorCrashed,
    ActorStopped,
    DeadLetter,
    DeadLetterReason,
    End,
    EventKind,
    MailboxFull,
    NoReply,
    Overflow,
    Pending,
    Restart,
    TooManyRestarts,
)
from actorchat.testing import settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Broken, Call, Counter, Hold, Total

RESTART = Restart(max=3, within=60, backoff=0.5, jitter=0)


async def test_a_crash_loses_one_message_and_keeps_the_queue_in_order(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    trace: list[str] = []
    lost: list[DeadLetter] = []
    async with open_system(on_dead_letter=lost.append) as system:
        ref = system.spawn(lambda: Counter(trace), "a", restart=RESTART)
        for message in (Add(1), Boom(), Add(2), Add(3)):
            assert ref.tell(message)
        assert await ref.ask(Total()) == (2, 3)
        assert trace == ["start", "stop crashed", "start"]
    assert [(letter.message, letter.reason) for letter in lost] == [(Boom(), DeadLetterReason.CRASHED)]
    assert isinstance(lost[0].error, Broken)
    (record,) = caplog.records
    assert (record.message, record.exc_info and record.exc_info[0]) == ("a crashed", Broken)


async def test_signals_survive_a_crash_and_overtake_messages(autojump_clock: MockClock) -> None:
    seen: list[int] = []
    async with open_system() as system:
        ref = system.spawn(lambda: Counter(seen=seen), restart=RESTART)
        ref.tell(Add(1))
        for message in (Boom(), Add(10), Add(11)):
            assert ref.signal(message)
        await settle(system)
        assert seen == [10, 11, 1]


@pytest.mark.parametrize("timeout", [None, 5.0])
async def test_the_caller_of_a_crashing_handler_gets_the_cause_at_once(
    autojump_clock: MockClock, timeout: float | None
) -> None:
    async def crash_late(_: Counter) -> None:
        await trio.sleep(1)
        raise Broken

    async with open_system() as system:
        ref = system.spawn(Counter, restart=RESTART)
        with pytest.raises(ActorCrashed) as caught:
            await ref.ask(Call(crash_late), timeout=timeout)
        assert isinstance(caught.value.__cause__, Broken)
        assert trio.current_time() == pytest.approx(1)


async def test_without_restart_a_crash_leaves_the_system() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ActorCrashed)):
        async with open_system() as system:
            system.spawn(Counter).tell(Boom())
            await trio.sleep_forever()


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
async def test_an_actor_that_ends_the_program_is_never_restarted(fatal: type[BaseException]) -> None:
    trace: list[str] = []

    def end(_: Counter) -> None:
        raise fatal

    with pytest.RaisesGroup(fatal):
        async with open_system() as system:
            ref = system.spawn(lambda: Counter(trace), restart=RESTART)
            ref.tell(Call(end))
            await trio.sleep_forever()
    assert trace == ["start", "stop crashed"]


async def test_the_backoff_doubles_and_the_window_slides(autojump_clock: MockClock) -> None:
    starts: list[float] = []

    class Noted(Counter):
        async def on_start(self) -> None:
            starts.append(trio.current_time())

    async with open_system() as system:
        ref = system.spawn(Noted, restart=RESTART)
        for _ in range(3):
            ref.tell(Boom())
        await settle(system)
        assert starts == pytest.approx([0, 0.5, 1.5, 3.5])
        for _ in range(5):
            await trio.sleep(61)
            ref.tell(Boom())
            crashed = trio.current_time()
            await settle(system)
            assert starts[-1] - crashed == pytest.approx(0.5)
        assert await ref.ask(Total()) == ()


async def test_the_backoff_is_capped_and_reset_after_a_quiet_time(autojump_clock: MockClock) -> None:
    starts: list[float] = []

    class Noted(Counter):
        async def on_start(self) -> None:
            starts.append(trio.current_time())

    async with open_system() as system:
        ref = system.spawn(Noted, restart=Restart(max=10, within=60, backoff=1, cap=5, jitter=0))
        for _ in range(5):
            ref.tell(Boom())
        await settle(system)
        assert starts == pytest.approx([0, 1, 3, 7, 12, 17])
        await trio.sleep(61)
        ref.tell(Boom())
        await settle(system)
        assert starts[-1] == pytest.approx(17 + 61 + 1)


async def test_jitter_is_bounded_and_repeatable_with_a_seed(autojump_clock: MockClock) -> None:
    async def delays(seed: int) -> list[float]:
        starts: list[float] = []

        class Noted(Counter):
            async def on_start(self) -> None:
                starts.append(trio.current_time())

        async with open_system(seed=seed) as system:
            ref = system.spawn(Noted, restart=Restart(max=20, backoff=1, cap=1, jitter=0.5))
            for _ in range(10):
                ref.tell(Boom())
            await settle(system)
        return [after - before for before, after in pairwise(starts)]

    first, same, other = await delays(1), await delays(1), await delays(2)
    assert first == pytest.approx(same)
    assert first != pytest.approx(other)
    assert all(1 <= delay <= 1.5 for delay in first + other)
    assert max(first) - min(first) > 0.1


async def test_a_spent_budget_propagates_and_fails_what_waits(autojump_clock: MockClock) -> None:
    answers: list[object] = []

    async def ask(system_ref: object) -> None:
        with pytest.raises(ActorCrashed) as caught:
            await ref.ask(Total())
        answers.append(caught.value)

    async with trio.open_nursery() as nursery:
        with pytest.RaisesGroup(pytest.RaisesExc(TooManyRestarts)):
            async with open_system() as system:
                ref = system.spawn(Counter, restart=RESTART)
                for _ in range(4):
                    ref.tell(Boom())
                nursery.start_soon(ask, ref)
                await trio.sleep_forever()
    assert len(answers) == 1


async def test_a_crash_in_on_start_counts_and_start_raises_it_to_the_spawner(autojump_clock: MockClock) -> None:
    class Stillborn(Counter):
        async def on_start(self) -> None:
            raise Broken

    async with open_system() as system:
        with pytest.raises(Broken):
            await system.start(Stillborn, restart=RESTART)
        assert system.tree() == ()
    with pytest.RaisesGroup(pytest.RaisesExc(TooManyRestarts)):
        async with open_system() as system:
            system.spawn(Stillborn, restart=RESTART)
            await trio.sleep_forever()


async def test_an_on_start_that_hangs_is_a_crash_after_the_limit(autojump_clock: MockClock) -> None:
    hangs = True

    class Hanging(Counter):
        async def on_start(self) -> None:
            if hangs:
                await trio.sleep_forever()

    async with open_system(limit=10) as system:
        with pytest.raises(trio.TooSlowError):
            await system.start(Hanging)
        assert trio.current_time() == pytest.approx(10)
        ref = system.spawn(Hanging, restart=RESTART)
        await trio.sleep(5)
        hangs = False
        assert await ref.ask(Total()) == ()
        assert trio.current_time() == pytest.approx(20.5)


async def test_a_cancelled_start_kills_the_actor_it_waited_for(autojump_clock: MockClock) -> None:
    class Slow(Counter):
        async def on_start(self) -> None:
            await trio.sleep(5)

    async with open_system() as system:
        with trio.move_on_after(1):
            await system.start(Slow, "slow")
        await settle(system)
        assert system.tree() == ()
        assert trio.current_time() == pytest.approx(1)


async def test_a_missing_reply_raises_at_once_and_a_deferred_one_waits(autojump_clock: MockClock) -> None:
    kept: list[Pending[object]] = []

    class Lazy(Counter):
        async def receive(self, message: object) -> None:
            match message:
                case Call():
                    kept.append(self.defer(message))
                case Boom():
                    raise Broken

    async with open_system() as system, trio.open_nursery() as nursery:
        ref = system.spawn(Lazy, restart=RESTART)
        with pytest.raises(NoReply):
            await ref.ask(Total())
        nursery.start_soon(ref.ask, Call(lambda _: None))
        await settle(system)
        kept[0].reply("late is fine")

        async def ask_and_crash() -> None:
            with pytest.raises(ActorCrashed):
                await ref.ask(Call(lambda _: None))

        nursery.start_soon(ask_and_crash)
        await settle(system)
        ref.tell(Boom())
        await settle(system)
        assert kept[1].expired
        kept[1].reply("nobody waits")
        assert system.late_replies == 1


async def test_a_full_inbox_keeps_its_bound_during_backoff(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter, inbox=2, overflow=Overflow.REJECT, restart=RESTART)
        ref.tell(Boom())
        await trio.sleep(0.1)
        assert [ref.tell(Add(n)) for n in range(3)] == [True, True, False]
        with pytest.raises(MailboxFull):
            await ref.ask(Total())
        await settle(system)
        assert await ref.ask(Total()) == (0, 1)
        assert system.dead_letters.counts[DeadLetterReason.REJECTED] == 1


async def stumble() -> None:
    """When it is cancelled, one of its two tasks raises."""

    async def raise_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Broken

    async with trio.open_nursery() as nursery:
        nursery.start_soon(raise_when_cancelled)
        nursery.start_soon(trio.sleep_forever)


async def test_a_cancelled_group_is_a_cancellation_and_no_crash(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with open_system() as system:
        ref = system.spawn(lambda: Counter(trace))
        ref.tell(Call(lambda _: stumble()))
        await trio.sleep(1)
        ref.kill()
        await ref.join()
    assert trace == ["start", "stop killed"]


async def test_an_error_during_cancellation_of_the_system_is_only_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    trace: list[str] = []
    with trio.move_on_after(1):
        async with open_system() as system:
            system.spawn(lambda: Counter(trace), "a").tell(Call(lambda _: stumble()))
            await trio.sleep_forever()
    assert trace == ["start", "stop cancelled"]
    assert [record.message for record in caplog.records] == ["a raised while it was cancelled"]


async def test_an_error_while_an_actor_is_killed_is_no_crash(autojump_clock: MockClock) -> None:
    async def clean_up_badly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Broken

    trace: list[str] = []
    async with open_system() as system:
        ref = system.spawn(lambda: Counter(trace))
        ref.tell(Call(lambda _: clean_up_badly()))
        await trio.sleep(1)
        ref.kill()
        await ref.join()
    assert trace == ["start", "stop killed"]


async def test_a_restarted_actor_that_is_cancelled_ends_as_cancelled(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    with trio.move_on_after(1):
        async with open_system() as system:
            system.spawn(lambda: Counter(trace), restart=Restart(jitter=0)).tell(Boom())
            await trio.sleep_forever()
    assert trace == ["start", "stop crashed", "start", "stop cancelled"]


async def test_killing_an_actor_cancels_its_handler_and_drops_its_inbox(autojump_clock: MockClock) -> None:
    lost: list[DeadLetter] = []
    async with open_system(on_dead_letter=lost.append) as system:
        ref = system.spawn(Counter)
        ref.tell(Hold(trio.Event()))
        ref.tell(Add(1))
        await trio.sleep(1)
        ref.kill()
        await ref.join()
        assert [letter.reason for letter in lost] == [DeadLetterReason.CRASHED, DeadLetterReason.STOPPED]
        assert not ref.tell(Add(2))
        assert not ref.signal(Add(3))


async def test_an_error_in_a_cancelled_pipe_affects_no_other_actor(autojump_clock: MockClock) -> None:
    async def stumble() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Broken

    async def work() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stumble)
            await trio.sleep_forever()

    async with open_system() as system:
        ref = await system.start(Counter)
        await ref.ask(Call(lambda actor: actor.pipe(work, ok=Add)))
        ref.kill()
        await ref.join()
        await trio.sleep(1)


async def test_a_crashed_actor_accepts_nothing_in_its_last_on_stop(autojump_clock: MockClock) -> None:
    class Slow(Counter):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(5)

    with pytest.RaisesGroup(ActorCrashed):
        async with open_system() as system:
            ref = system.spawn(Slow)
            ref.tell(Boom())
            await trio.sleep(1)
            assert not ref.tell(Add(1))
            with pytest.raises(ActorStopped):
                await ref.ask(Total())
            assert trio.current_time() == 1
            await trio.sleep_forever()


async def test_actors_of_a_cancelled_system_do_not_wait_for_each_other(autojump_clock: MockClock) -> None:
    saved: list[bool] = []

    class Hanging(Counter):
        async def on_stop(self, end: End) -> None:
            await trio.sleep_forever()

    class Saving(Counter):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(0.1)
            with pytest.raises(ActorStopped):
                await hanging.ask(Total())
            saved.append(True)

    with trio.move_on_after(1):
        async with open_system(grace=1) as system:
            hanging = system.spawn(Hanging)
            system.spawn(Saving)
            await trio.sleep_forever()
    assert saved == [True]


async def test_an_actor_that_waits_for_its_restart_keeps_no_crashed_instance(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # Captured log records hold tracebacks, which hold actors.
    caplog.set_level(logging.CRITICAL + 1, "actorchat.actors")
    made: weakref.WeakSet[Counter] = weakref.WeakSet()

    def make() -> Counter:
        actor = Counter()
        made.add(actor)
        return actor

    async with open_system() as system:
        ref = system.spawn(make, restart=Restart(backoff=100, cap=100))
        ref.tell(Boom())
        await trio.sleep(1)
        gc.collect()
        assert (len(made), len(system.tree())) == (0, 1)


async def test_a_stop_during_on_stop_after_a_crash_is_obeyed(autojump_clock: MockClock) -> None:
    class Slow(Counter):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(5)

    async with open_system(grace=1) as system:
        with system.events() as events:
            ref = system.spawn(Slow, restart=Restart(max=0))
            ref.tell(Boom())
            await trio.sleep(1)
            ref.kill()
            await ref.join()
            seen: list[EventKind] = []
            async for event in events:
                seen.append(event.kind)
                if event.kind is EventKind.ENDED:
                    break
    assert (seen, event.detail) == ([EventKind.STARTED, EventKind.ENDED], "killed")


async def test_a_reply_to_a_request_that_is_not_handled_raises(autojump_clock: MockClock) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(ActorCrashed, check=lambda error: "Total is not being handled" in str(error.__cause__))
    ):
        async with open_system() as system:
            system.spawn(Counter).tell(Call(lambda actor: actor.reply(Total(), ())))
            await trio.sleep_forever()
