"""Actors and systems end in order and in bounded time, and leave no waiting caller."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actorchat.actors import (
    ActorCrashed,
    Cause,
    DeadLetter,
    Down,
    End,
    Group,
    Restart,
    Strategy,
    SystemClosing,
    Virtual,
    open_supervisor,
)
from actorchat.testing import Probe, settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Broken, Call, Counter, Hold, Message, Total


async def test_leaving_the_body_drains_in_reverse_order(autojump_clock: MockClock) -> None:
    trace: list[str] = []

    class Named(Counter):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def on_stop(self, end: End) -> None:
            trace.append(f"{self.name} {len(self.seen)}")

    async with open_system() as system:
        for name in "abc":
            ref = system.spawn(partial(Named, name))
            for n in range(100):
                ref.tell(Add(n))
    assert trace == ["c 100", "b 100", "a 100"]


async def test_a_drain_that_takes_too_long_is_cut(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with open_system(drain=5) as system:
        system.spawn(lambda: Counter(trace)).tell(Hold(trio.Event()))
        system.spawn(lambda: Counter(trace)).tell(Hold(trio.Event()))
        await trio.sleep(1)
    assert trio.current_time() == pytest.approx(6)
    assert sorted(trace) == ["start", "start", "stop killed", "stop killed"]


async def test_a_body_that_raises_cancels_at_once_and_on_stop_still_runs(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_system() as system:
            system.spawn(lambda: Counter(trace)).tell(Hold(trio.Event()))
            await trio.sleep(1)
            raise ZeroDivisionError
    assert trio.current_time() == pytest.approx(1)
    assert trace == ["start", "stop cancelled"]


@pytest.mark.parametrize("way", ["stop", "kill", "cancel", "shutdown"])
@pytest.mark.parametrize("raises", [True, False])
async def test_an_on_stop_that_hangs_or_raises_is_bounded(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, way: str, raises: bool
) -> None:
    class Bad(Counter):
        async def on_stop(self, end: End) -> None:
            if raises:
                raise ZeroDivisionError
            await trio.sleep_forever()

    with trio.move_on_after(100) as scope:
        async with open_system(limit=10, grace=1, drain=5) as system:
            ref = await system.start(Bad, "a")
            if way == "stop":
                ref.stop()
                await ref.join()
            elif way == "kill":
                ref.kill()
                await ref.join()
            elif way == "cancel":
                scope.cancel()
    limit = {"stop": 10, "kill": 1, "cancel": 1, "shutdown": 6}[way]
    assert trio.current_time() <= (0 if raises else limit) + 0.01
    assert [record.message for record in caplog.records] == [
        "on_stop of a failed" if raises else "on_stop of a took too long and was cut"
    ]


async def test_an_actor_stops_itself_and_stopping_twice_is_once(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with open_system() as system:
        ref = system.spawn(lambda: Counter(trace))
        ref.tell(Call(lambda actor: actor.ref.stop()))
        ref.tell(Add(1))
        await ref.join()
        ref.stop()
        ref.kill()
        assert trace == ["start", "stop stopped"]


async def test_a_draining_actor_still_handles_signals(autojump_clock: MockClock) -> None:
    seen: list[int] = []
    async with open_system() as system:
        ref = await system.start(lambda: Counter(seen=seen))
        gate = trio.Event()
        ref.tell(Hold(gate))
        ref.tell(Add(2))
        await trio.testing.wait_all_tasks_blocked()
        ref.stop()
        assert ref.signal(Add(1))
        gate.set()
        await ref.join()
        assert not ref.signal(Add(3))
    assert seen == [1, 2]


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_dead_letter_callback_at_the_end_can_send_nothing_more(
    autojump_clock: MockClock, crashes: bool
) -> None:
    taken: list[bool] = []
    lost: list[object] = []

    def hear(letter: DeadLetter) -> None:
        lost.append(letter.message)
        if letter.message == Add(1):
            taken.extend([ref.signal(Add(2)), ref.tell(Add(3))])

    async with open_system(on_dead_letter=hear) as system:
        rooms: Virtual[str, Message, None] = system.virtual(lambda key: Counter())
        ref = rooms["a"]
        if crashes:
            ref.tell(Boom())
        ref.tell(Add(1))
        if not crashes:
            ref.kill()
        await ref.join()
        assert rooms.active == 0
    assert taken == [False, False]
    assert lost == [*[Boom()] * crashes, Add(1), Add(2), Add(3)]


async def test_a_drain_does_not_override_an_earlier_kill() -> None:
    async with open_system() as system:
        counter = Counter()
        ref = await system.start(lambda: counter)
        ref.tell(Add(1))
        ref.stop(drain=False)
        ref.stop()
        await ref.join()
        assert counter.seen == []


async def test_an_actor_may_not_wait_for_its_own_end() -> None:
    async def join(actor: Counter) -> str:
        with pytest.raises(RuntimeError, match="itself"):
            await actor.ref.join()
        return "refused"

    async with open_system() as system:
        assert await system.spawn(Counter).ask(Call(join)) == "refused"


@pytest.mark.parametrize("order", ["stop", "stop now", "kill"])
async def test_an_order_before_the_start_is_obeyed(order: str) -> None:
    trace: list[str] = []
    async with open_system() as system:
        ref = system.spawn(lambda: Counter(trace))
        ref.tell(Add(1))
        if order == "kill":
            ref.kill()
        else:
            ref.stop(drain=order == "stop")
        await ref.join()
        assert trace == (["start", "stop stopped"] if order == "stop" else [])
        assert ref.stopped


async def test_nothing_new_starts_while_the_system_drains(autojump_clock: MockClock) -> None:
    refused: list[bool] = []

    class Late(Counter):
        async def on_stop(self, end: End) -> None:
            for start in (lambda: self.system.spawn(Counter), lambda: self.system.virtual(Counter)):
                with pytest.raises(SystemClosing):
                    start()
            refused.append(True)

    async with open_system() as system:
        system.spawn(Late)
    assert refused == [True]


async def test_a_name_is_free_again_right_after_the_stop() -> None:
    async with open_system() as system, open_system() as other:
        ref = system.spawn(Counter, "log")
        other.spawn(Counter, "log")
        with pytest.raises(ValueError, match="log"):
            system.spawn(Counter, "log")
        assert system.find("log", Counter) is ref
        ref.stop()
        await ref.join()
        assert system.find("log", Counter) is None
        again = await system.start(Counter, "log")
        with pytest.raises(TypeError):
            system.find("log", Probe[Message])
        assert again is not ref


async def test_watch_fires_once_dead_or_alive_and_not_on_restart(autojump_clock: MockClock) -> None:
    probe = Probe[Down]()
    async with open_system() as system:
        await system.start(lambda: probe)
        dead, restarting = await system.start(Counter), await system.start(Counter, restart=Restart())
        dead.kill()
        await dead.join()
        probe.watch(dead, as_=lambda down: down)
        probe.watch(restarting, as_=lambda down: down)
        restarting.tell(Boom())
        await settle(system)
        assert [down.ref for down in probe.drain()] == [dead]
        restarting.stop()
        await settle(system)
        assert [(down.ref, down.cause) for down in probe.drain()] == [(restarting, Cause.STOPPED)]


async def test_a_down_comes_after_on_stop_and_once_for_each_watch(autojump_clock: MockClock) -> None:
    trace: list[str] = []

    class Slow(Counter):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(1)
            trace.append("stopped")

    class Watching(Counter):
        async def receive(self, message: Message) -> None:
            if isinstance(message, Add):
                trace.append(f"down {message.n}")
            await super().receive(message)

    async with open_system() as system:
        ref, watcher = await system.start(Slow), await system.start(Watching)
        await watcher.ask(Call(lambda actor: actor.watch(ref, as_=lambda _: Add(1))))
        await watcher.ask(Call(lambda actor: actor.watch(ref, as_=lambda _: Add(2))))
        ref.stop()
        ref.stop()
        await settle(system)
        ref.kill()
        await settle(system)
    assert trace == ["stopped", "down 1", "down 2"]


async def test_a_watch_that_has_fired_keeps_nothing(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        watcher = Probe[Down]()
        await system.start(lambda: watcher)
        ref = await system.start(Counter)
        watcher.watch(ref, as_=lambda down: down)
        ref.stop()
        await ref.join()
        assert (await watcher.expect(Down)).ref is ref
        gone = weakref.ref(ref)
        del ref
        await settle(system)
        gc.collect()
        assert gone() is None


async def test_an_actor_has_no_address_before_its_start() -> None:
    class Early(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.after(1, Add(1), key="too early")

    with pytest.RaisesGroup(pytest.RaisesExc(ActorCrashed, check=lambda error: "on_start" in str(error.__cause__))):
        async with open_system() as system:
            system.spawn(Early)
            await trio.sleep_forever()


async def test_watchers_may_end_first_and_may_watch_each_other() -> None:
    a, b = Probe[Down](), Probe[Down]()
    async with open_system() as system:
        ref_a, ref_b = await system.start(lambda: a), await system.start(lambda: b)
        a.watch(ref_b, as_=lambda down: down)
        b.watch(ref_a, as_=lambda down: down)
        ref_a.kill()
        await settle(system)
        assert [down.ref for down in b.drain()] == [ref_a]
        ref_b.stop()
        await ref_b.join()
        assert a.drain() == []


async def test_a_group_drops_stopped_actors_and_keeps_restarted_ones() -> None:
    group = Group[Message]()
    async with open_system() as system:
        refs = [await system.start(Counter, restart=Restart()) for _ in range(3)]
        for ref in refs:
            group.add(ref)
        refs[0].kill()
        refs[1].tell(Boom())
        await settle(system)
        assert list(group) == refs[1:]
        assert group.publish(Add(1)) == 2
        assert not group.add(refs[0])

        async def leave(actor: Counter) -> int:
            group.discard(actor.ref)
            return group.publish(Add(2))

        assert await refs[1].ask(Call(leave)) == 1
        assert await refs[2].ask(Total()) == (1, 2)


async def test_a_cancel_scope_around_the_spawner_bounds_nothing(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        with trio.move_on_after(1):
            ref = system.spawn(Counter)
            await trio.sleep_forever()
        assert await ref.ask(Total()) == ()


@pytest.mark.parametrize("way", ["kill", "cancel"])
async def test_an_on_stop_that_runs_when_all_is_cancelled_still_gets_its_grace(
    autojump_clock: MockClock, way: str
) -> None:
    trace: list[str] = []

    class Slow(Counter):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(0.5)
            trace.append("saved")
            await trio.sleep(10)
            trace.append("never")

    with trio.CancelScope() as scope:
        async with open_system(grace=1) as system:
            ref = await system.start(Slow)
            ref.stop()
            await trio.sleep(0.1)
            if way == "kill":
                ref.kill()
            else:
                scope.cancel()
            await ref.join()
    assert trace == ["saved"]
    assert trio.current_time() == pytest.approx(1.1)


async def test_an_error_in_a_task_of_a_cancelled_on_stop_goes_no_further(autojump_clock: MockClock) -> None:
    async def stumble() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Broken

    class Stumbling(Counter):
        async def on_stop(self, end: End) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stumble)
                await trio.sleep_forever()

    async with (
        open_system(grace=1, limit=5) as system,
        open_supervisor(system, Strategy.ONE_FOR_ALL, Restart(jitter=0)) as supervisor,
    ):
        stumbling, other = supervisor.spawn(Stumbling), supervisor.spawn(Counter)
        other.tell(Boom())
        await trio.sleep(60)
        assert await stumbling.ask(Total()) == ()
        assert await other.ask(Total()) == ()
        other.stop()
        await other.join()


@pytest.mark.parametrize("order", ["stop", "kill"])
async def test_an_order_given_in_a_control_message_comes_before_the_next_message(
    autojump_clock: MockClock, order: str
) -> None:
    seen: list[int] = []
    async with open_system() as system:
        ref = system.spawn(lambda: Counter(seen=seen))
        for n in range(3):
            ref.tell(Add(n))
        ref.signal(Call(lambda actor: actor.ref.stop(drain=False) if order == "stop" else actor.ref.kill()))
        await ref.join()
    assert seen == []


@pytest.mark.parametrize("drain", [True, False])
async def test_signals_after_a_stop_are_handled_by_a_drain_or_become_dead_letters(
    autojump_clock: MockClock, drain: bool
) -> None:
    seen: list[int] = []
    lost: list[DeadLetter] = []
    async with open_system(on_dead_letter=lost.append) as system:
        ref = system.spawn(lambda: Counter(seen=seen))
        ref.signal(Call(lambda actor: actor.ref.stop(drain=drain)))
        ref.signal(Add(1))
        await ref.join()
    assert (seen, [letter.message for letter in lost]) == (([1], []) if drain else ([], [Add(1)]))


async def test_an_on_stop_that_raises_is_logged_with_the_crash_before_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Counter):
        async def on_stop(self, end: End) -> None:
            raise ZeroDivisionError

    async with open_system() as system:
        system.spawn(Bad, "a", restart=Restart(max=1, jitter=0)).tell(Boom())
        await settle(system)
    records = [record for record in caplog.records if record.message == "on_stop of a failed"]
    errors = [record.exc_info[1] for record in records if record.exc_info]
    assert [type(error) for error in errors] == [ZeroDivisionError] * 2
    assert [type(error and error.__context__) for error in errors] == [Broken, type(None)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_on_stop_that_ends_the_program_ends_it(error: type[BaseException]) -> None:
    class Fatal(Counter):
        async def on_stop(self, end: End) -> None:
            raise error

    with pytest.RaisesGroup(error):
        async with open_system() as system:
            system.spawn(Fatal).stop()
            await trio.sleep_forever()


@pytest.mark.parametrize("option", ["inbx", "parent", "nursery"])
async def test_an_invalid_option_is_refused(option: str) -> None:
    async with open_system() as system:
        with pytest.raises(TypeError, match=option):
            system.spawn(Counter, **{option: None})  # type: ignore[arg-type] # wrong on purpose
        assert system.tree() == ()
