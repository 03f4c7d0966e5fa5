"""The journal commits operations in batches, and gives each exactly one outcome, even if the store fails."""

import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import trio
import trio.testing

from actorchat.chat.model import Policy
from actorchat.chat.operations import Changed, Decision, Operation, Outcome, Refused, RefuseMessage, Unchanged
from actorchat.chat.ports import StorageUnavailable
from actorchat.storage import journal as journal_module
from actorchat.storage.journal import Journal, open_journal
from actorchat.storage.memory import MemoryStore
from actorchat.storage.store import Batch, DecisionAndCounters
from actorchat.storage.worker_threads import InPlace, open_workers
from actorchat.testing import CommitFault, DelayedRunner, FaultyStore
from tests.storage.sample_chat import ANN, CHAT, NOW, RESERVE, OutcomeRecorder, all_messages, say

T = TypeVar("T")

AWAY, STORED, FORGOTTEN = CommitFault.AWAY, CommitFault.STORED, CommitFault.FORGOTTEN


@asynccontextmanager
async def journal_on(
    *faults: CommitFault | None, away_for: int = 0, capacity: int = 10_000, took: float = 0
) -> AsyncIterator[tuple[Journal, FaultyStore]]:
    """Open a journal with a reserved chat. `faults` begin with the next batch."""
    store = FaultyStore(MemoryStore(Policy()), (None, *faults), away_for=away_for)
    runner = DelayedRunner(InPlace(), lambda: took) if took else InPlace()
    async with open_journal(store, runner, capacity=capacity, clock=lambda: NOW) as journal:
        assert journal.submit(RESERVE, OutcomeRecorder())
        await journal.barrier()
        yield journal, store


class Deaf:
    """A reply_to that the journal must not call itself."""

    def answer(self, decision: Decision) -> None:
        raise AssertionError("the journal reports to recipients only, and they reply")


async def test_all_waiting_operations_are_one_batch_with_outcomes_in_order() -> None:
    async with journal_on() as (journal, store):
        one, two = OutcomeRecorder(), OutcomeRecorder()
        askers = [Deaf() for _ in range(10)]
        for n, asker in enumerate(askers):
            assert journal.submit(say(str(n)), (one, two)[n % 2], asker)
        assert not one.outcomes
        await journal.barrier()
        assert [outcome.reply_to for outcome in one.outcomes] == askers[::2]
        assert [message.text for message in two.stored_messages] == ["1", "3", "5", "7", "9"]
        assert (one.calls, two.calls, store.commits) == (1, 1, 2)
        assert [message.index for message in all_messages(store)] == list(range(10))


async def test_a_batch_holds_a_thousand_operations_at_most() -> None:
    async with journal_on() as (journal, _):
        listener = OutcomeRecorder()
        for n in range(2_500):
            assert journal.submit(say(str(n)), listener)
        await journal.barrier()
        assert listener.calls == 3
        assert [message.index for message in listener.stored_messages] == list(range(2_500))
        figures = journal.statistics()
        assert (figures.batches, figures.operations, figures.largest_batch) == (4, 2_501, 1_000)


async def test_operations_over_the_capacity_are_not_accepted() -> None:
    async with journal_on(capacity=2) as (journal, _):
        listener = OutcomeRecorder()
        assert [journal.submit(say(text), listener) for text in "abc"] == [True, True, False]
        await journal.barrier()
        assert [message.text for message in listener.stored_messages] == ["a", "b"]
        assert journal.submit(say("d"), listener)


async def test_operations_that_come_during_a_commit_are_the_next_batch(autojump_clock: object) -> None:
    async with journal_on(took=1.0) as (journal, store):
        listener = OutcomeRecorder()
        journal.submit(say("a"), listener)
        await trio.sleep(0.5)
        for text in "bcd":
            journal.submit(say(text), listener)
        assert not listener.outcomes
        await journal.barrier()
        assert store.commits == 3
        assert [message.text for message in listener.stored_messages] == list("abcd")


async def test_the_next_commit_runs_while_the_last_batch_is_broadcast() -> None:
    let_go, begun = threading.Event(), threading.Event()

    class Store(MemoryStore):
        def commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
            if RESERVE in operations:
                let_go.wait(5)
            else:
                begun.set()
            return super().commit(operations, batch)

    meets: list[bool] = []
    last = OutcomeRecorder(lambda outcome: meets.append(begun.wait(5)))
    following = OutcomeRecorder()
    async with open_workers("writer") as writer, open_journal(Store(Policy()), writer, clock=lambda: NOW) as journal:
        journal.submit(RESERVE, last)
        await trio.testing.wait_all_tasks_blocked()
        journal.submit(say("b"), following)
        let_go.set()
        await journal.barrier()
    assert meets == [True]
    assert following.codes == [None]


