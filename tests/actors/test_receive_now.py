"""Messages that are handled inside `tell` keep all promises of messages that go through the inbox."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.actors import (
    Actor,
    ActorSystem,
    DeadLetter,
    DeadLetterReason,
    End,
    Group,
    Ref,
    Request,
    Restart,
    Virtual,
    open_system,
)
from actorchat.testing import settle
from tests.actors.counter_actor import Broken


@attrs.frozen
class Do:
    """Call `work`, then record the number. It may be handled inside `tell` if `now` is true."""

    n: int
    work: Callable[[AtOnce], object] = lambda _: None
    now: bool = True


@attrs.frozen
class Seen(Request[tuple[int, ...]]):
    """A request for the recorded numbers."""


class AtOnce(Actor[Do | Seen]):
    def __init__(self, seen: list[int], trace: list[str]) -> None:
        self.seen, self.trace = seen, trace

    async def on_start(self) -> None:
        self.trace.append("start")

    async def on_stop(self, end: End) -> None:
        self.trace.append(end.cause.value)

    def receive_now(self, message: Do | Seen) -> bool:
        if isinstance(message, Seen) or not message.now:
            return False
        self._do(message)
        return True

    async def receive(self, message: Do | Seen) -> None:
        if isinstance(message, Seen):
            self.reply(message, tuple(self.seen))
        else:
            self._do(message)

    def _do(self, message: Do) -> None:
        message.work(self)
        self.seen.append(message.n)


@attrs.frozen
class World:
    """A parked actor that handles messages inside `tell`, its record, and its dead letters."""

    system: ActorSystem
    ref: Ref[Do | Seen]
    seen: list[int]
    trace: list[str]
    lost: list[DeadLetter]


@asynccontextmanager
async def world(restart: Restart | None = None) -> AsyncIterator[World]:
    seen: list[int] = []
    trace: list[str] = []
    lost: list[DeadLetter] = []
    # Not `checked_system.open_system`: with an instrument no message is handled inside `tell`.
    with trio.fail_after(100):
        async with open_system(on_dead_letter=lost.append) as system:
            ref = await system.start(lambda: AtOnce(seen, trace), restart=restart)
            await settle(system)
            yield World(system, ref, seen, trace, lost)


def fail(actor: AtOnce) -> None:
    raise Broken


async def test_an_idle_actor_handles_a_message_before_tell_returns(autojump_clock: MockClock) -> None:
    async with world() as at:
        for n in range(200):
            assert at.ref.tell(Do(n))
            assert at.seen == list(range(n + 1))
            assert at.system.settled
        info = at.system.tree()[0]
        assert (info.begun, info.queued, info.message) == (200, 0, None)
        assert await at.ref.ask(Seen()) == tuple(range(200))


async def test_publishing_to_a_group_handles_the_message_at_once(autojump_clock: MockClock) -> None:
    async with world() as at:
        group: Group[Do] = Group()
        group.add(at.ref)
        assert group.publish(Do(1)) == 1
        assert at.seen == [1]


async def test_refused_messages_and_later_ones_stay_in_order(autojump_clock: MockClock) -> None:
    async with world() as at:
        for n in range(20):
            assert at.ref.tell(Do(n, now=n % 3 == 0))
        assert at.seen == [0]
        await settle(at.system)
        assert at.seen == list(range(20))


async def test_a_message_to_itself_is_handled_after_the_current_one(autojump_clock: MockClock) -> None:
    async with world() as at:
        at.ref.tell(Do(1, lambda actor: (actor.ref.tell(Do(2)), actor.ref.tell(Do(3)))))
        at.ref.tell(Do(4))
        assert at.seen == [1]
        await settle(at.system)
        assert at.seen == [1, 2, 3, 4]


async def test_signals_to_itself_and_awaited_results_arrive(autojump_clock: MockClock) -> None:
    async with world() as at:
        at.ref.tell(Do(1, lambda actor: actor.ref.signal(Do(2))))
        at.ref.tell(Do(3, lambda actor: actor.after(5, Do(4), key="later")))
        await trio.sleep(6)
        assert at.seen == [1, 2, 3, 4]


async def test_a_crash_in_an_immediate_handler_does_not_reach_the_sender(autojump_clock: MockClock) -> None:
    async with world(Restart(jitter=0)) as at:
        assert at.ref.tell(Do(1, fail))
        assert at.ref.tell(Do(2))
        await settle(at.system)
        assert (at.seen, at.trace) == ([2], ["start", "crashed", "start"])
        (letter,) = at.lost
        assert isinstance(letter.message, Do)
        assert (letter.message.n, letter.reason, type(letter.error)) == (1, DeadLetterReason.CRASHED, Broken)
        at.ref.tell(Do(3))
        assert at.seen == [2, 3]


async def test_an_actor_may_stop_itself_in_an_immediate_handler(autojump_clock: MockClock) -> None:
    async with world() as at:
        at.ref.tell(Do(1, lambda actor: actor.ref.stop()))
        assert not at.ref.tell(Do(2))
        await at.ref.join()
        assert (at.seen, at.trace) == ([1], ["start", "stopped"])


def kill(actor: AtOnce) -> None:
    actor.ref.kill()


def kill_and_fail(actor: AtOnce) -> None:
    actor.ref.kill()
    raise Broken


@pytest.mark.parametrize("work", [kill, kill_and_fail])
async def test_an_actor_that_kills_itself_in_an_immediate_handler_ends_once(
    autojump_clock: MockClock, work: Callable[[AtOnce], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with world(Restart(jitter=0)) as at:
        at.ref.tell(Do(1, work))
        assert not at.ref.tell(Do(2))
        await at.ref.join()
        await wait_all_tasks_blocked()
        assert at.trace == ["start", "killed"]
        lost = [(letter.message.n, letter.reason) for letter in at.lost if isinstance(letter.message, Do)]
        if work is kill:
            assert (at.seen, lost, caplog.records) == ([1], [(2, DeadLetterReason.STOPPED)], [])
        else:
            assert (at.seen, lost) == ([], [(2, DeadLetterReason.STOPPED), (1, DeadLetterReason.CRASHED)])
            assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_refused_message_of_an_actor_that_kills_itself_is_a_dead_letter(autojump_clock: MockClock) -> None:
    class Refusing(AtOnce):
        def receive_now(self, message: Do | Seen) -> bool:
            self.ref.kill()
            return False

    lost: list[DeadLetter] = []
    async with open_system(on_dead_letter=lost.append) as system:
        ref = await system.start(lambda: Refusing([], []))
        await settle(system)
        assert ref.tell(Do(1))
        await ref.join()
    assert [letter.reason for letter in lost] == [DeadLetterReason.STOPPED]


async def test_two_actors_that_tell_each_other_do_not_recurse(autojump_clock: MockClock) -> None:
    """Two actors that send to each other: a working actor gets the message in its inbox."""
    async with world() as at:
        seen: list[int] = []
        other = await at.system.start(lambda: AtOnce(seen, []))
        await settle(at.system)

        def volley(n: int) -> Do:
            next_one = at.ref if n % 2 else other
            return Do(n, lambda _: n < 2_000 and next_one.tell(volley(n + 1)))

        at.ref.tell(volley(0))
        await settle(at.system)
        assert sorted([*seen, *at.seen]) == list(range(2_001))


async def test_a_virtual_actor_that_handles_at_once_is_not_idle(autojump_clock: MockClock) -> None:
    seen: list[int] = []
    async with open_system() as system:
        rooms: Virtual[str, Do | Seen, None] = system.virtual(lambda key: AtOnce(seen, []), idle=10)
        ref = rooms["a"]
        for n in range(10):
            ref.tell(Do(n))
            await trio.sleep(9)
            assert rooms.active == 1
        await trio.sleep(20)
        assert rooms.active == 0
    assert seen == list(range(10))


async def test_an_address_does_not_keep_the_actor_that_has_ended(autojump_clock: MockClock) -> None:
    async with world() as at:
        incarnations: list[weakref.ref[AtOnce]] = []
        at.ref.tell(Do(1, lambda actor: incarnations.append(weakref.ref(actor))))
        at.ref.stop()
        await at.ref.join()
        gc.collect()
        assert [each() for each in incarnations] == [None]
