"""The bound of an inbox, its overflow policies, its control lane and its order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actorchat.actors import (
    ActorStopped,
    Cause,
    Coalesce,
    DeadLetter,
    DeadLetterReason,
    Down,
    End,
    MailboxFull,
    Overflow,
    Ref,
    Stop,
)
from actorchat.testing import Probe, settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Call, Counter, Hold, Message, Total


async def held(ref: Ref[Message]) -> trio.Event:
    """Wait until the actor is inside a handler, with an empty inbox."""
    gate = trio.Event()
    ref.tell(Hold(gate))
    await trio.testing.wait_all_tasks_blocked()
    return gate


@pytest.mark.parametrize("parked", [True, False])
@pytest.mark.parametrize(
    ("overflow", "taken", "seen", "reason"),
    [
        (Overflow.REJECT, [True, True, True, False, False], (0, 1, 2), DeadLetterReason.REJECTED),
        (Overflow.DROP_NEW, [True, True, True, False, False], (0, 1, 2), DeadLetterReason.DROPPED_NEW),
        (Overflow.DROP_OLD, [True] * 5, (2, 3, 4), DeadLetterReason.DROPPED_OLD),
    ],
)
async def test_a_full_inbox_keeps_to_its_policy(
    overflow: Overflow, taken: list[bool], seen: tuple[int, ...], reason: DeadLetterReason, parked: bool
) -> None:
    async with open_system() as system:
        ref = await system.start(Counter, inbox=3, overflow=overflow)
        await settle(system)
        gate = trio.Event() if parked else await held(ref)
        assert [ref.tell(Add(n)) for n in range(5)] == taken
        assert ref.queued == 3
        gate.set()
        await settle(system)
        assert await ref.ask(Total()) == seen
        assert system.dead_letters.counts == {reason: 2}
        assert ref.queued == 0


async def test_an_inbox_of_one_drops_what_a_parked_actor_was_just_given() -> None:
    async with open_system() as system:
        ref = await system.start(Counter, inbox=1, overflow=Overflow.DROP_OLD)
        await settle(system)
        for n in range(3):
            ref.tell(Add(n))
        assert await ask_later(ref) == (2,)


async def ask_later(ref: Ref[Message]) -> tuple[int, ...]:
    await trio.testing.wait_all_tasks_blocked()
    return await ref.ask(Total())


async def test_dropping_the_oldest_request_fails_its_ask() -> None:
    async with open_system() as system, trio.open_nursery() as nursery:
        ref = await system.start(Counter, inbox=1, overflow=Overflow.DROP_OLD)
        gate = await held(ref)

        async def ask() -> None:
            with pytest.raises(MailboxFull):
                await ref.ask(Total())
            gate.set()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        ref.tell(Add(1))


async def test_no_message_overtakes_a_waiting_sender() -> None:
    seen: list[int] = []
    async with open_system() as system, trio.open_nursery() as nursery:
        ref = await system.start(lambda: Counter(seen=seen), inbox=1)
        first, second = await held(ref), trio.Event()
        assert ref.tell(Hold(second))
        nursery.start_soon(ref.send, Add(1))
        await trio.testing.wait_all_tasks_blocked()
        first.set()
        await trio.testing.wait_all_tasks_blocked()
        # The inbox has room while the second handler runs, but the first sender continues only when that handler ends.
        nursery.start_soon(ref.send, Add(2))
        await trio.testing.wait_all_tasks_blocked()
        second.set()
    assert seen == [1, 2]


async def test_a_slow_consumer_is_stopped_inside_its_handler_and_watchers_see_one_down() -> None:
    probe = Probe[Down]()
    async with open_system() as system:
        await system.start(lambda: probe)
        ref = await system.start(Counter, inbox=2, overflow=Overflow.STOP)
        probe.watch(ref, as_=lambda down: down)
        await held(ref)
        assert [ref.tell(Add(n)) for n in range(4)] == [True, True, False, False]
        await settle(system)
        assert ref.stopped
        assert [down.cause for down in probe.drain()] == [Cause.OVERFLOWED]
        assert system.dead_letters.counts == {
            DeadLetterReason.OVERFLOWED: 1,
            DeadLetterReason.STOPPED: 3,
            DeadLetterReason.CRASHED: 1,
        }


async def test_the_retry_hint_of_an_overflow_reaches_callers_and_watchers() -> None:
    class Slow(Counter):
        async def on_stop(self, end: End) -> None:
            ends.append(end)

    ends: list[End] = []
    probe = Probe[Down]()
    async with open_system() as system:
        await system.start(lambda: probe)
        ref = await system.start(Slow, inbox=1, overflow=Stop(retry_after=5.0))
        probe.watch(ref, as_=lambda down: down)
        await held(ref)
        ref.tell(Add(1))
        with pytest.raises(MailboxFull) as full:
            await ref.ask(Total())
        await settle(system)
        assert full.value.retry_after == 5.0
        assert ends == [End(Cause.OVERFLOWED, retry_after=5.0)]
        assert [(down.cause, down.retry_after) for down in probe.drain()] == [(Cause.OVERFLOWED, 5.0)]


async def test_coalescing_keeps_the_position_and_the_newest_value() -> None:
    def key(message: Message) -> int | None:
        return message.n % 10 if isinstance(message, Add) else None

    async with open_system() as system:
        ref = await system.start(Counter, inbox=2, overflow=Coalesce(key))
        gate = await held(ref)
        assert [ref.tell(Add(n)) for n in (1, 2, 11, 3, 12, 21)] == [True, True, True, False, True, True]
        gate.set()
        assert await ask_later(ref) == (21, 12)
        assert system.dead_letters.counts == {DeadLetterReason.COALESCED: 3, DeadLetterReason.REJECTED: 1}


async def test_a_full_inbox_neither_delays_nor_drops_control_messages(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        ref = await system.start(Counter, inbox=10, overflow=Overflow.DROP_OLD)
        gate = await held(ref)
        for n in range(100):
            ref.tell(Add(n))
            assert ref.signal(Add(1000 + n))
        assert ref.queued == 10
        gate.set()
        seen = await ask_later(ref)
        assert seen == (*range(1000, 1100), *range(90, 100))


async def test_a_signal_overtakes_messages_of_a_batch_that_has_begun() -> None:
    async with open_system() as system:
        ref = await system.start(Counter)
        gate = await held(ref)
        ref.tell(Call(lambda actor: actor.ref.signal(Add(10))))
        for n in range(3):
            ref.tell(Add(n))
        gate.set()
        assert await ask_later(ref) == (10, 0, 1, 2)


async def test_messages_of_one_sender_keep_their_order_over_many_passes() -> None:
    async with open_system() as system:
        ref = system.spawn(Counter)
        for n in range(1000):
            ref.tell(Add(n))
            if n % 37 == 0:
                await trio.lowlevel.checkpoint()
        assert await ref.ask(Total()) == tuple(range(1000))


class Batching(Counter):
    batch_max = 5

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def receive_batch(self, messages: Sequence[Message]) -> None:
        self.sizes.append(len(messages))
        for message in messages:
            await self.receive(message)


async def test_a_batch_has_all_waiting_messages_up_to_its_limit() -> None:
    async with open_system() as system:
        actor = Batching()
        ref = system.spawn(lambda: actor)
        for n in range(12):
            ref.tell(Add(n))
        assert await ref.ask(Total()) == tuple(range(12))
        assert actor.sizes == [5, 5, 3]


async def test_a_crashing_batch_fails_all_its_asks_and_loses_all_its_messages() -> None:
    lost: list[DeadLetter] = []
    failed: list[object] = []
    async with open_system(on_dead_letter=lost.append) as system, trio.open_nursery() as nursery:
        rooms = system.virtual(lambda key: Batching())  # type: ignore[var-annotated] # the key's type is not needed
        ref: Ref[Message] = rooms["a"]

        async def ask(request: Total | Call) -> None:
            try:
                await ref.ask(request)
            except Exception as error:
                failed.append(type(error).__name__)

        gate = await held(ref)
        ref.tell(Add(1))
        request = Total()
        for each in (request, request, Call(lambda _: 1 / 0), Total()):
            nursery.start_soon(ask, each)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert [letter.reason for letter in lost] == [DeadLetterReason.CRASHED] * 5
    # Replies before the crash have arrived.
    assert 1 <= len(failed) <= 4
    assert set(failed) == {"ActorCrashed"}


async def test_one_request_asked_twice_is_answered_twice_in_one_batch() -> None:
    actor = Batching()
    answers: list[tuple[int, ...]] = []
    async with open_system() as system, trio.open_nursery() as nursery:
        ref = system.spawn(lambda: actor)
        request = Total()

        async def ask() -> None:
            answers.append(await ref.ask(request))

        gate = await held(ref)
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (answers, actor.sizes) == ([(), ()], [1, 2])


async def test_an_overloaded_actor_does_not_starve_others() -> None:
    async with open_system() as system:
        busy, quiet = system.spawn(Counter, inbox=100_000), system.spawn(Counter)
        await settle(system)
        for n in range(50_000):
            busy.tell(Add(n))
        await quiet.ask(Total())
        assert busy.queued > 49_000
        busy.kill()


async def test_sending_to_a_stopped_address_raises_and_to_a_stopping_one_too() -> None:
    async with open_system() as system, trio.open_nursery() as nursery:
        ref = system.spawn(Counter, inbox=1)
        gate = await held(ref)
        ref.tell(Add(1))

        async def send() -> None:
            with pytest.raises(ActorStopped):
                await ref.send(Add(2))

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        ref.stop()
        gate.set()
        await ref.join()
        await send()
