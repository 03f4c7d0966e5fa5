"""Random programs: every ask ends once with the right result, no message is lost silently, order holds, all ends."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Sequence

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from actorchat.actors import (
    Actor,
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    Coalesce,
    DeadLetter,
    DeadLetterReason,
    End,
    MailboxFull,
    NoReply,
    Overflow,
    Pending,
    Ref,
    Request,
    Restart,
    open_system,
)
from actorchat.testing import settle

NEVER_BEGUN = frozenset(DeadLetterReason) - {DeadLetterReason.CRASHED}


@attrs.frozen
class Work(Request[int]):
    id: int
    kind: str


class Worker(Actor[Work]):
    """Records that a message began, and does what its kind says."""

    def __init__(self, run: Run) -> None:
        self.begun, self.alive, self.moments = run.begun, run.alive, run.moments
        self.kept: list[Pending[int]] = []

    async def on_start(self) -> None:
        self.alive.append(1)
        assert sum(self.alive) == 1, "two incarnations of one address"

    async def on_stop(self, end: End) -> None:
        await trio.lowlevel.checkpoint()
        self.alive.append(-1)

    async def receive(self, message: Work) -> None:
        self.begun.append(message.id)
        self.moments[message.id] = trio.current_time()
        await self.handle(message)

    async def handle(self, message: Work) -> None:
        match message.kind:
            case "fail":
                self.fail(message, ValueError(message.id))
            case "crash":
                raise ZeroDivisionError
            case "late crash":
                self.reply(message, message.id)
                raise ZeroDivisionError
            case "slow":
                await trio.sleep(1)
                self.reply(message, message.id)
            case "defer":
                self.kept.append(self.defer(message))
            case "silent":
                pass
            case _:
                for pending in self.kept:
                    pending.reply(-1)
                self.kept.clear()
                self.reply(message, message.id)


class Batcher(Worker):
    async def receive_batch(self, messages: Sequence[Work]) -> None:
        for message in messages:
            self.begun.append(message.id)
            self.moments[message.id] = trio.current_time()
        for message in messages:
            await self.handle(message)


KINDS = ["ok", "ok", "ok", "fail", "crash", "late crash", "slow", "defer", "silent"]
STEPS = st.tuples(
    st.sampled_from(
        ["tell", "tell", "ask", "ask", "send", "signal", "sleep", "yield", "cancelled ask", "stop", "kill"]
    ),
    st.sampled_from(KINDS),
    st.sampled_from([0.2, 1.5, 60.0]),
)
POLICIES = st.sampled_from([*Overflow, Coalesce[Work](lambda work: work.id % 5 if work.id % 2 else None)])


@attrs.define
class Run:
    """The record of a run."""

    begun: list[int] = attrs.Factory(list)
    alive: list[int] = attrs.Factory(list)
    lost: list[DeadLetter] = attrs.Factory(list)
    told: dict[int, bool] = attrs.Factory(dict)
    sent: dict[int, object] = attrs.Factory(dict)
    signalled: dict[int, bool] = attrs.Factory(dict)
    asked: dict[int, object] = attrs.Factory(dict)
    moments: dict[int, float] = attrs.Factory(dict)
    """The time at which each message began."""
    took: dict[int, tuple[float, float, float]] = attrs.Factory(dict)
    """The start, the end and the timeout in seconds of each ask."""
    kinds: dict[int, str] = attrs.Factory(dict)
    batched: bool = False
    policy: Overflow | Coalesce[Work] = Overflow.REJECT

    async def program(
        self,
        steps: list[tuple[str, str, float]],
        worker: type[Worker],
        bound: int,
        *,
        virtual: bool,
    ) -> None:
        policy = self.policy
        restart = Restart(max=4, within=5, backoff=0.3)
        async with open_system(on_dead_letter=self.lost.append, drain=1000, seed=1) as system:

            def make(_: str = "") -> Worker:
                return worker(self)

            ref: Ref[Work]
            if virtual:
                ref = system.virtual(make, idle=2, inbox=bound, overflow=policy, restart=restart)["x"]
            else:
                generous = Restart(max=1000, backoff=0.3)
                ref = system.spawn(make, inbox=bound, overflow=policy, restart=generous)
            async with trio.open_nursery() as nursery:
                for number, (what, kind, seconds) in enumerate(steps):
                    await self.step(nursery, ref, what, Work(number, kind), seconds)
                    assert ref.queued <= bound
                await trio.sleep(200)
                ref.kill()
            await settle(system)
            assert ref.queued == 0
            assert system.tree() == ()
        assert sum(self.alive) == 0

    async def step(self, nursery: trio.Nursery, ref: Ref[Work], what: str, work: Work, seconds: float) -> None:
        self.kinds[work.id] = work.kind
        match what:
            case "tell":
                self.told[work.id] = ref.tell(work)
            case "signal":
                self.signalled[work.id] = ref.signal(work)
            case "ask":
                nursery.start_soon(self.ask, ref, work, seconds)
            case "cancelled ask":
                nursery.start_soon(self.cancelled_ask, ref, work, seconds)
            case "send":
                nursery.start_soon(self.send, ref, work, seconds)
            case "sleep":
                await trio.sleep(seconds)
            case "yield":
                await trio.lowlevel.checkpoint()
            case "stop":
                if work.id % 7 == 0:
                    ref.stop(drain=seconds > 1)
            case "kill":
                if work.id % 7 == 0:
                    ref.kill()

    async def ask(self, ref: Ref[Work], work: Work, seconds: float) -> None:
        assert work.id not in self.asked
        start = trio.current_time()
        try:
            self.asked[work.id] = await ref.ask(work, timeout=seconds)
        except Exception as error:
            self.asked[work.id] = error
        self.took[work.id] = start, trio.current_time(), seconds

    async def cancelled_ask(self, ref: Ref[Work], work: Work, seconds: float) -> None:
        start = trio.current_time()
        self.asked[work.id] = trio.Cancelled
        with trio.move_on_after(seconds):
            try:
                self.asked[work.id] = await ref.ask(work)
            except Exception as error:
                self.asked[work.id] = error
        self.took[work.id] = start, trio.current_time(), seconds

    async def send(self, ref: Ref[Work], work: Work, seconds: float) -> None:
        self.sent[work.id] = False
        with trio.move_on_after(seconds * 10):
            try:
                await ref.send(work)
                self.sent[work.id] = True
            except ActorStopped as error:
                self.sent[work.id] = error

    def check(self) -> None:
        begun = Count(self.begun)
        assert set(begun.values()) <= {1}, "a message began twice"
        losses: dict[int, DeadLetterReason] = {}
        for letter in self.lost:
            assert isinstance(letter.message, Work)
            assert letter.message.id not in losses, "a message was lost twice"
            losses[letter.message.id] = letter.reason
        for number in losses:
            assert (losses[number] is DeadLetterReason.CRASHED) <= (number in begun)
            assert (losses[number] in NEVER_BEGUN) <= (number not in begun)
        for number, taken in {**self.told, **self.signalled}.items():
            # Every accepted message was begun or became a dead letter.
            assert number in begun or number in losses
            if not taken:
                assert losses[number] in NEVER_BEGUN
        for number, outcome in self.sent.items():
            if outcome is True:
                assert number in begun or number in losses
            else:
                assert number not in begun
        for number, outcome in self.asked.items():
            self.check_ask(number, outcome, begun=number in begun, loss=losses.get(number))
        for number, kind in self.kinds.items():
            if number in begun and kind in ("crash", "late crash"):
                assert losses[number] is DeadLetterReason.CRASHED
        in_order = [number for number in self.begun if number in self.told]
        # A coalesced message takes the position of an older one.
        assert isinstance(self.policy, Coalesce) or in_order == sorted(in_order)
        in_order = [number for number in self.begun if number in self.signalled]
        assert in_order == sorted(in_order)

    def check_ask(self, number: int, outcome: object, *, begun: bool, loss: DeadLetterReason | None) -> None:
        """Check that the ask ended in one of the ways that the model allows, and in time."""
        kind = self.kinds[number]
        end = outcome if outcome is trio.Cancelled else type(outcome)
        allowed = self.ends_of_begun(kind, loss) if begun else self.ends_of_waiting(loss)
        assert end in allowed, f"{kind}, begun {begun}, lost {loss}: {outcome!r} is none of {allowed}"
        start, stop, patience = self.took[number]
        match outcome:
            case int():
                assert outcome == (-1 if kind == "defer" else number)
            case ValueError():
                assert outcome.args == (number,)
            case AskTimeout():
                assert begun <= outcome.begun, "it began after its asker had gone"
                assert stop - start == pytest.approx(patience)
            case ActorCrashed():
                assert isinstance(outcome.__cause__, ZeroDivisionError)
            case trio.Cancelled:
                assert stop - start == pytest.approx(patience)
        if begun and not self.batched and kind in self.AT_ONCE:
            assert stop == self.moments[number], "it was not told at once"

    AT_ONCE = frozenset({"ok", "fail", "silent", "crash", "late crash"})

    def ends_of_begun(self, kind: str, loss: DeadLetterReason | None) -> set[object]:
        """The allowed ends of an ask whose handler has begun."""
        own: dict[str, set[object]] = {
            "ok": {int},
            "late crash": {int},
            "fail": {ValueError},
            "silent": {NoReply},
            "crash": {ActorCrashed},
            # The caller may time out first. A deferred reply fails with its incarnation.
            "slow": {int, AskTimeout, trio.Cancelled},
            "defer": {int, AskTimeout, trio.Cancelled, ActorCrashed, ActorStopped},
        }
        ends = own[kind]
        if kind == "slow" and loss is DeadLetterReason.CRASHED and not self.batched:
            ends = {ActorStopped, AskTimeout, trio.Cancelled}
        if self.batched and loss is DeadLetterReason.CRASHED:
            # Another message of the batch crashed, or the batch was killed.
            ends = ends | {ActorCrashed, ActorStopped}
        if self.batched:
            # Its batch has begun, but the message waits for a slow one before it.
            ends = ends | {AskTimeout, trio.Cancelled}
        return ends

    def ends_of_waiting(self, loss: DeadLetterReason | None) -> set[object]:
        """The allowed ends of an ask whose handler never began."""
        if loss is DeadLetterReason.DROPPED_OLD:
            return {MailboxFull}
        if loss is DeadLetterReason.STOPPED:
            return {ActorStopped, ActorCrashed}
        assert loss is None, "asks are neither coalesced nor lost for any other reason"
        refused = MailboxFull if self.policy is not Overflow.DROP_OLD else ActorStopped
        return {AskTimeout, trio.Cancelled, ActorStopped, refused}


@pytest.mark.parametrize("schedule", [0], indirect=True)  # the test draws its own schedules
@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(STEPS, max_size=60),
    worker=st.sampled_from([Worker, Batcher]),
    policy=POLICIES,
    bound=st.integers(1, 6),
    virtual=st.booleans(),
    order=st.integers(0, 19),
)
def test_a_random_program_keeps_every_promise(
    steps: list[tuple[str, str, float]],
    worker: type[Worker],
    policy: Overflow | Coalesce[Work],
    bound: int,
    virtual: bool,
    order: int,
) -> None:
    run = Run(batched=worker is Batcher, policy=policy)
    trio._core._run._r.seed(order)  # the task schedule is part of the program

    async def main() -> None:
        with trio.fail_after(100_000):
            await run.program(steps, worker, bound, virtual=virtual)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    run.check()