class Refusing(InPlace):
    """Runs one call, and refuses all others at once."""

    def __init__(self) -> None:
        self._taken = False

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        if self._taken:
            raise StorageUnavailable("refused")
        self._taken = True
        return await super().run(call, meanwhile)


async def test_stored_outcomes_come_before_refusals_of_the_next_batch(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setattr(journal_module, "MAX_BATCH", 1)
    with trio.move_on_after(0.01):
        async with open_journal(MemoryStore(Policy()), Refusing(), clock=lambda: NOW) as journal:
            listener = OutcomeRecorder()
            for operation in (RESERVE, say("b"), say("c")):
                journal.submit(operation, listener)
            await trio.sleep_forever()
    assert listener.codes == [None, "storage_unavailable", "storage_unavailable"]


async def test_others_run_between_two_batches_that_are_committed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_BATCH", 2)
    async with journal_on() as (journal, _):
        listener = OutcomeRecorder()
        for number in range(10):
            journal.submit(say(str(number)), listener)
        seen = set()
        while len(listener.outcomes) < 10:
            await trio.lowlevel.checkpoint()
            seen.add(len(listener.outcomes))
        assert len(seen) >= 3


@pytest.mark.parametrize("fault", [None, AWAY])
async def test_submitting_from_an_outcome_starves_no_other_task(fault: CommitFault | None) -> None:
    async with journal_on(fault) as (journal, _):

        def again(_: Outcome) -> None:
            if len(listener.outcomes) < 1_000:
                journal.submit(say("again"), listener)

        listener = OutcomeRecorder(again)
        journal.submit(say("first"), listener)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert 1 < len(listener.outcomes) < 20


@pytest.mark.parametrize("fault", [None, AWAY, STORED, FORGOTTEN])
async def test_outcomes_of_a_batch_come_once_and_before_those_of_the_next(
    autojump_clock: object, fault: CommitFault | None
) -> None:
    async with journal_on(None, fault, away_for=2, took=1.0) as (journal, _):
        listener = OutcomeRecorder()
        journal.submit(say("a"), listener)
        await trio.sleep(0.5)
        journal.submit(say("b"), listener)
        await journal.barrier()
        await trio.sleep(60)
        assert [outcome.operation for outcome in listener.outcomes] == [say("a"), say("b")]
        assert listener.codes[0] is None
        assert not journal.statistics().away


async def test_a_barrier_does_not_wait_for_the_batch_after_it(autojump_clock: object) -> None:
    async with journal_on(took=1.0) as (journal, _):
        first, second = OutcomeRecorder(), OutcomeRecorder()
        journal.submit(say("a"), first)
        await trio.sleep(0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.barrier)
            await trio.sleep(0.1)
            journal.submit(say("b"), second)
        assert (first.codes, second.codes) == ([None], [])


class SlowToBegin(InPlace):
    """Can be cancelled before a call begins, unlike a thread's queue."""

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        await trio.sleep(1)
        return await super().run(call, meanwhile)


async def test_a_barrier_waits_for_the_outcomes_of_a_stored_batch(autojump_clock: object) -> None:
    async with open_journal(MemoryStore(Policy()), SlowToBegin(), clock=lambda: NOW) as journal:
        first = OutcomeRecorder()
        journal.submit(RESERVE, first)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.barrier)
            await trio.sleep(0.5)
            journal.submit(say("b"), OutcomeRecorder())
            await trio.sleep(1)
            assert not first.outcomes
        assert first.codes == [None]


async def test_stored_outcomes_are_sent_though_the_next_batch_is_cancelled(
    autojump_clock: object,
) -> None:
    first, second = OutcomeRecorder(), OutcomeRecorder()
    with trio.move_on_after(1.5):
        async with open_journal(MemoryStore(Policy()), SlowToBegin(), clock=lambda: NOW) as journal:
            journal.submit(RESERVE, first)
            await trio.sleep(0.5)
            journal.submit(say("b"), second)
            await trio.sleep_forever()
    assert (first.codes, second.codes) == ([None], [])


async def test_while_storage_is_away_operations_are_refused_at_once(autojump_clock: object) -> None:
    async with journal_on(AWAY, away_for=3) as (journal, store):
        listener = OutcomeRecorder()
        for text in "abc":
            journal.submit(say(text), listener)
            await trio.testing.wait_all_tasks_blocked()
        assert listener.codes == ["storage_unavailable"] * 3
        assert isinstance(listener.decisions[0], Refused)
        assert listener.decisions[0].retry_after is not None
        assert journal.statistics().away
        await trio.sleep(2)
        assert not journal.statistics().away
        journal.submit(say("d"), listener)
        await journal.barrier()
        assert [message.text for message in all_messages(store)] == ["d"]


