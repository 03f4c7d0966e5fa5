"""What a node keeps of other nodes' commits until it can apply them is bounded, and costs the same for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import FrameType
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.chat.node_commits import NodeCommit
from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes import Told, early_batches, follower
from actorchat.nodes.early_batches import EarlyBatches
from actorchat.nodes.follower import Follower
from actorchat.storage.store import LoggedBatch

WRITER = "writer"


@attrs.define
class Log:
    """A log with batches of one writer. Payloads are numbers. `reads` counts the batches that were read.

    `meanwhile` is called after each page was read. While it is `stuck`, no read ends.
    """

    rows: list[LoggedBatch] = attrs.Factory(list)
    meanwhile: Callable[[], object] = lambda: None
    stuck: bool = False
    reads: int = 0
    trimmed: int = 0

    def add(self, count: int, size: int = 1) -> list[Told]:
        """Log so many batches, and return what the bus tells of them."""
        first = self.trimmed + len(self.rows) + 1
        for number in range(first, first + count):
            payload = str(number).encode().ljust(size)
            self.rows.append(LoggedBatch(WRITER, number, number - 1, 0.0, payload))
        return [Told(row.writer, row.number, row.previous, row.payload) for row in self.rows[-count:]] if count else []

    def trim(self) -> None:
        """Delete all batches."""
        self.trimmed += len(self.rows)
        self.rows.clear()

    async def newest_batches(self) -> Mapping[str, int]:
        await trio.lowlevel.checkpoint()
        if self.stuck:
            await trio.sleep_forever()
        return {WRITER: self.rows[-1].number} if self.rows else {}

    async def batches(self, writer: str, *, after: int, upto: int, limit: int) -> Sequence[LoggedBatch]:
        await trio.lowlevel.checkpoint()
        page = [row for row in self.rows if after < row.number <= upto][:limit]
        self.reads += len(page)
        self.meanwhile()
        return page

    def epoch(self) -> int:
        return 0

    def follow_epoch(self, epoch: int) -> None:
        raise AssertionError("there is one epoch")


@attrs.define
class Shown:
    """The numbers of the batches that were applied, and how often everything was read again."""

    numbers: list[int] = attrs.Factory(list)
    started_over: int = 0

    def needs_others(self, commit: NodeCommit) -> bool:
        return False

    def apply(self, commits: Sequence[NodeCommit]) -> None:
        self.numbers.extend(int(commit.widgets[0]) for commit in commits)

    def start_over(self) -> None:
        self.started_over += 1


def read_number(payload: bytes) -> NodeCommit:
    return NodeCommit(widgets=(payload.decode().strip(),))


async def follow(log: Log) -> tuple[Follower, Shown]:
    following, shown = Follower(log, "own"), Shown()
    following._reader.read = read_number  # type: ignore[method-assign]
    await following.begin()
    following.apply_to(shown, shown.start_over)
    return following, shown


async def test_batches_that_the_bus_tells_in_any_order_are_applied_in_theirs_without_the_log() -> None:
    log = Log()
    following, shown = await follow(log)
    told = log.add(500)
    Random(1).shuffle(told)
    for each in told:
        following.heard(each)
    assert shown.numbers == list(range(1, 501))
    assert log.reads == 0
    assert (len(following._early), following._early.bytes) == (0, 0)


async def steps_of(count: int) -> int:
    """How many lines of the program run while the bus tells `count` batches in reverse order."""
    log = Log()
    following, shown = await follow(log)
    told = log.add(count)
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:  # Any: itself or None
        nonlocal steps
        steps += event == "line"
        return trace if "actorchat" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for each in reversed(told):
            following.heard(each)
    finally:
        sys.settrace(before)
    assert shown.numbers == list(range(1, count + 1))
    return steps


async def test_twice_as_many_batches_in_the_wrong_order_cost_twice_as_much() -> None:
    assert await steps_of(800) < 2.1 * await steps_of(400)


async def test_batches_that_wait_are_bounded_by_count_and_bytes_and_the_oldest_are_read_from_the_log(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_batches, "MOST_EARLY", 50)
    monkeypatch.setattr(early_batches, "MOST_EARLY_BYTES", 10_000)
    for size, most in ((1, 50), (1_000, 10), (20_000, 0)):
        log = Log()
        following, shown = await follow(log)
        for each in log.add(100, size)[1:]:
            following.heard(each)
        assert [told.number for told in following._early.all()] == list(range(101 - most, 101))
        assert following._early.bytes == sum(len(told.payload or b"") for told in following._early.all())
        assert shown.numbers == []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(following.run)
            await following.caught_up()
            nursery.cancel_scope.cancel()
        assert shown.numbers == list(range(1, 101))
        assert (len(following._early), following._early.bytes, following.lag) == (0, 0, 0.0)


async def test_a_node_that_has_missed_more_bytes_than_it_may_hold_starts_over(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "PAGE", 10)
    monkeypatch.setattr(follower, "MOST_BYTES", 25_000)
    log = Log()
    following, shown = await follow(log)
    log.add(1_000, 1_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(following.run)
        await following.caught_up()
        assert (shown.numbers, shown.started_over) == ([], 1)
        assert log.reads == 30
        log.add(20, 1_000)
        await following.caught_up()
        assert (shown.numbers, shown.started_over) == (list(range(1_001, 1_021)), 1)
        nursery.cancel_scope.cancel()


async def test_a_batch_that_is_told_while_the_log_is_read_is_applied_once(autojump_clock: MockClock) -> None:
    log = Log()
    following, shown = await follow(log)
    told = log.add(10)

    def hear() -> None:
        for each in (*told[:5], *log.add(2)):
            following.heard(each)

    log.meanwhile = hear
    async with trio.open_nursery() as nursery:
        nursery.start_soon(following.run)
        await following.caught_up()
        nursery.cancel_scope.cancel()
    assert shown.numbers == list(range(1, 13))


class LateLog(Log):
    """A log that calls `meanwhile` after it was read which batches there are."""

    async def newest_batches(self) -> Mapping[str, int]:
        newest = await super().newest_batches()
        self.meanwhile()
        return newest


@pytest.mark.parametrize("trimmed", [0, 3])
async def test_the_first_batch_of_a_writer_that_is_told_while_the_log_is_read_is_applied_once(
    autojump_clock: MockClock, trimmed: int
) -> None:
    log = LateLog()
    following, shown = await follow(log)
    for each in log.add(trimmed):
        following.heard(each)
    log.trim()

    def hear() -> None:
        log.meanwhile = lambda: None
        for each in log.add(1):
            following.heard(each)

    log.meanwhile = hear
    async with trio.open_nursery() as nursery:
        nursery.start_soon(following.run)
        await following.caught_up()
        await following.caught_up()
        nursery.cancel_scope.cancel()
    assert (shown.numbers, shown.started_over) == (list(range(1, trimmed + 2)), 0)


async def test_nobody_waits_for_a_follower_that_has_ended(autojump_clock: MockClock) -> None:
    log = Log()
    following, _ = await follow(log)
    log.stuck = True
    failures: list[StorageUnavailable] = []

    async def wait() -> None:
        try:
            await following.caught_up()
        except StorageUnavailable as error:
            failures.append(error)

    async with trio.open_nursery() as waiting:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(following.run)
            # One waits for the look that has begun, one for the next.
            for _ in range(2):
                waiting.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.move_on_after(60):
            await wait()
        waiting.cancel_scope.cancel()
    assert len(failures) == 3


def test_a_newer_batch_that_follows_the_same_one_replaces_it() -> None:
    early = EarlyBatches()
    lost, stored = Told(WRITER, 5, 3, b"lost"), Told(WRITER, 6, 3, b"stored")
    early.add(lost)
    early.add(stored)
    early.drop(lost)
    assert (early.all(), early.bytes) == ((stored,), 6)
    assert early.take(WRITER, 3) is stored
    assert (early.take(WRITER, 3), early.bytes) == (None, 0)
