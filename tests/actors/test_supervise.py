"""Which children a supervisor restarts together, in which order, and when it gives up."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock

from actorchat.actors import (
    Cause,
    DeadLetter,
    Down,
    End,
    Ref,
    Restart,
    Strategy,
    Supervisor,
    SystemClosing,
    TooManyRestarts,
    open_supervisor,
)
from actorchat.testing import Probe, settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Broken, Call, Counter, Hold, Message, Total

RESTART = Restart(max=3, within=60, backoff=1, jitter=0)


class Named(Counter):
    def __init__(self, name: str, trace: list[str]) -> None:
        super().__init__()
        self.name, self.life = name, trace

    async def on_start(self) -> None:
        await trio.sleep(0.1)
        self.life.append(f"+{self.name}")

    async def on_stop(self, end: End) -> None:
        self.life.append(f"-{self.name}")


def family(supervisor: Supervisor, trace: list[str]) -> list[Ref[Message]]:
    return [
        supervisor.spawn(lambda: Named("a", trace), "a"),
        supervisor.spawn(lambda: Named("b", trace), "b"),
        supervisor.spawn(lambda: Named("c", trace), "c"),
    ]


@pytest.mark.parametrize(
    ("strategy", "life"),
    [
        (Strategy.ONE_FOR_ONE, "-b +b"),
        (Strategy.ONE_FOR_ALL, "-b -c -a +a +b +c"),
        (Strategy.REST_FOR_ONE, "-b -c +b +c"),
    ],
)
async def test_a_crash_restarts_the_children_of_the_strategy_in_order(
    autojump_clock: MockClock, strategy: Strategy, life: str
) -> None:
    trace: list[str] = []
    async with open_system() as system:
        async with open_supervisor(system, strategy, RESTART) as supervisor:
            refs = family(supervisor, trace)
            await trio.sleep(1)
            assert sorted(trace) == ["+a", "+b", "+c"]
            trace.clear()
            refs[1].tell(Boom())
            for ref in refs:
                ref.tell(Add(1))
            await trio.sleep(3)
            assert " ".join(trace) == life
            trace.clear()
        assert trace == ["-c", "-b", "-a"]


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
async def test_two_crashes_at_once_are_one_round(autojump_clock: MockClock, strategy: Strategy) -> None:
    trace: list[str] = []
    async with open_system() as system, open_supervisor(system, strategy, RESTART) as supervisor:
        refs = family(supervisor, trace)
        await trio.sleep(1)
        for ref in refs:
            ref.tell(Boom())
            ref.tell(Add(7))
        await trio.sleep(3)
        assert trace[-3:] == ["+a", "+b", "+c"]
        assert len(trace) == 9
        assert [await ref.ask(Total()) for ref in refs] == [(7,)] * 3


async def test_an_older_siblings_crash_during_the_delay_extends_the_restart(
    autojump_clock: MockClock,
) -> None:
    trace: list[str] = []
    async with open_system() as system, open_supervisor(system, Strategy.REST_FOR_ONE, RESTART) as supervisor:
        a, _, c = family(supervisor, trace)
        await trio.sleep(1)
        trace.clear()
        c.tell(Boom())
        await trio.sleep(0.5)
        a.tell(Boom())
        await trio.sleep(3)
        assert trace == ["-c", "-a", "-b", "+a", "+b", "+c"]


async def test_a_crash_in_on_start_during_recovery_starts_another_round(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    fails = 0

    class Fragile(Named):
        async def on_start(self) -> None:
            nonlocal fails
            if fails:
                fails -= 1
                raise Broken
            await super().on_start()

    async with open_system() as system, open_supervisor(system, Strategy.REST_FOR_ONE, RESTART) as supervisor:
        a = supervisor.spawn(lambda: Named("a", trace))
        b = supervisor.spawn(lambda: Fragile("b", trace))
        c = supervisor.spawn(lambda: Named("c", trace))
        await trio.sleep(1)
        trace.clear()
        fails = 1
        a.tell(Boom())
        await trio.sleep(5)
        assert trace == ["-a", "-c", "-b", "+a", "+b", "+c"]
        assert [await ref.ask(Total()) for ref in (a, b, c)] == [()] * 3


async def test_a_sibling_that_waits_for_the_crashed_child_is_cancelled(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with open_system() as system, open_supervisor(system, Strategy.REST_FOR_ONE, RESTART) as supervisor:
        a, b, _ = family(supervisor, trace)
        await trio.sleep(1)
        gate = trio.Event()
        a.tell(Hold(gate))
        a.tell(Boom())
        b.tell(Call(lambda _: a.ask(Total())))
        await trio.sleep(0.5)
        gate.set()
        await trio.sleep(5)
        assert await b.ask(Total()) == ()
        assert await a.ask(Total()) == ()


async def test_a_spent_budget_cancels_the_body_and_leaves(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with open_system() as system:
        with pytest.RaisesGroup(pytest.RaisesExc(TooManyRestarts)):
            async with open_supervisor(system, Strategy.ONE_FOR_ALL, Restart(max=1, jitter=0)) as supervisor:
                refs = family(supervisor, trace)
                for _ in range(2):
                    await trio.sleep(1)
                    refs[0].tell(Boom())
                await trio.sleep_forever()
        assert system.tree() == ()
        assert trace.count("+a") == trace.count("-a") == 2


async def test_siblings_have_budgets_of_their_own(autojump_clock: MockClock) -> None:
    async with open_system() as system, open_supervisor(system, restart=Restart(max=1)) as supervisor:
        refs = [supervisor.spawn(Counter) for _ in range(5)]
        for ref in refs:
            ref.tell(Boom())
        await settle(system)
        assert [await ref.ask(Total()) for ref in refs] == [()] * 5


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
async def test_a_siblings_crash_does_not_interrupt_a_draining_child(
    autojump_clock: MockClock, strategy: Strategy
) -> None:
    seen: list[int] = []

    class Slow(Counter):
        async def receive(self, message: Message) -> None:
            await trio.sleep(1)
            await super().receive(message)

    async with (
        open_system(drain=60, grace=1) as system,
        open_supervisor(system, strategy, RESTART) as supervisor,
    ):
        other = supervisor.spawn(Counter)
        slow = supervisor.spawn(lambda: Slow(seen=seen))
        for n in range(10):
            slow.tell(Add(n))
        await trio.sleep(0.5)
        slow.stop()
        other.tell(Boom())
        await trio.sleep(2)
        # It does not delay its siblings either.
        assert await other.ask(Total()) == ()
        assert len(seen) == 2
        await slow.join()
        assert seen == list(range(10))
        assert await other.ask(Total()) == ()


@pytest.mark.parametrize("strategy", list(Strategy))
async def test_a_supervisor_that_has_ended_takes_no_child(autojump_clock: MockClock, strategy: Strategy) -> None:
    async with open_system() as system:
        async with open_supervisor(system, strategy) as supervisor:
            pass
        with pytest.raises(SystemClosing):
            supervisor.spawn(Counter, "late")
        assert system.find("late", Counter) is None


async def test_a_child_that_waits_for_a_crashed_sibling_does_not_block_recovery(
    autojump_clock: MockClock,
) -> None:
    class Asking(Counter):
        async def on_start(self) -> None:
            await first.ask(Total())

    async with (
        open_system() as system,
        open_supervisor(system, Strategy.ONE_FOR_ALL, Restart(jitter=0)) as supervisor,
    ):
        first = supervisor.spawn(Counter)
        gate = trio.Event()
        first.tell(Hold(gate))
        first.tell(Boom())
        second = supervisor.spawn(Asking)
        await trio.sleep(1)
        gate.set()
        with trio.fail_after(5):
            assert await second.ask(Total()) == ()


async def test_a_child_that_is_stopped_while_it_is_to_be_restarted_drains(autojump_clock: MockClock) -> None:
    seen: list[int] = []

    class Slow(Counter):
        async def receive(self, message: Message) -> None:
            await super().receive(message)
            await trio.sleep(0.6)

    lost: list[DeadLetter] = []
    async with (
        open_system(drain=60, on_dead_letter=lost.append) as system,
        open_supervisor(system, Strategy.ONE_FOR_ALL, Restart(jitter=0)) as supervisor,
    ):
        other, slow = supervisor.spawn(Counter), supervisor.spawn(lambda: Slow(seen=seen))
        await settle(system)
        for n in range(5):
            slow.tell(Add(n))
        await trio.sleep(0.1)
        other.tell(Boom())
        await trio.sleep(0.1)
        slow.stop()
        await slow.join()
        assert seen == list(range(5))
    assert [type(letter.message) for letter in lost] == [Boom]


async def test_a_child_that_is_stopped_before_its_restart_drains_in_its_turn(
    autojump_clock: MockClock,
) -> None:
    life: list[str] = []
    async with (
        open_system() as system,
        open_supervisor(system, Strategy.ONE_FOR_ALL, RESTART) as supervisor,
    ):
        first, second, _ = family(supervisor, life)
        await settle(system)
        life.clear()
        first.tell(Boom())
        await trio.sleep(0.5)
        second.tell(Call(lambda _: life.append("b drains")))
        second.stop()
        await second.join()
        assert life == ["-a", "-c", "-b", "+a", "+b", "b drains", "-b"]


@pytest.mark.parametrize("strategy", list(Strategy))
async def test_watchers_of_a_child_that_is_given_up_get_its_crash(
    autojump_clock: MockClock, strategy: Strategy
) -> None:
    watcher = Probe[Down]()
    async with open_system() as system:
        await system.start(lambda: watcher)
        with pytest.RaisesGroup(TooManyRestarts):
            async with open_supervisor(system, strategy, Restart(max=0)) as supervisor:
                ref = supervisor.spawn(Counter)
                await settle(system)
                watcher.watch(ref, as_=lambda down: down)
                ref.tell(Boom())
                await trio.sleep_forever()
        down = await watcher.expect(Down)
        assert (down.cause, type(down.error)) == (Cause.CRASHED, Broken)


@pytest.mark.parametrize("strategy", list(Strategy))
async def test_a_child_that_has_ended_is_forgotten(autojump_clock: MockClock, strategy: Strategy) -> None:
    trace: list[str] = []
    async with open_system() as system, open_supervisor(system, strategy, RESTART) as supervisor:
        first, second, _ = family(supervisor, trace)
        await settle(system)
        second.stop()
        await second.join()
        assert [info.name for info in system.tree()] == ["a", "c"]
        gone = weakref.ref(second)
        del second
        gc.collect()
        assert gone() is None
        trace.clear()
        supervisor.spawn(lambda: Named("b", trace), "b")
        first.tell(Boom())
        await trio.sleep(5)
        assert trace[-1] == {Strategy.ONE_FOR_ONE: "+a"}.get(strategy, "+b")


async def test_a_child_that_takes_too_long_to_drain_is_killed(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with open_system(drain=5) as system, open_supervisor(system) as supervisor:
        supervisor.spawn(lambda: Counter(trace)).tell(Hold(trio.Event()))
        await trio.sleep(1)
    assert trace == ["start", "stop killed"]
    assert trio.current_time() == pytest.approx(6)


async def test_a_child_that_crashes_while_it_is_stopped_leaves_its_siblings_alone(autojump_clock: MockClock) -> None:
    def stop_and_crash(actor: Counter) -> None:
        actor.ref.stop(drain=False)
        raise Broken

    trace: list[str] = []
    async with open_system() as system, open_supervisor(system, Strategy.ONE_FOR_ALL, RESTART) as supervisor:
        first, _, _ = family(supervisor, trace)
        await settle(system)
        first.tell(Call(stop_and_crash))
        await trio.sleep(5)
        assert trace == ["+a", "+b", "+c", "-a"]


async def test_an_on_stop_of_a_child_has_its_grace_when_the_body_raises(autojump_clock: MockClock) -> None:
    class Slow(Counter):
        async def on_stop(self, end: End) -> None:
            await trio.sleep_forever()

    async with open_system(grace=2, limit=30) as system:
        with pytest.RaisesGroup(ZeroDivisionError):
            async with open_supervisor(system) as supervisor:
                ref = supervisor.spawn(Slow)
                await settle(system)
                ref.stop()
                await trio.sleep(1)
                raise ZeroDivisionError
    assert trio.current_time() == pytest.approx(3)
