"""An ask ends once, with the right result and in time; deadlocks are detected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actorchat.actors import ActorCrashed, AskCycle, AskTimeout, DeadLetterReason, MailboxFull, Pending, Ref, Restart
from actorchat.testing import settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Broken, Call, Counter, Hold, Message, Total


def asking(ref: Ref[Message], then: Callable[[], object] = lambda: "end") -> Call:
    """A request whose handler asks `ref`."""
    return Call(lambda _: ref.ask(Call(lambda _: then())))


async def test_one_handler_at_a_time_under_100_callers(autojump_clock: MockClock) -> None:
    inside = 0

    async def work() -> int:
        nonlocal inside
        inside += 1
        await trio.sleep(0.1)
        inside -= 1
        return inside

    answers: list[object] = []
    async with open_system() as system, trio.open_nursery() as nursery:
        ref = system.spawn(Counter)

        async def call() -> None:
            answers.append(await ref.ask(Call(lambda _: work())))

        for _ in range(100):
            nursery.start_soon(call)
    assert answers == [0] * 100


async def test_a_timed_out_ask_that_had_not_begun_never_does(autojump_clock: MockClock) -> None:
    ran: list[int] = []
    async with open_system() as system:
        ref, gate = system.spawn(Counter), trio.Event()
        ref.tell(Hold(gate))
        await settle_blocked()
        with pytest.raises(AskTimeout) as caught:
            await ref.ask(Call(lambda _: ran.append(1)), timeout=2.03)
        assert 2.03 <= trio.current_time() <= 2.08
        assert (caught.value.begun, caught.value.queued) == (False, 1)
        gate.set()
        await settle(system)
        assert (ran, system.abandoned, ref.queued) == ([], 1, 0)


async def test_a_cancelled_ask_that_had_not_begun_never_does(autojump_clock: MockClock) -> None:
    ran: list[int] = []
    async with open_system() as system:
        ref, gate = system.spawn(Counter), trio.Event()
        ref.tell(Hold(gate))
        with trio.move_on_after(1):
            await ref.ask(Call(lambda _: ran.append(1)))
        gate.set()
        await settle(system)
        assert (ran, system.abandoned, system.late_replies) == ([], 1, 0)
        assert not system.dead_letters.counts


async def test_an_ask_that_timed_out_and_never_began_is_no_dead_letter(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = await system.start(Counter)
        ref.tell(Hold(trio.Event()))
        with pytest.raises(AskTimeout):
            await ref.ask(Total(), timeout=1)
        ref.kill()
        await ref.join()
        assert (system.abandoned, system.dead_letters.counts) == (1, {DeadLetterReason.CRASHED: 1})


async def test_a_late_reply_is_counted_and_ignored(autojump_clock: MockClock) -> None:
    async def work(actor: Counter) -> None:
        await trio.sleep(5)
        actor.seen.append(1)

    trace: list[str] = []
    async with open_system() as system:
        ref = system.spawn(lambda: Counter(trace))
        with pytest.raises(AskTimeout) as caught:
            await ref.ask(Call(work), timeout=1)
        assert caught.value.begun
        assert await ref.ask(Total()) == (1,)
        assert (system.late_replies, system.abandoned, trace) == (1, 0, ["start"])
        assert not system.dead_letters.counts


async def test_cancelling_an_ask_does_not_interrupt_its_handler(autojump_clock: MockClock) -> None:
    async def work(actor: Counter) -> None:
        await trio.sleep(5)
        assert actor.expired
        actor.seen.append(1)

    async with open_system() as system:
        ref = system.spawn(Counter)
        with trio.move_on_after(1):
            await ref.ask(Call(work))
        assert await ref.ask(Total()) == (1,)
        assert system.late_replies == 1
        assert not system.dead_letters.counts


async def test_a_nested_ask_inherits_the_remaining_time(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        inner, outer = system.spawn(Counter), system.spawn(Counter)
        inner.tell(Hold(trio.Event()))
        trace: list[tuple[str, float]] = []

        async def nested(_: Counter) -> None:
            await trio.sleep(1)
            try:
                await inner.ask(Total(), timeout=60)
            except AskTimeout as error:
                trace.append((error.name, trio.current_time()))

        with pytest.raises(AskTimeout):
            await outer.ask(Call(nested), timeout=3)
        await settle_blocked()
        ((name, when),) = trace
        assert name == inner.name
        assert when == pytest.approx(3)
        inner.kill()


async def test_an_actor_that_asks_itself_gets_an_error_at_once() -> None:
    async with open_system() as system:
        ref = system.spawn(Counter, "me")
        answer = await ref.ask(Call(lambda actor: caught(actor.ref.ask(Total()))))
        assert answer == ("me", "me")


@pytest.mark.parametrize("length", [2, 5])
async def test_the_ask_that_closes_a_deadlock_raises(length: int) -> None:
    async with open_system() as system:
        refs = [system.spawn(Counter, f"a{n}") for n in range(length)]

        def step(n: int) -> object:
            if n == length:
                return caught(refs[0].ask(Total()))
            return refs[n].ask(Call(lambda _: step(n + 1)))

        path = await refs[0].ask(Call(lambda _: step(1)))
        assert path == (f"a{length - 1}", *[f"a{n}" for n in range(length)])


async def test_crossed_asks_of_unrelated_requests_do_not_hang() -> None:
    async with open_system() as system, trio.open_nursery() as nursery:
        a, b = system.spawn(Counter, "a"), system.spawn(Counter, "b")
        gate, results = trio.Event(), list[object]()

        async def cross(other: Ref[Message]) -> object:
            await gate.wait()
            return await caught(other.ask(Total()))

        async def call(ref: Ref[Message], other: Ref[Message]) -> None:
            results.append(await ref.ask(Call(lambda _: cross(other))))

        nursery.start_soon(call, a, b)
        nursery.start_soon(call, b, a)
        await settle_blocked()
        gate.set()
        await settle_blocked()
        assert sorted([result for result in results if result in (("a", "b", "a"), ("b", "a", "b"))]) != []
        assert len(results) == 2


async def test_a_deadlock_is_reported_before_any_other_task_runs() -> None:
    passes = 0

    async def count() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    async with open_system() as system, trio.open_nursery() as nursery:
        a, b = system.spawn(Counter, "a"), system.spawn(Counter, "b")
        nursery.start_soon(count)

        async def close_ring(_: Counter) -> object:
            before = passes
            return await caught(a.ask(Total())), passes - before

        assert await a.ask(Call(lambda _: b.ask(Call(close_ring)))) == (("b", "a", "b"), 0)
        nursery.cancel_scope.cancel()


async def test_an_uncaught_deadlock_error_fails_the_other_waiters_in_turn(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        refs = [system.spawn(Counter, f"a{n}", restart=Restart()) for n in range(5)]

        def step(n: int) -> object:
            return refs[n % 5].ask(Call(lambda _: step(n + 1)))

        with pytest.raises(ActorCrashed) as crashed:
            await refs[0].ask(Call(lambda _: step(1)))
        causes: list[BaseException] = []
        cause: BaseException | None = crashed.value
        while cause is not None:
            causes.append(cause)
            cause = cause.__cause__
        assert [type(each) for each in causes] == [ActorCrashed] * 5 + [AskCycle]
        assert trio.current_time() == 0
        assert [await ref.ask(Total()) for ref in refs] == [()] * 5


async def test_a_deadlock_through_a_blocked_send_raises() -> None:
    async with open_system() as system:
        a, b = system.spawn(Counter, "a"), system.spawn(Counter, "b", inbox=1)

        async def fill_and_send(_: Counter) -> object:
            b.tell(asking(a))
            await settle_blocked()
            b.tell(Add(1))
            return await caught(b.send(Add(2)))

        assert await a.ask(Call(fill_and_send)) == ("a", "b", "a")


async def test_two_paths_to_the_same_actor_are_no_deadlock() -> None:
    async with open_system() as system:
        a, b, c = (system.spawn(Counter, name) for name in "abc")

        async def both(_: Counter) -> object:
            return await b.ask(Call(lambda _: 1)), await c.ask(asking(b, lambda: 2))

        assert await a.ask(Call(both)) == (1, 2)


@pytest.mark.parametrize("end", ["answered", "timed out", "cancelled", "sent", "send cancelled"])
async def test_an_ended_ask_does_not_count_in_deadlock_detection(autojump_clock: MockClock, end: str) -> None:
    async with open_system() as system:
        a, b = system.spawn(Counter, "a", inbox=1), system.spawn(Counter, "b")

        async def work(_: Counter) -> None:
            await trio.sleep(3)

        async def wait_for_a(_: Counter) -> None:
            slow = Call(work)
            with trio.move_on_after(1 if end.endswith("cancelled") else 10):
                match end:
                    case "timed out":
                        await caught(a.ask(slow, timeout=1))
                    case "answered" | "cancelled":
                        await a.ask(slow)
                    case _:
                        a.tell(slow)
                        await settle_blocked()
                        a.tell(Add(1))
                        await a.send(Add(2))

        await b.ask(Call(wait_for_a))
        await settle(system)
        assert await a.ask(Call(lambda _: caught(b.ask(Total())))) == ()


async def test_a_deferred_reply_does_not_count_in_deadlock_detection(autojump_clock: MockClock) -> None:
    kept: list[Pending[object]] = []

    class Deferring(Counter):
        async def receive(self, message: Message) -> None:
            if isinstance(message, Call):
                kept.append(self.defer(message))
            else:
                # `a` waits for a deferred reply, which any actor may give, so this is no deadlock.
                self.seen.extend(await a.ask(Total()))

    async with open_system() as system, trio.open_nursery() as nursery:
        deferring = Deferring()
        a, b = system.spawn(Counter, "a"), system.spawn(lambda: deferring, "b")
        a.tell(Add(1))
        nursery.start_soon(a.ask, asking(b))
        await trio.sleep(1)
        b.tell(Boom())
        await trio.sleep(1)
        kept[0].reply("now")
        await settle(system)
        assert deferring.seen == [1]


async def test_senders_wait_in_order_and_a_cancelled_one_sends_nothing(autojump_clock: MockClock) -> None:
    async with open_system() as system, trio.open_nursery() as nursery:
        ref, gate = system.spawn(Counter, inbox=1), trio.Event()
        ref.tell(Hold(gate))
        await settle_blocked()
        ref.tell(Add(0))
        for n in range(1, 6):
            nursery.start_soon(ref.send, Add(n))
            await settle_blocked()
        with trio.move_on_after(1):
            await ref.send(Add(99))
        gate.set()
        assert await ask_when_free(ref) == (0, 1, 2, 3, 4, 5)


async def test_an_ask_that_is_refused_is_a_checkpoint(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = await system.start(Counter, inbox=1)
        ref.tell(Hold(trio.Event()))
        await settle_blocked()
        ref.tell(Add(1))
        with trio.testing.assert_checkpoints(), pytest.raises(MailboxFull):
            await ref.ask(Total())
        ref.kill()


async def test_a_send_is_a_checkpoint_and_cancelled_beforehand_sends_nothing(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter)
        with trio.testing.assert_checkpoints():
            await ref.send(Add(1))
        with trio.CancelScope() as scope:
            scope.cancel()
            await ref.send(Add(2))
        assert scope.cancelled_caught
        assert await ref.ask(Total()) == (1,)


@pytest.mark.parametrize("crashes", [False, True])
async def test_each_blocked_sender_keeps_its_own_order(autojump_clock: MockClock, crashes: bool) -> None:
    seen: list[int] = []
    async with open_system() as system, trio.open_nursery() as nursery:
        ref = system.spawn(lambda: Counter(seen=seen), inbox=2, restart=Restart(max=1_000, backoff=0.1))

        async def send(sender: int) -> None:
            for n in range(20):
                if crashes and n == 10:
                    await ref.send(Boom())
                await ref.send(Add(100 * sender + n))

        for sender in range(5):
            nursery.start_soon(send, sender)
    assert [[n for n in seen if n // 100 == sender] for sender in range(5)] == [
        [100 * sender + n for n in range(20)] for sender in range(5)
    ]


async def ask_when_free(ref: Ref[Message]) -> tuple[int, ...]:
    await settle_blocked()
    return await ref.ask(Total())


async def caught(wait: Awaitable[object]) -> object:
    try:
        return await wait
    except AskCycle as error:
        return error.path
    except AskTimeout:
        return None


async def settle_blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("refuses", [False, True])
async def test_an_ask_after_the_reply_does_not_inherit_the_callers_deadline(
    autojump_clock: MockClock, refuses: bool
) -> None:
    answers: list[object] = []

    async def pause() -> None:
        await trio.sleep(1)

    class Logging(Counter):
        async def receive(self, message: Message) -> None:
            if isinstance(message, Total):
                if refuses:
                    self.fail(message, Broken())
                else:
                    self.reply(message, ())
                answers.append(await log.ask(Call(lambda _: pause())))

    async with open_system() as system:
        log = system.spawn(Counter)
        with pytest.raises(Broken) if refuses else nullcontext():
            assert await system.spawn(Logging).ask(Total(), timeout=0.5) == ()
        await trio.sleep(2)
    assert answers == [None]
