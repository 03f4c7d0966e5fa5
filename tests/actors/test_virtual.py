"""Virtual actors are activated by a message, stop when idle, lose nothing, and exist once for each key."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actorchat.actors import (
    Actor,
    ActorStopped,
    ActorSystem,
    AskTimeout,
    Cause,
    Coalesce,
    DeadLetter,
    DeadLetterReason,
    Down,
    End,
    Group,
    Ref,
    Restart,
    Virtual,
)
from actorchat.testing import Probe, crash, settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Broken, Call, Counter, Hold, Message, Total


class Anchor:
    def __init__(self, key: str) -> None:
        self.key = key
        self.seen: list[int] = []
        self.trace: list[str] = []


class Room(Counter):
    """Counts how many actors of one key exist at the same time."""

    def __init__(self, key: str, anchor: Anchor) -> None:
        super().__init__(anchor.trace, anchor.seen)
        self.held = False

    def can_passivate(self) -> bool:
        return not self.held


def rooms_of(system: ActorSystem, restart: Restart | None = None) -> Virtual[str, Message, Anchor]:
    return system.virtual(Room, anchor=Anchor, idle=10, restart=restart)


async def test_actors_have_the_context_of_their_family_not_of_who_activates_them(autojump_clock: MockClock) -> None:
    request: ContextVar[str] = ContextVar("request", default="")
    seen: list[str] = []

    class Noting(Actor[str]):
        def __init__(self, key: str) -> None:
            pass

        async def receive(self, message: str) -> None:
            seen.append(request.get())

    request.set("family")
    async with open_system() as system:
        family: Virtual[str, str, None] = system.virtual(Noting, idle=10)
        for name in ("one", "two"):
            request.set(name)
            family["a"].tell("hello")
            await settle(system)
            # Passivated in between, so that the second message activates it again.
            await trio.sleep(100)
    assert seen == ["family", "family"]


async def test_nothing_runs_until_the_first_message(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref = rooms["a"]
        await trio.sleep(1)
        assert rooms.active == 0
        assert system.tree() == ()
        assert ref.tell(Add(1))
        assert rooms.active == 1
        await settle(system)
        assert rooms.anchor("a").seen == [1]
        assert rooms["a"] is ref


async def test_two_first_messages_in_one_pass_activate_once(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref = rooms["a"]
        assert ref.signal(Add(1))
        assert rooms["a"].tell(Add(2))
        assert await ref.ask(Total()) == (1, 2)
        assert rooms.anchor("a").trace == ["start"]


async def test_an_idle_actor_goes_between_once_and_twice_idle(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref = rooms["a"]
        for _ in range(5):
            ref.tell(Add(1))
            await trio.sleep(9)
            assert rooms.active == 1
        await trio.sleep(12)
        assert rooms.active == 0
        assert rooms.anchor("a").trace == ["start", "stop passivated"]


async def test_an_actor_that_refuses_stays_and_is_asked_again(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref = rooms["a"]
        await ref.ask(Call(lambda room: setattr(room, "held", True)))
        await trio.sleep(100)
        assert rooms.active == 1
        await ref.ask(Call(lambda room: setattr(room, "held", False)))
        await trio.sleep(21)
        assert rooms.active == 0


async def test_an_open_pipe_or_deferred_reply_prevents_passivation(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref = rooms["a"]
        await ref.ask(Call(lambda room: room.pipe(partial(trio.sleep, 50), ok=lambda _: Add(7))))
        await trio.sleep(49)
        assert rooms.active == 1
        await trio.sleep(40)
        assert rooms.active == 0
        assert rooms.anchor("a").seen == [7]


async def test_a_signal_in_the_step_of_an_order_to_passivate_is_handled(autojump_clock: MockClock) -> None:
    async def signal_at(moment: float, ref: Ref[Message]) -> None:
        await trio.sleep_until(moment)
        ref.signal(Add(2))

    async with open_system() as system:
        rooms = rooms_of(system)
        refs = [rooms[str(number)] for number in range(12)]
        second_look = trio.current_time() + 20
        async with trio.open_nursery() as nursery:
            for ref in refs:
                ref.tell(Add(1))
                nursery.start_soon(signal_at, second_look, ref)
        await trio.testing.wait_all_tasks_blocked()
        # Trio runs the idle check and the signal in a random order at that moment.
        assert [rooms.anchor(ref.name).seen for ref in refs] == [[1, 2]] * 12


async def test_a_stop_in_a_control_message_is_obeyed() -> None:
    async with open_system() as system:
        ref = await system.start(Counter)
        ref.signal(Call(lambda actor: actor.ref.stop(drain=False)))
        with trio.fail_after(5):
            await ref.join()


async def test_a_message_during_on_stop_waits_and_activates_the_next(autojump_clock: MockClock) -> None:
    class Slow(Room):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(1)
            await super().on_stop(end)

    async with open_system() as system:
        rooms = system.virtual(Slow, anchor=Anchor, idle=10)
        ref = rooms["a"]
        ref.tell(Add(1))
        await trio.sleep(20.5)
        assert ref.tell(Add(2))
        assert ref.signal(Add(3))
        assert await ref.ask(Total()) == (1, 3, 2)
        assert rooms.anchor("a").trace == ["start", "stop passivated", "start"]


@pytest.mark.parametrize("step", range(16))
async def test_a_message_at_any_step_of_passivation_is_handled_once(step: int, mock_clock: MockClock) -> None:
    """Wait for `step` passes after the moment of the idle check."""

    class Stepping(Room):
        async def on_stop(self, end: End) -> None:
            for _ in range(4):
                await trio.lowlevel.checkpoint()
            await super().on_stop(end)

    async with open_system() as system:
        rooms = system.virtual(Stepping, anchor=Anchor, idle=10)
        ref, anchor = rooms["a"], rooms.anchor("a")
        for n in range(0, 30, 3):
            ref.tell(Add(n))
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(10)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(10)
            for _ in range(step):
                await trio.lowlevel.checkpoint()
            assert ref.tell(Add(n + 1))
            assert ref.signal(Add(n + 2))
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(anchor.seen) == list(range(n + 3))
            assert rooms.active == 1
    lives = anchor.trace
    assert lives[::2] == ["start"] * (len(lives) // 2), "never two at once"
    assert set(lives[1:-1:2]) <= {"stop passivated"}
    assert lives[-1] == "stop stopped"


async def test_passivation_is_met_before_at_and_after_its_decision(mock_clock: MockClock) -> None:
    """The steps of the test above cover both sides of the decision."""
    async with open_system() as system:
        rooms = system.virtual(Room, anchor=Anchor, idle=10)
        ref = rooms["a"]
        ref.tell(Add(1))
        for _ in range(2):
            await trio.testing.wait_all_tasks_blocked()
            assert rooms.active == 1
            mock_clock.jump(10)
        passes = 0
        while rooms.active:
            await trio.lowlevel.checkpoint()
            passes += 1
        assert 1 < passes < 12


async def test_a_held_ref_works_across_incarnations_and_keeps_its_anchor(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref, anchor = rooms["a"], rooms.anchor("a")
        for n in range(3):
            assert ref.tell(Add(n))
            await trio.sleep(30)
            assert rooms.active == 0
        assert rooms.anchor("a") is anchor
        assert anchor.seen == [0, 1, 2]


async def test_an_address_nobody_holds_is_gone_with_its_anchor(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        refs = [rooms[str(n)] for n in range(200)]
        anchors = weakref.WeakSet([rooms.anchor(str(n)) for n in range(200)])
        for ref in refs:
            ref.tell(Add(1))
        del ref, refs
        await settle(system)
        assert len(anchors) == rooms.active == 200
        await trio.sleep(21)
        gc.collect()
        assert len(anchors) == rooms.active == 0


async def test_one_task_of_a_family_looks_for_idle_actors(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        before = trio.lowlevel.current_statistics().tasks_living
        for n in range(10):
            rooms[str(n)].tell(Add(n))
        await settle(system)
        assert trio.lowlevel.current_statistics().tasks_living == before + 10 + 1


async def test_an_error_in_on_give_up_is_logged_and_goes_no_further(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def give_up(key: str, anchor: None, error: BaseException) -> None:
        raise ZeroDivisionError

    async with open_system() as system:
        rooms: Virtual[str, Message, None] = system.virtual(lambda key: Counter(), on_give_up=give_up)
        rooms["a"].tell(Boom())
        await settle(system)
        assert await rooms["a"].ask(Total()) == ()
    assert [record.message for record in caplog.records] == ["a crashed", "on_give_up for a failed"]


async def test_an_actor_that_is_given_up_can_be_activated_again(autojump_clock: MockClock) -> None:
    lost: list[DeadLetter] = []
    given_up: list[tuple[str, Anchor, BaseException]] = []
    async with open_system(on_dead_letter=lost.append) as system:
        rooms = system.virtual(
            Room,
            anchor=Anchor,
            restart=Restart(max=1, backoff=1, jitter=0),
            on_give_up=lambda key, anchor, error: given_up.append((key, anchor, error)),
        )
        ref, other = rooms["a"], rooms["b"]
        for message in (Boom(), Boom(), Add(1)):
            ref.tell(message)
        other.tell(Add(5))
        await trio.sleep(5)
        assert [(key, type(error)) for key, _, error in given_up] == [("a", Broken)]
        assert given_up[0][1] is rooms.anchor("a")
        assert [letter.reason for letter in lost] == [
            DeadLetterReason.CRASHED,
            DeadLetterReason.CRASHED,
            DeadLetterReason.STOPPED,
        ]
        assert ref.tell(Add(2))
        assert await ref.ask(Total()) == (2,)
        assert await other.ask(Total()) == (5,)


async def test_without_restart_a_crash_ends_the_incarnation_only(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref = rooms["a"]
        ref.tell(Boom())
        await settle(system)
        assert rooms.active == 0
        assert await ref.ask(Total()) == ()


async def test_a_failing_activation_fails_its_asks_and_later_ones_try_again(autojump_clock: MockClock) -> None:
    broken = True

    class Failing(Room):
        async def on_start(self) -> None:
            if broken:
                raise Broken

    async with open_system() as system:
        rooms = system.virtual(Failing, anchor=Anchor, restart=Restart(max=2, backoff=1, jitter=0))
        ref = rooms["a"]
        with pytest.raises(Exception, match="crashed"):
            await ref.ask(Total())
        given_up = trio.current_time()
        broken = False
        assert await ref.ask(Total()) == ()
        # Not at once: a failing activation must not be repeated for every message.
        assert trio.current_time() - given_up == pytest.approx(4)


async def test_a_batch_crash_keeps_signals_and_the_next_incarnation_gets_them(autojump_clock: MockClock) -> None:
    with crash(Room, on=Add, nth=2):
        async with open_system() as system:
            rooms = rooms_of(system, Restart(backoff=1, jitter=0))
            ref = rooms["a"]
            for n in range(4):
                ref.signal(Add(n))
            await settle(system)
            assert rooms.anchor("a").seen == [0, 2, 3]


async def test_a_stopped_incarnation_drains_and_the_address_lives_on(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref = rooms["a"]
        ref.tell(Add(1))
        ref.stop()
        assert ref.tell(Add(2))
        await ref.join()
        assert rooms.anchor("a").seen[:1] == [1]
        assert await ref.ask(Total()) == (1, 2)
        assert rooms.anchor("a").trace == ["start", "stop stopped", "start"]


async def test_a_stop_ends_an_incarnation_under_constant_load() -> None:
    async def talk(ref: Ref[Message]) -> None:
        while True:
            ref.tell(Add(1))
            await trio.lowlevel.checkpoint()

    async with open_system() as system, trio.open_nursery() as nursery:
        rooms = rooms_of(system)
        ref = rooms["a"]
        nursery.start_soon(talk, ref)
        await ref.ask(Total())
        with trio.fail_after(5):
            ref.stop()
            await ref.join()
        assert rooms.anchor("a").trace[:2] == ["start", "stop stopped"]
        assert await ref.ask(Total())
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("waiting", [0, 2])
async def test_a_crash_does_not_make_a_stop_forgotten(autojump_clock: MockClock, waiting: int) -> None:
    async with open_system() as system:
        rooms = rooms_of(system, Restart(backoff=5, jitter=0))
        ref = rooms["a"]
        ref.tell(Boom())
        for n in range(waiting):
            ref.tell(Add(n))
        ref.stop()
        await ref.join()
        assert rooms.active == 0
        assert rooms.anchor("a").seen == list(range(waiting))
        assert rooms.anchor("a").trace[-1] == "stop stopped"


async def test_a_cancelled_system_fails_the_ask_of_an_actor_in_backoff() -> None:
    leaving, gate = trio.Event(), trio.Event()

    class Slow(Counter):
        async def on_stop(self, end: End) -> None:
            leaving.set()
            await gate.wait()

    async def ask(ref: Ref[Message]) -> None:
        with pytest.raises(ActorStopped):
            await ref.ask(Total())

    with trio.fail_after(5):
        async with trio.open_nursery() as outside:
            with trio.CancelScope() as scope:
                async with open_system() as system:
                    ref = system.virtual(lambda key, anchor: Slow(), anchor=Anchor, idle=0.01)["a"]
                    ref.tell(Add(1))
                    await leaving.wait()
                    outside.start_soon(ask, ref)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
                    gate.set()
                    await trio.sleep_forever()


async def test_the_backoff_after_a_give_up_is_kept_without_a_ref(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # Captured log records hold tracebacks, which hold addresses.
    caplog.set_level(logging.CRITICAL + 1, "actorchat.actors")
    lives: list[float] = []

    class Failing(Counter):
        async def on_start(self) -> None:
            lives.append(trio.current_time())
            raise Broken

    async with open_system() as system:
        rooms = system.virtual(
            lambda key, anchor: Failing(), anchor=Anchor, restart=Restart(max=0, within=60, backoff=10, jitter=0)
        )
        anchors = weakref.WeakSet([rooms.anchor("a")])
        for _ in range(50):
            rooms["a"].tell(Add(1))
            gc.collect()
            await trio.sleep(1)
        # 10 seconds, and 20 after the second crash.
        assert lives == [0, 10, 30]
        await trio.sleep(200)
        gc.collect()
        assert not anchors


async def test_a_killed_incarnation_loses_what_waits_and_the_address_lives_on(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref = rooms["a"]
        ref.tell(Hold(trio.Event()))
        ref.tell(Add(1))
        await trio.sleep(1)
        ref.kill()
        assert not ref.tell(Add(2))
        await ref.join()
        assert rooms.anchor("a").trace == ["start", "stop killed"]
        assert await ref.ask(Total()) == ()


async def test_a_watch_reports_the_end_but_no_passivation(autojump_clock: MockClock) -> None:
    probe = Probe[object]()
    async with open_system() as system:
        watcher = await system.start(lambda: probe)
        rooms = rooms_of(system)
        ref = rooms["a"]
        probe.watch(ref, as_=lambda down: down)
        ref.tell(Add(1))
        await trio.sleep(30)
        assert rooms.active == 0
        assert probe.drain() == []
        ref.tell(Boom())
        assert (await probe.expect(Down)).cause is Cause.CRASHED
        assert not watcher.stopped


async def test_a_watch_reports_a_stop_during_passivation(autojump_clock: MockClock) -> None:
    class Slow(Room):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(1)

    probe = Probe[Down]()
    async with open_system() as system:
        await system.start(lambda: probe)
        ref = system.virtual(Slow, anchor=Anchor, idle=10)["a"]
        probe.watch(ref, as_=lambda down: down)
        ref.tell(Add(1))
        await trio.sleep(20.5)
        ref.stop()
        assert (await probe.expect(Down, within=2)).cause is Cause.STOPPED


async def test_a_closing_system_drains_rooms_and_takes_no_more(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms = rooms_of(system)
        ref, dormant, anchor = rooms["a"], rooms["b"], rooms.anchor("a")
        for n in range(3):
            ref.tell(Add(n))
    assert anchor.seen == [0, 1, 2]
    assert anchor.trace == ["start", "stop stopped"]
    assert not ref.tell(Add(4))
    assert not dormant.signal(Add(4))
    with pytest.raises(ActorStopped):
        await dormant.ask(Total())


async def test_giving_up_fails_senders_that_wait_for_space(autojump_clock: MockClock) -> None:
    async with open_system() as system, trio.open_nursery() as nursery:
        ref = system.virtual(Room, anchor=Anchor, inbox=1)["a"]
        gate = trio.Event()
        ref.tell(Hold(gate))
        await trio.testing.wait_all_tasks_blocked()
        ref.tell(Boom())

        async def send() -> None:
            with pytest.raises(ActorStopped):
                await ref.send(Add(1))

        nursery.start_soon(send)
        await trio.sleep(1)
        gate.set()


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_closing_system_drains_messages_that_wait_during_passivation(
    autojump_clock: MockClock, crashes: bool
) -> None:
    class Slow(Room):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(1)

    async with open_system() as system:
        rooms = system.virtual(Slow, anchor=Anchor, idle=10, restart=Restart(jitter=0))
        ref, anchor = rooms["a"], rooms.anchor("a")
        ref.tell(Add(1))
        await trio.sleep(20.5)
        if crashes:
            ref.tell(Boom())
        assert ref.tell(Add(2))
        assert ref.signal(Add(3))
    assert anchor.seen == [1, 3, 2]
    assert rooms.active == 0


async def test_stopping_during_passivation_turns_waiting_messages_into_dead_letters(autojump_clock: MockClock) -> None:
    class Slow(Room):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(1)

    lost: list[DeadLetter] = []
    async with open_system(on_dead_letter=lost.append) as system:
        ref = system.virtual(Slow, anchor=Anchor, idle=10)["a"]
        ref.tell(Add(1))
        await trio.sleep(20.5)
        ref.tell(Add(2))
        ref.stop(drain=False)
        await ref.join()
        assert [(letter.message, letter.reason) for letter in lost] == [(Add(2), DeadLetterReason.STOPPED)]


async def test_an_abandoned_deferred_reply_does_not_prevent_passivation(autojump_clock: MockClock) -> None:
    class Owing(Counter):
        async def receive(self, message: Message) -> None:
            if isinstance(message, Total):
                self.defer(message)

    async with open_system() as system:
        rooms: Virtual[str, Message, None] = system.virtual(lambda key: Owing(), idle=10)
        with pytest.raises(AskTimeout):
            await rooms["a"].ask(Total(), timeout=1)
        await trio.sleep(30)
        assert rooms.active == 0


async def test_timers_do_not_prevent_passivation(autojump_clock: MockClock) -> None:
    class Ticking(Counter):
        async def on_start(self) -> None:
            self.every(1, Add(1), key="tick")

    async with open_system() as system:
        rooms: Virtual[str, Message, None] = system.virtual(lambda key: Ticking(), idle=10.5)
        rooms["a"].tell(Add(0))
        await trio.sleep(40)
        assert rooms.active == 0


async def test_messages_before_a_stop_are_handled_however_many_were_replaced(
    autojump_clock: MockClock,
) -> None:
    lives: list[list[int]] = []

    class Slow(Counter):
        async def on_start(self) -> None:
            lives.append(self.seen)

        async def receive(self, message: Message) -> None:
            await super().receive(message)
            await trio.sleep(1)

    by_tens = Coalesce[Message](lambda message: message.n // 10 if isinstance(message, Add) else None)
    async with open_system() as system:
        rooms: Virtual[str, Message, None] = system.virtual(lambda key: Slow(), overflow=by_tens)
        ref = rooms["a"]
        ref.tell(Add(0))
        await trio.sleep(0.5)
        for n in (10, 20, 30):
            ref.tell(Add(n))
        ref.stop()
        for n in (31, 32, 33):
            ref.tell(Add(n))
        await ref.join()
        assert lives[0] == [0, 10, 20, 33]


async def test_a_batch_ends_where_the_stop_was(autojump_clock: MockClock) -> None:
    batches: list[tuple[Actor[int], list[int]]] = []

    class Batching(Actor[int]):
        async def receive_batch(self, messages: Sequence[int]) -> None:
            batches.append((self, list(messages)))
            await trio.sleep(1)

    async with open_system() as system:
        rooms: Virtual[str, int, None] = system.virtual(lambda key: Batching())
        ref = rooms["a"]
        ref.tell(0)
        await trio.sleep(0.5)
        ref.tell(1)
        ref.tell(2)
        ref.stop()
        ref.tell(3)
        await trio.sleep(10)
        assert [numbers for _, numbers in batches] == [[0], [1, 2], [3]]
        assert batches[0][0] is batches[1][0] is not batches[2][0]


async def test_a_second_stop_while_the_first_is_obeyed_ends_the_next_incarnation(autojump_clock: MockClock) -> None:
    class Slow(Room):
        async def on_stop(self, end: End) -> None:
            await trio.sleep(1)
            await super().on_stop(end)

    async with open_system() as system:
        rooms = system.virtual(Slow, anchor=Anchor)
        ref = rooms["a"]
        ref.tell(Add(1))
        await trio.sleep(0.1)
        ref.stop()
        await trio.sleep(0.1)
        ref.tell(Add(2))
        ref.stop()
        await trio.sleep(10)
        assert rooms.anchor("a").seen == [1, 2]
        assert rooms.active == 0


async def test_after_a_give_up_the_restart_budget_is_full_again(autojump_clock: MockClock) -> None:
    given_up: list[int] = []
    lives = 0

    def make(key: str, anchor: None) -> Counter:
        nonlocal lives
        lives += 1
        return Counter()

    async with open_system() as system:
        rooms = system.virtual(
            make,
            anchor=lambda key: None,
            restart=Restart(max=2, jitter=0),
            on_give_up=lambda key, anchor, error: given_up.append(lives),
        )
        ref = rooms["a"]
        for _ in range(9):
            ref.tell(Boom())
            await trio.sleep(0.1)
        assert given_up == [3, 6, 9]


async def test_when_the_system_has_closed_its_virtual_actors_have_stopped(autojump_clock: MockClock) -> None:
    stopped: list[bool] = []
    async with open_system() as system:
        ref = rooms_of(system)["a"]
        ref.tell(Add(1))
        await trio.sleep(1)
        stopped.append(ref.stopped)
    stopped.append(ref.stopped)
    assert stopped == [False, True]
    assert not Group[Message]().add(ref)


async def test_an_inbox_without_capacity_is_refused_when_the_family_is_made() -> None:
    async with open_system() as system:
        with pytest.raises(ValueError, match="at least one message"):
            system.virtual(Room, anchor=Anchor, inbox=0)


async def test_an_anchor_may_look_up_its_own_address(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms: Virtual[str, Message, Ref[Message]] = system.virtual(
            lambda key, anchor: Counter(), anchor=lambda key: rooms[key]
        )
        ref = rooms["a"]
        assert rooms.anchor("a") is ref


async def test_an_anchor_that_can_not_be_made_leaves_no_address(autojump_clock: MockClock) -> None:
    fails = True

    def make(key: str) -> Anchor:
        if fails:
            raise Broken
        return Anchor(key)

    async with open_system() as system:
        rooms = system.virtual(Room, anchor=make)
        try:
            rooms["a"]
        except Broken:
            fails = False
            assert isinstance(rooms.anchor("a"), Anchor)
        assert not fails
