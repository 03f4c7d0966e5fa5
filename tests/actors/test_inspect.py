"""Inspection of a system: the tree, events, stuck actors and instruments."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actorchat.actors import (
    Coalesce,
    DeadLetter,
    DeadLetterReason,
    End,
    Event,
    EventKind,
    Restart,
    Strategy,
    TooManyRestarts,
    Virtual,
    open_supervisor,
)
from actorchat.testing import settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Call, Counter, Hold, Message, Total


async def test_the_tree_shows_current_messages_and_whom_an_actor_waits_for(autojump_clock: MockClock) -> None:
    async with open_system() as system, open_supervisor(system, name="keeper") as supervisor:
        a, b = system.spawn(Counter, "a"), supervisor.spawn(Counter, "b")
        gate = trio.Event()
        b.tell(Hold(gate))
        a.tell(Call(lambda _: b.ask(Total())))
        a.tell(Add(1))
        await trio.sleep(1)
        system.tree()
        await trio.sleep(2)
        tree = {info.name: info for info in system.tree()}
        assert (tree["a"].message, tree["a"].waiting_on, tree["a"].queued) == ("Call", "b", 1)
        assert (tree["b"].message, tree["b"].parent, tree["b"].busy_for) == ("Hold", "keeper", 2)
        gate.set()
        await settle(system)
        assert {(info.message, info.busy_for, info.waiting_on) for info in system.tree()} == {(None, 0, None)}


async def test_the_tree_shows_age_restarts_signals_and_losses_by_reason(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        await trio.sleep(100)
        ref = system.spawn(Counter, "a", inbox=1, restart=Restart())
        await trio.sleep(3)
        ref.tell(Boom())
        await settle(system)
        ref.signal(Add(1))
        await settle(system)
        gate = trio.Event()
        ref.tell(Hold(gate))
        await trio.sleep(2)
        assert [ref.tell(Add(2)), ref.tell(Add(3))] == [True, False]
        (info,) = system.tree()
        assert (info.age, info.restarts, info.signals, info.bound) == (5, 1, 1, 1)
        assert info.drops == {DeadLetterReason.CRASHED: 1, DeadLetterReason.REJECTED: 1}
        gate.set()


async def test_a_virtual_actor_is_as_old_as_its_activation(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        rooms: Virtual[str, Message, None] = system.virtual(lambda key: Counter(), restart=Restart())
        ref = rooms["a"]
        ref.tell(Boom())
        await trio.sleep(7)
        (info,) = system.tree()
        assert (info.age, info.restarts) == (7, 1)
        ref.stop()
        await ref.join()
        ref.tell(Add(1))
        await trio.sleep(2)
        (info,) = system.tree()
        assert (info.age, info.restarts) == (2, 0)


async def test_the_tree_shows_the_state_of_an_actor(autojump_clock: MockClock) -> None:
    class Slow(Counter):
        async def on_start(self) -> None:
            await trio.sleep(1)

        async def on_stop(self, end: End) -> None:
            await trio.sleep(1)

    states: list[tuple[str, str | None]] = []
    async with open_system() as system:
        system.spawn(Slow, restart=Restart(backoff=1, jitter=0)).tell(Boom())
        await trio.sleep(0.5)
        for _ in range(5):
            states += [(info.state, info.message) for info in system.tree()]
            await trio.sleep(1)
    assert [state for state, _ in states] == ["starting", "leaving", "backoff", "starting", "running"]
    assert {message for _, message in states} == {None}


async def test_an_ask_that_never_began_counts_as_dropped(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = await system.start(Counter)
        gate = trio.Event()
        ref.tell(Hold(gate))
        with trio.move_on_after(1):
            await ref.ask(Total())
        gate.set()
        await settle(system)
        (info,) = system.tree()
        assert (info.begun, info.dropped, info.queued) == (1, 1, 0)


async def test_an_actor_that_ends_during_an_inspection_is_left_out(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        refs = [await system.start(Counter, name) for name in "abc"]
        walk = system.walk()
        assert next(walk).name == "a"
        refs[1].stop()
        await refs[1].join()
        assert [info.name for info in walk] == ["c"]


async def test_events_report_starts_restarts_and_ends(autojump_clock: MockClock) -> None:
    seen: list[Event] = []
    async with open_system() as system, trio.open_nursery() as nursery:
        take = seen.append
        with system.events() as events:

            async def watch() -> None:
                async for event in events:
                    take(event)

            nursery.start_soon(watch)
            ref = await system.start(Counter, "a", restart=Restart())
            ref.tell(Boom())
            await settle(system)
            ref.stop()
            await ref.join()
            await settle(system)
        nursery.cancel_scope.cancel()
    assert [event.kind for event in seen] == [
        EventKind.STARTED,
        EventKind.RESTARTING,
        EventKind.STARTED,
        EventKind.ENDED,
    ]


@pytest.mark.parametrize("strategy", list(Strategy))
async def test_events_report_the_restarts_of_a_supervisor(autojump_clock: MockClock, strategy: Strategy) -> None:
    async with open_system() as system:
        with system.events() as events:
            with pytest.RaisesGroup(TooManyRestarts):
                async with open_supervisor(system, strategy, Restart(max=1, jitter=0)) as supervisor:
                    ref = supervisor.spawn(Counter, "a")
                    for _ in range(2):
                        ref.tell(Boom())
                        await settle(system)
                    await trio.sleep_forever()
            seen: list[EventKind] = []
            async for event in events:
                seen.append(event.kind)
                if event.kind is EventKind.ENDED:
                    break
    assert seen == [EventKind.STARTED, EventKind.RESTARTING, EventKind.STARTED, EventKind.GAVE_UP, EventKind.ENDED]


async def test_a_stuck_actor_is_reported_once_with_where_it_waits(autojump_clock: MockClock) -> None:
    async with open_system(stuck_after=10) as system:
        with system.events() as events:
            ref = system.spawn(Counter, "a")
            ref.tell(Hold(trio.Event()))
            await trio.sleep(60)
            ref.kill()
            stuck: list[Event] = []
            async for event in events:
                if event.kind is EventKind.ENDED:
                    break
                if event.kind is EventKind.STUCK:
                    stuck.append(event)
    assert len(stuck) == 1
    assert "Counter.receive" in stuck[0].detail


async def nap(_: Counter) -> None:
    await trio.sleep(5)


class Book:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def enqueue(self, name: str, message: object) -> None:
        self.lines.append(("enqueue", type(message).__name__))

    def begin(self, name: str, message: object) -> None:
        self.lines.append(("begin", type(message).__name__))

    def end(self, name: str, message: object, error: BaseException | None) -> None:
        self.lines.append(("end", type(error or message).__name__))


async def test_an_instrument_sees_every_message_and_changes_nothing(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_system(instrument=book) as system:
        ref = await system.start(Counter, restart=Restart(), inbox=3)
        ref.tell(Add(1))
        ref.tell(Boom())
        await settle(system)
        assert await ref.ask(Total()) == ()
    names = ["Add", "Boom", "Total"]
    assert [name for step, name in book.lines if step == "enqueue"] == names
    assert [name for step, name in book.lines if step == "begin"] == names
    assert [name for step, name in book.lines if step == "end"] == ["Add", "Broken", "Total"]


async def test_an_instrument_sees_what_a_waiting_sender_put_in() -> None:
    book = Book()
    async with open_system(instrument=book) as system, trio.open_nursery() as nursery:
        ref, gate = await system.start(Counter, inbox=1), trio.Event()
        ref.tell(Hold(gate))
        await trio.testing.wait_all_tasks_blocked()
        ref.tell(Add(1))
        nursery.start_soon(ref.send, Add(2))
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert [name for step, name in book.lines if step == "enqueue"] == ["Hold", "Add", "Add"]


async def test_an_instrument_sees_a_coalesced_message_put_in() -> None:
    book = Book()
    async with open_system(instrument=book) as system:
        ref = await system.start(Counter, overflow=Coalesce(lambda _: "key"))
        ref.tell(Add(1))
        await settle(system)
    assert book.lines == [("enqueue", "Add"), ("begin", "Add"), ("end", "Add")]


async def test_an_instrument_gets_no_end_of_a_message_that_never_began(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_system(instrument=book) as system:
        ref = await system.start(Counter, restart=Restart())
        ref.signal(Boom())
        await settle(system)
    assert book.lines == []


async def test_settling_waits_for_handlers_that_sleep_and_for_pipes(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = system.spawn(Counter)
        ref.tell(Call(nap))
        await settle(system)
        assert trio.current_time() == 5
        ref.tell(Call(lambda actor: actor.pipe(partial(trio.sleep, 5), ok=lambda _: Add(1))))
        await settle(system)
        assert trio.current_time() == 10
        assert await ref.ask(Total()) == (1,)


async def test_events_report_passivations_and_the_number_of_missed_events(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        with system.events(bound=2) as events:
            rooms: Virtual[str, Message, None] = system.virtual(lambda key: Counter(), idle=10)
            rooms["a"].tell(Add(1))
            await trio.sleep(30)
            rooms["a"].tell(Add(2))
            await settle(system)
            seen: list[EventKind] = []
            async for event in events:
                seen.append(event.kind)
                if len(seen) == 2:
                    break
        # Outside the block there is no observer.
        rooms["a"].tell(Boom())
        await settle(system)
    assert (seen, events.missed) == ([EventKind.STARTED, EventKind.PASSIVATED], 1)


async def test_an_error_in_a_dead_letter_callback_is_logged_and_goes_no_further(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def hear(letter: DeadLetter) -> None:
        raise ZeroDivisionError

    async with open_system(on_dead_letter=hear) as system:
        ref = system.spawn(Counter, inbox=1)
        assert [ref.tell(Add(1)), ref.tell(Add(2))] == [True, False]
        await settle(system)
        assert await ref.ask(Total()) == (1,)
    assert [record.message for record in caplog.records] == ["the observer of dead letters failed"]