async def test_probes_back_off_until_storage_has_been_back_for_a_while(autojump_clock: object) -> None:
    async with journal_on(AWAY, AWAY, AWAY, None, AWAY, None, AWAY, away_for=1) as (journal, _):

        async def outage() -> float:
            """How long storage is away after the next batch."""
            began = trio.current_time()
            journal.submit(say("x"), OutcomeRecorder())
            await journal.barrier()
            while journal.statistics().away:  # noqa: ASYNC110 - the time until then is measured
                await trio.sleep(0.01)
            return round(trio.current_time() - began, 1)

        assert [await outage() for _ in range(5)] == [0.2, 0.6, 1.8, 0.0, 2.0]
        await trio.sleep(10)
        assert [await outage() for _ in range(2)] == [0.0, 0.2]
        assert journal.statistics().outages == 5


@pytest.mark.parametrize(("fault", "codes"), [(STORED, [None]), (FORGOTTEN, ["storage_unavailable"])])
async def test_an_uncertain_commit_is_answered_once_it_is_known(
    autojump_clock: object, fault: CommitFault, codes: list[str | None]
) -> None:
    async with journal_on(fault, away_for=2) as (journal, store):
        doubted, later = OutcomeRecorder(), OutcomeRecorder()
        journal.submit(say("doubt"), doubted)
        await trio.testing.wait_all_tasks_blocked()
        journal.submit(say("later"), later)
        await trio.testing.wait_all_tasks_blocked()
        assert (doubted.codes, later.codes) == ([], ["storage_unavailable"])
        await trio.sleep(5)
        assert doubted.codes == codes
        assert doubted.stored_messages == all_messages(store)
        assert journal.statistics().in_doubt == 1


async def test_a_barrier_waits_for_an_earlier_uncertain_commit(autojump_clock: object) -> None:
    async with journal_on(STORED, away_for=2) as (journal, _):
        doubted = OutcomeRecorder()
        journal.submit(say("doubt"), doubted)
        await trio.testing.wait_all_tasks_blocked()
        journal.submit(say("later"), OutcomeRecorder())
        await journal.barrier()
        assert doubted.codes == [None]


def refusal(text: str) -> RefuseMessage:
    return RefuseMessage(say(text), Refused("too_long", ""))


async def test_refusals_have_the_same_capacity_again_as_other_operations() -> None:
    async with journal_on(capacity=2) as (journal, _):
        listener = OutcomeRecorder()
        assert [journal.submit(say(text), listener) for text in "abc"] == [True, True, False]
        assert [journal.submit(refusal(text), listener) for text in "abc"] == [True, True, False]
        await journal.barrier()
        assert listener.codes == [None] * 4
        assert [message.text for message in listener.stored_messages] == ["a", "b"]


async def test_a_repeat_during_an_uncertain_commit_is_answered_after_it(autojump_clock: object) -> None:
    for fault, codes in ((STORED, [None] * 3), (FORGOTTEN, ["storage_unavailable"] * 2 + ["too_long"])):
        async with journal_on(fault, away_for=3) as (journal, _):
            doubted, again, others = OutcomeRecorder(), OutcomeRecorder(), OutcomeRecorder()
            journal.submit(say("doubt"), doubted)
            await trio.testing.wait_all_tasks_blocked()
            journal.submit(say("doubt"), again)
            journal.submit(refusal("doubt"), again)
            journal.submit(refusal("other"), others)
            await trio.testing.wait_all_tasks_blocked()
            assert (doubted.codes, again.codes, others.codes) == ([], [], ["too_long"])
            assert journal.statistics().waiting == 2
            await journal.barrier()
            assert doubted.codes + again.codes == codes


async def test_messages_that_may_be_stored_wait_within_the_capacity_for_storage(autojump_clock: object) -> None:
    async with journal_on(None, AWAY, away_for=3, capacity=3) as (journal, store):
        listener, late = OutcomeRecorder(), OutcomeRecorder()
        journal.submit(say("stored"), listener)
        await journal.barrier()
        store.remembers, store.unreadable = False, True
        journal.submit(say("other"), OutcomeRecorder())
        await trio.testing.wait_all_tasks_blocked()
        assert journal.submit(say("stored"), listener)
        await trio.testing.wait_all_tasks_blocked()
        assert [journal.submit(say(str(n)), late) for n in range(2)] == [True, False]
        await journal.barrier()
        assert (listener.codes, late.codes) == ([None, None], ["storage_unavailable"])
        assert [journal.submit(say(str(n)), late) for n in range(4)] == [True] * 3 + [False]


