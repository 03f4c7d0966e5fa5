"""Resuming at a position that the history does not have: the client gets resync_required and a full replay."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import Profile, ResyncRequired
from actorchat.storage.store import Store
from actorchat.testing import CommitFault, FaultyStore
from tests.chat.harness import RecordingSession, open_chat
from tests.chat.people import ANNA, OLGA

REPLAYED = ["receipts", "receipts", "chat_updated"]


@pytest.mark.parametrize("user", [ANNA, OLGA])
@pytest.mark.parametrize("count", [0, 3])
async def test_resuming_beyond_the_newest_message_reports_it_and_replays_all(user: object, count: int) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        for number in range(count):
            anna.say(str(number))
        await harness.settle()
        for after in (count, count + 1_000):
            back = await harness.join(chat, ANNA if user is ANNA else OLGA, after=after)
            assert back.recorder.events[0] == ResyncRequired(chat, count - 1)
            assert back.recorder.indexes() == list(range(count))
            types = [each for each in back.recorder.types() if each != "user_connected"]
            assert types == ["resync_required", *["message_added"] * count, *REPLAYED]
            await harness.leave(back)


async def test_resuming_at_an_existing_message_needs_no_resync() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        for number in range(3):
            anna.say(str(number))
        await harness.settle()
        for after in (-1, 0, 2):
            back = await harness.join(chat, ANNA, after=after)
            assert back.recorder.got(ResyncRequired) == []
            assert back.recorder.indexes() == list(range(after + 1, 3))
        strict = await harness.join(chat, ANNA, Profile.STRICT, after=1_000)
        assert set(strict.recorder.types()) == {"user_connected"}


@pytest.mark.parametrize("fault", [CommitFault.STORED, CommitFault.FORGOTTEN])
async def test_resuming_at_a_message_not_yet_broadcast_waits_for_it(
    fault: CommitFault, autojump_clock: MockClock
) -> None:
    faults: list[CommitFault] = []

    def broken(store: Store) -> Store:
        return FaultyStore(store, iter(lambda: faults.pop() if faults else None, object()), away_for=4)

    async with open_chat(faults=broken) as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("known")
        await harness.settle()
        faults.append(fault)
        anna.say("in doubt")
        await wait_all_tasks_blocked()
        # Like a client that has read the history over HTTP meanwhile.
        back = await harness.join(chat, ANNA, after=1)
        await trio.sleep(10)
        if fault is CommitFault.STORED:
            assert (back.recorder.got(ResyncRequired), back.recorder.indexes()) == ([], [])
        else:
            assert back.recorder.events[0] == ResyncRequired(chat, 0)
            assert back.recorder.indexes() == [0]
        anna.say("live")
        await harness.settle()
        assert back.recorder.texts()[-1] == "live"


async def test_a_socket_that_waits_too_long_for_a_broadcast_is_closed_to_retry(autojump_clock: MockClock) -> None:
    faults: list[CommitFault] = []

    def broken(store: Store) -> Store:
        return FaultyStore(store, iter(lambda: faults.pop() if faults else None, object()), away_for=20)

    async with open_chat(faults=broken) as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        faults.append(CommitFault.STORED)
        anna.say("in doubt")
        await wait_all_tasks_blocked()
        with pytest.raises(StorageUnavailable, match="not announced"):
            await harness.chats.joining.room(RecordingSession(ANNA), chat, 0)
        await trio.sleep(60)
        assert (await harness.join(chat, ANNA, after=0)).recorder.indexes() == []
