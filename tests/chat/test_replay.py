"""Sessions replay from storage at their own pace, within bounds, and only while they are open."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.chat.encoding import Encoder
from actorchat.chat.operations import AddMessage
from actorchat.chat.operator_feed import HELD_BYTES
from actorchat.chat.ports import FeedSnapshot
from actorchat.chat.replay import CONCURRENT_REPLAYS, PIECE_BYTES
from actorchat.protocol import Frames, GlobalUpdated, MarkMessageRead, MessageAdded, Profile, User
from actorchat.storage.async_reader import AsyncReader
from tests.chat.harness import ChatHarness, RecordingSession, Socket, open_chat
from tests.chat.people import ANNA, OLGA

LONG = "🐌" * 3_990
COUNT = 150


class Stalled(RecordingSession):
    """A session that reads nothing until the test lets it; `buffered_bytes` counts what was pushed."""

    def __init__(self, user: User, profile: Profile = Profile.EXTENDED) -> None:
        super().__init__(user, profile)
        self.reads = trio.Event()

    def push(self, frames: Frames) -> None:
        super().push(frames)
        if self.closed is None:
            self.buffered_bytes += len(frames.data)

    def close(self, code: int, reason: str = "") -> None:
        super().close(code, reason)
        self.reads.set()

    async def wait_drained(self) -> bool:
        if self.buffered_bytes > 65_536:
            await self.reads.wait()
        return await super().wait_drained()


class Pieces(RecordingSession):
    """A session that counts the pushes with messages."""

    count = 0

    def push(self, frames: Frames) -> None:
        super().push(frames)
        self.count += b'"message_added"' in frames.data


async def long_chat(harness: ChatHarness, count: int = COUNT) -> UUID:
    chat = await harness.reserve()
    anna = await harness.join(chat, ANNA)
    for number in range(count):
        anna.say(f"{number} {LONG}")
        await harness.settle()
    await harness.leave(anna)
    return chat


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with every encoded message."""
    whole: Callable[..., bytes] = Encoder.added
    calls: list[int] = []

    def added(*args: object) -> bytes:
        calls.append(1)
        return whole(*args)

    monkeypatch.setattr(Encoder, "added", added)
    return calls


async def resume(harness: ChatHarness, chat: UUID, recorder: RecordingSession) -> None:
    """Join with a full replay, in a task of its own."""
    harness.nursery.start_soon(partial(harness.chats.joining.room, recorder, chat, -1))
    await harness.settle()


async def test_a_stalled_reader_is_sent_a_bounded_amount(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        stalled = Stalled(OLGA)
        await resume(harness, await long_chat(harness), stalled)
        assert 65_536 < stalled.buffered_bytes < 2 * PIECE_BYTES + 4 * len(LONG)
        stalled.reads.set()
        await harness.settle()
        assert stalled.indexes() == list(range(COUNT))


async def test_nothing_is_encoded_for_a_session_that_is_closed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as harness:
        chat = await long_chat(harness)
        crowd = [Stalled(OLGA) for _ in range(5)]
        for stalled in crowd:
            await resume(harness, chat, stalled)
        encoded = count_encoded(monkeypatch)
        for stalled in crowd:
            stalled.close(1013)
        await harness.settle()
        assert not encoded


async def test_a_replay_encodes_each_message_about_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as harness:
        chat = await long_chat(harness)
        encoded = count_encoded(monkeypatch)
        back = await harness.join(chat, OLGA, after=-1)
        assert back.recorder.indexes() == list(range(COUNT))
        assert len(encoded) < 2 * COUNT


async def test_stalled_readers_do_not_delay_other_replays(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await long_chat(harness)
        for _ in range(20):
            await resume(harness, chat, Stalled(OLGA))
        with trio.fail_after(1):
            back = await harness.join(chat, OLGA, after=-1)
        assert back.recorder.indexes() == list(range(COUNT))


async def test_only_a_few_replays_are_encoded_at_a_time(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await long_chat(harness)
        crowd = [Pieces(OLGA) for _ in range(50)]
        for pieces in crowd:
            harness.nursery.start_soon(partial(harness.chats.joining.room, pieces, chat, -1))
        at_once: list[int] = []
        while any(pieces.indexes()[-1:] != [COUNT - 1] for pieces in crowd):
            before = sum(pieces.count for pieces in crowd)
            await trio.lowlevel.checkpoint()
            at_once.append(sum(pieces.count for pieces in crowd) - before)
        # Between two turns of this task there are parts of two scheduler passes.
        assert max(at_once) <= 2 * CONCURRENT_REPLAYS


async def test_a_stalled_strict_session_is_sent_a_bounded_amount(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as harness:
        chat = await long_chat(harness)
        stalled = Stalled(ANNA, Profile.STRICT)
        olga = await harness.join(chat, OLGA, after=-1)
        receiver = await harness.chats.joining.room(stalled, chat, None)
        await read_all(olga)
        await harness.settle()
        # 150 messages have a new status: more than the room's tail, so they are read from storage.
        assert 65_536 < stalled.buffered_bytes < 2 * PIECE_BYTES + 4 * len(LONG)
        encoded = count_encoded(monkeypatch)
        stalled.close(1013)
        await harness.settle()
        assert not encoded
        receiver.leave()


async def read_all(reader: Socket) -> None:
    last = reader.recorder.got(MessageAdded)[-1].message
    reader.receiver.receive(MarkMessageRead(last.id))


async def test_a_console_that_stalls_in_its_snapshot_keeps_a_bounded_number_of_bytes(
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as harness:
        for number in range(450):
            owner = attrs.evolve(ANNA, id=1_000 + number)
            await harness.chats.perform(AddMessage(await harness.reserve(owner), owner, "hi"))
        stalled = Stalled(OLGA)
        harness.nursery.start_soon(harness.chats.joining.feed, stalled, frozenset({"lk"}))
        await harness.settle()
        assert stalled.buffered_bytes > 65_536
        anna = await harness.join(await harness.reserve(), ANNA)
        said = 0
        while stalled.closed is None and said < 2 * HELD_BYTES:
            anna.say(LONG)
            said += 4 * len(LONG)
            await harness.settle()
        assert stalled.closed == 1013
        assert said > 0.9 * HELD_BYTES


async def test_a_few_consoles_at_a_time_read_their_snapshot(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, most = 0, 0
    whole = AsyncReader.feed_snapshot

    async def slowly(chat_reader: AsyncReader, sources: frozenset[str], limit: int) -> FeedSnapshot:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await trio.sleep(0.1)
        reading -= 1
        return await whole(chat_reader, sources, limit)

    async with open_chat() as harness:
        monkeypatch.setattr(AsyncReader, "feed_snapshot", slowly)
        consoles = [RecordingSession(OLGA) for _ in range(50)]
        for console in consoles:
            harness.nursery.start_soon(harness.chats.joining.feed, console, frozenset({"lk"}))
        await trio.sleep(5)
        assert all(console.got(GlobalUpdated) for console in consoles)
        assert most == CONCURRENT_REPLAYS