async def test_while_storage_is_read_only_stored_repeats_are_answered(autojump_clock: object) -> None:
    async with journal_on(None, AWAY, away_for=10) as (journal, _):
        listener = OutcomeRecorder()
        for text in ("stored", "new", "stored"):
            journal.submit(say(text), listener)
            await trio.testing.wait_all_tasks_blocked()
        assert journal.statistics().away
        assert listener.codes == [None, "storage_unavailable", None]
        assert isinstance(listener.decisions[2], Unchanged)


async def test_a_barrier_of_an_idle_journal_is_one_checkpoint() -> None:
    async with journal_on() as (journal, _):
        with trio.testing.assert_checkpoints(), trio.fail_after(1):
            await journal.barrier()


async def test_leaving_decides_accepted_operations_and_accepts_no_more(autojump_clock: object) -> None:
    listener = OutcomeRecorder()
    taken: list[bool] = []
    async with journal_on(took=1.0) as (journal, _):
        again = OutcomeRecorder(lambda outcome: taken.append(journal.submit(say("more"), listener)))
        journal.submit(say("last"), again)
    assert again.codes == [None]
    assert taken == [False]
    assert not listener.outcomes


async def test_a_drain_that_waits_for_storage_ends_with_its_scope(autojump_clock: object) -> None:
    doubted = OutcomeRecorder()
    with trio.move_on_after(3) as scope:
        async with journal_on(STORED, away_for=10**6) as (journal, _):
            journal.submit(say("doubt"), doubted)
    assert scope.cancelled_caught
    assert not doubted.outcomes


async def test_outcomes_of_a_batch_in_progress_are_sent_even_when_cancelled(autojump_clock: object) -> None:
    listener = OutcomeRecorder()
    with trio.move_on_after(1.5):
        async with journal_on(took=1.0) as (journal, _):
            journal.submit(say("begun"), listener)
            await trio.sleep_forever()
    assert listener.codes == [None]


async def test_an_error_in_a_recipient_affects_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def crash(outcome: Outcome) -> None:
        raise RuntimeError("boom")

    async with journal_on() as (journal, _):
        good = OutcomeRecorder()
        with caplog.at_level(logging.ERROR, logger="actorchat.storage"):
            journal.submit(say("a"), OutcomeRecorder(crash))
            journal.submit(say("b"), good)
            await journal.barrier()
        assert good.codes == [None]
        assert "boom" in caplog.text


def scripted(seed: int) -> Callable[[], CommitFault | None]:
    chance = random.Random(seed)
    return lambda: chance.choice((None, None, None, AWAY, STORED, FORGOTTEN))


@pytest.mark.parametrize("seed", range(20))
async def test_every_message_is_reported_once_and_only_if_stored_despite_faults(
    autojump_clock: object, seed: int
) -> None:
    fault, chance = scripted(seed), random.Random(seed)
    store = FaultyStore(MemoryStore(Policy()), (fault() for _ in range(200)), away_for=seed % 4)
    runner = DelayedRunner(InPlace(), lambda: chance.random())
    answers: dict[Operation, int] = {}
    async with trio.open_nursery() as nursery, open_journal(store, runner, clock=lambda: NOW) as journal:

        def again(outcome: Outcome) -> None:
            answers[outcome.operation] -= 1
            if isinstance(outcome.decision, Refused):
                nursery.start_soon(send, outcome.operation, 0.3)

        async def send(operation: Operation, delay: float) -> None:
            await trio.sleep(delay)
            answers[operation] = answers.get(operation, 0) + 1
            assert journal.submit(operation, listener)

        listener = OutcomeRecorder(again)
        nursery.start_soon(send, RESERVE, 0)
        for n in range(40):
            nursery.start_soon(send, say(str(n)), 5 + n / 7)
        await trio.sleep(600)
    assert set(answers.values()) == {0}
    assert len({message.id for message in listener.stored_messages}) == 40
    assert [message.index for message in listener.stored_messages] == list(range(40))
    assert listener.stored_messages == all_messages(store)


async def test_outcomes_of_a_chat_come_in_revision_order(autojump_clock: object) -> None:
    async with journal_on(None, STORED, None) as (journal, store):
        listener = OutcomeRecorder()
        for n in range(30):
            journal.submit(say(str(n)), listener)
            await trio.sleep(0.01)
        await journal.barrier()
        revs = [one.chat.rev for one in listener.decisions if isinstance(one, Changed)]
        assert revs == list(range(1, len(revs) + 1))
        assert store.chat(CHAT) is not None
        assert {message.author for message in all_messages(store)} == {ANN}
