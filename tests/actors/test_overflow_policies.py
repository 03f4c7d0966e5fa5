"""Each overflow policy of an inbox, and the control lane under overload."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actorchat.actors import Coalesce, DeadLetter, DeadLetterReason, Down, Overflow, Ref, Restart
from actorchat.testing import Probe, settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Broken, Call, Counter, Hold, Message, Total

BOUND = 3
SLOW = Restart(backoff=10, jitter=0)
BY_NUMBER = Coalesce[Message](lambda message: message.n if isinstance(message, Add) else None)


@attrs.frozen
class Expected:
    """For one message over the bound: whether it is accepted, what is handled, and what is lost and why."""

    overflow: Overflow | Coalesce[Message]
    taken: bool
    seen: tuple[int, ...]
    lost: tuple[tuple[int, DeadLetterReason], ...]


OVER = [
    Expected(Overflow.REJECT, False, (0, 1, 2), ((3, DeadLetterReason.REJECTED),)),
    Expected(Overflow.DROP_NEW, False, (0, 1, 2), ((3, DeadLetterReason.DROPPED_NEW),)),
    Expected(Overflow.DROP_OLD, True, (1, 2, 3), ((0, DeadLetterReason.DROPPED_OLD),)),
    Expected(BY_NUMBER, False, (0, 1, 2), ((3, DeadLetterReason.REJECTED),)),
    Expected(
        Overflow.STOP,
        False,
        (),
        (
            (0, DeadLetterReason.STOPPED),
            (1, DeadLetterReason.STOPPED),
            (2, DeadLetterReason.STOPPED),
            (3, DeadLetterReason.OVERFLOWED),
        ),
    ),
]


def adds(letters: list[DeadLetter]) -> tuple[tuple[int, DeadLetterReason], ...]:
    """Sorted by number, because a stop reports its dead letters in no promised order."""
    lost = [(letter.message.n, letter.reason) for letter in letters if isinstance(letter.message, Add)]
    return tuple(sorted(lost, key=lambda each: each[0]))


@pytest.mark.parametrize("busy_with", [Hold, Boom], ids=["in a handler", "in backoff"])
@pytest.mark.parametrize("count", [BOUND - 1, BOUND, BOUND + 1])
@pytest.mark.parametrize("expected", OVER, ids=lambda expected: str(expected.overflow)[:15])
async def test_the_overflow_policy_applies_to_the_first_message_over_the_bound(
    autojump_clock: MockClock, expected: Expected, count: int, busy_with: type[Hold] | type[Boom]
) -> None:
    seen: list[int] = []
    lost: list[DeadLetter] = []
    async with open_system(on_dead_letter=lost.append) as system:
        ref = await system.start(lambda: Counter(seen=seen), inbox=BOUND, overflow=expected.overflow, restart=SLOW)
        gate = trio.Event()
        ref.tell(Hold(gate) if busy_with is Hold else Boom())
        await trio.sleep(1)
        over = count > BOUND
        taken = [ref.tell(Add(n)) for n in range(count)]
        assert taken == [True] * min(count, BOUND) + [expected.taken] * over
        await trio.sleep(1)
        assert ref.queued == (0 if ref.stopped else min(count, BOUND))
        gate.set()
        await settle(system)
    assert tuple(seen) == (expected.seen if over else tuple(range(count)))
    assert adds(lost) == (expected.lost if over else ())
    counts = {reason: sum(letter.reason is reason for letter in lost) for reason in {each.reason for each in lost}}
    assert system.dead_letters.counts == counts


@pytest.mark.parametrize("busy_with", [Hold, Boom], ids=["in a handler", "in backoff"])
async def test_a_coalesced_message_does_not_count_towards_the_bound(
    autojump_clock: MockClock, busy_with: type[Hold] | type[Boom]
) -> None:
    key = Coalesce[Message](lambda message: message.n % 10 if isinstance(message, Add) else None)
    seen: list[int] = []
    async with open_system() as system:
        ref = await system.start(lambda: Counter(seen=seen), inbox=BOUND, overflow=key, restart=SLOW)
        gate = trio.Event()
        ref.tell(Hold(gate) if busy_with is Hold else Boom())
        await trio.sleep(1)
        assert [ref.tell(Add(n)) for n in (1, 2, 3, 4, 13, 11)] == [True, True, True, False, True, True]
        assert ref.queued == BOUND
        gate.set()
        await settle(system)
    assert seen == [11, 2, 13]


@contextmanager
def flooding(nursery: trio.Nursery, ref: Ref[Message]) -> Iterator[None]:
    """Inside the block, fill the inbox of `ref` in every pass of the scheduler."""
    scope = trio.CancelScope()

    async def flood() -> None:
        with scope:
            while True:
                for n in range(100):
                    ref.tell(Add(n))
                await trio.lowlevel.checkpoint()

    nursery.start_soon(flood)
    yield
    scope.cancel()


async def test_an_overloaded_actor_stops_after_the_current_message() -> None:
    async with open_system() as system, trio.open_nursery() as nursery:
        counter = Counter()
        ref = await system.start(lambda: counter, inbox=10, overflow=Overflow.DROP_OLD)
        gate = trio.Event()
        ref.tell(Hold(gate))
        await trio.testing.wait_all_tasks_blocked()
        with flooding(nursery, ref):
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            ref.stop(drain=False)
            gate.set()
            await ref.join()
        assert counter.seen == []


async def test_an_overloaded_actor_handles_downs_and_ticks_next(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        counter = Counter()
        ref, other = await system.start(lambda: counter, inbox=10, overflow=Overflow.DROP_OLD), system.spawn(Counter)
        gate = trio.Event()

        def prepare(actor: Counter) -> None:
            actor.watch(other, as_=lambda _: Add(-1))
            actor.after(1, Add(-2), key="tick")

        await ref.ask(Call(prepare))
        ref.tell(Hold(gate))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(50):
            ref.tell(Add(1))
        other.kill()
        await trio.sleep(2)
        for _ in range(50):
            ref.tell(Add(1))
        gate.set()
        await settle(system)
        assert counter.seen == [-1, -2] + [1] * 10


async def test_a_consumer_stuck_in_a_write_ends_within_a_pass_of_its_overflow() -> None:
    stream, unread = trio.testing.lockstep_stream_pair()
    watcher = Probe[Down]()

    async def write(_: Counter) -> None:
        await stream.send_all(b"x")

    async with open_system() as system:
        await system.start(lambda: watcher)
        ref = await system.start(Counter, inbox=1, overflow=Overflow.STOP)
        watcher.watch(ref, as_=lambda down: down)
        ref.tell(Call(write))
        await trio.testing.wait_all_tasks_blocked()
        assert [ref.tell(Add(1)), ref.tell(Add(2))] == [True, False]
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert ref.stopped
        await settle(system)
        assert [down.ref for down in watcher.drain()] == [ref]
    await unread.aclose()


async def test_send_replaces_a_waiting_value_with_the_same_key_as_tell_does() -> None:
    lost: list[DeadLetter] = []
    seen: list[int] = []
    by_parity = Coalesce[Message](lambda message: message.n % 2 if isinstance(message, Add) else None)
    async with open_system(on_dead_letter=lost.append) as system, trio.open_nursery() as nursery:
        ref = await system.start(lambda: Counter(seen=seen), overflow=by_parity, inbox=2)
        gate = trio.Event()
        await ref.send(Hold(gate))
        await trio.testing.wait_all_tasks_blocked()
        await ref.send(Add(0))
        await ref.send(Add(2))
        assert ref.queued == 1
        await ref.send(Hold(gate))
        with trio.fail_after(5):
            await ref.send(Add(4))  # The inbox is full, but this replaces a waiting message.
        nursery.start_soon(ref.send, Add(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ref.send, Add(6))
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert adds(lost) == ((0, DeadLetterReason.COALESCED), (2, DeadLetterReason.COALESCED))
    assert seen == [4, 1, 6]


async def test_a_key_that_raises_does_not_raise_in_the_sender() -> None:
    def key(message: Message) -> int:
        raise Broken

    seen: list[int] = []
    async with open_system() as system:
        ref = await system.start(lambda: Counter(seen=seen), overflow=Coalesce(key), inbox=2)
        gate = trio.Event()
        assert ref.tell(Hold(gate))
        await trio.testing.wait_all_tasks_blocked()
        assert [ref.tell(Add(n)) for n in range(3)] == [True, True, False]
        gate.set()
    assert seen == [0, 1]


async def test_a_key_that_can_not_be_hashed_does_not_raise_in_the_sender() -> None:
    async with open_system() as system:
        ref = system.spawn(Counter, overflow=Coalesce[Message](lambda message: [message]))  # type: ignore[arg-type,return-value]
        assert ref.tell(Add(1))
        assert await ref.ask(Total()) == (1,)


async def test_a_callback_for_a_replaced_message_may_end_the_actor(
    autojump_clock: MockClock,
) -> None:
    lost: list[tuple[object, DeadLetterReason]] = []

    def hear(letter: DeadLetter) -> None:
        lost.append((letter.message, letter.reason))
        if letter.reason is DeadLetterReason.COALESCED:
            ref.kill()

    async def send(n: int) -> None:
        await ref.send(Add(n))
        sent.append(n)

    sent: list[int] = []
    by_tens = Coalesce[Message](lambda message: message.n // 10 if isinstance(message, Add) else None)
    async with open_system(on_dead_letter=hear) as system, trio.open_nursery() as nursery:
        ref = await system.start(Counter, inbox=1, overflow=by_tens)
        gate = trio.Event()
        ref.tell(Hold(gate))
        await trio.testing.wait_all_tasks_blocked()
        ref.tell(Add(1))
        for n in (11, 12):
            nursery.start_soon(send, n)
            await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await ref.join()
    # The senders are let in one after the other, but Trio resumes them in any order.
    assert sorted(sent) == [11, 12]
    assert lost == [(Add(11), DeadLetterReason.COALESCED), (Add(12), DeadLetterReason.STOPPED)]
