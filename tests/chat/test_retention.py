"""Closed chats are deleted after the time that their source keeps them, with a record of each run."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import ChatRefused
from actorchat.chat.model import ANONYMOUS_IDS, Policy, Retention, StoredAttachment, Upload, identity_of
from actorchat.chat.operations import AddMessage, CloseChat, Expired, ReopenChat
from actorchat.chat.ports import ChatFilter
from actorchat.chat.privacy import AuditEntry
from actorchat.chat.retention_sweeper import BUSY_SECONDS, INTERVAL, MOST_BUSY, RetentionSweeper
from actorchat.chat.sweeper import RETURN_GRACE
from actorchat.protocol import AttachmentType, Role, User
from actorchat.storage.worker_threads import InPlace, Runner
from actorchat.testing import CommitFault, DelayedRunner, FaultyStore
from tests.chat.harness import ChatHarness, RecordingSession, open_chat
from tests.chat.people import ANNA, OLGA
from tests.system.virtual_time_chat import VirtualTimeChat, open_virtual_time_chat

DAY = 86_400.0
POLICY = Policy(retention=Retention(30 * DAY, {"shop": DAY, "law": 0}))
GUEST = User(ANONYMOUS_IDS + 1, Role.USER)

Chats = ChatHarness | VirtualTimeChat


async def is_there(harness: Chats, chat: UUID) -> bool:
    return await harness.chats.chat_reader.chat(chat) is not None


async def closed_chat(harness: Chats, owner: User = ANNA, source: str = "lk", texts: int = 1) -> UUID:
    chat, _ = await harness.chats.reserve_chat(source, owner)
    for n in range(texts):
        await harness.chats.perform(AddMessage(chat.uuid, owner, f"text {n}"))
    await harness.chats.perform(CloseChat(chat.uuid, OLGA))
    return chat.uuid


async def records(harness: Chats) -> list[dict[str, int]]:
    return [dict(entry.counts) for entry in await harness.chats.chat_reader.audits(2**53, 99)]


async def test_each_source_keeps_closed_chats_for_its_own_time(autojump_clock: MockClock) -> None:
    async with open_chat(POLICY) as harness:
        chats = [await closed_chat(harness, GUEST, source) for source in ("lk", "shop", "law")]
        await trio.sleep(DAY - 60)
        assert [await is_there(harness, chat) for chat in chats] == [True, True, True]
        await trio.sleep(60 + INTERVAL)
        assert [await is_there(harness, chat) for chat in chats] == [True, False, True]
        await trio.sleep(29 * DAY)
        assert [await is_there(harness, chat) for chat in chats] == [False, False, True]
        await trio.sleep(60 * DAY)
        assert await is_there(harness, chats[2])
        with pytest.raises(ChatRefused, match="not_found"):
            await harness.chats.joining.room(RecordingSession(OLGA), chats[0], None)


async def test_an_anonymous_visitor_is_forgotten_with_the_last_chat(autojump_clock: MockClock) -> None:
    async with open_chat(POLICY) as harness:
        await closed_chat(harness, GUEST, "shop")
        await closed_chat(harness, GUEST, "lk")
        await closed_chat(harness, ANNA, "lk")
        await trio.sleep(2 * DAY)
        assert await harness.chats.chat_reader.person(identity_of(GUEST)) is not None
        await trio.sleep(30 * DAY)
        assert await harness.chats.chat_reader.person(identity_of(GUEST)) is None
        assert await harness.chats.chat_reader.person(identity_of(ANNA)) is not None


async def test_nothing_is_deleted_unless_it_is_set(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await closed_chat(harness)
        await trio.sleep(10_000 * DAY)
        assert await is_there(harness, chat)
        assert not [ref for ref in harness.system.live() if "retention" in ref.name]


async def test_chats_that_are_not_closed_or_were_active_are_kept(autojump_clock: MockClock) -> None:
    async with open_chat(POLICY) as harness:
        chat = await closed_chat(harness)
        await trio.sleep(29 * DAY)
        await harness.chats.perform(ReopenChat(chat, OLGA))
        await trio.sleep(40 * DAY)
        assert await is_there(harness, chat)
        await harness.chats.perform(CloseChat(chat, OLGA))
        await trio.sleep(29 * DAY)
        assert await is_there(harness, chat)
        await trio.sleep(2 * DAY)
        assert not await is_there(harness, chat)


async def test_a_chat_that_somebody_reads_is_deleted_after_they_have_left(autojump_clock: MockClock) -> None:
    async with open_chat(POLICY) as harness:
        chat = await closed_chat(harness)
        reader = await harness.join(chat, OLGA)
        await trio.sleep(40 * DAY)
        assert await is_there(harness, chat)
        assert reader.recorder.closed is None
        await harness.leave(reader)
        # A receiver holds the room's address.
        del reader
        await trio.sleep(2 * INTERVAL)
        assert not await is_there(harness, chat)


async def test_files_of_deleted_chats_are_deleted_and_a_run_has_one_record(autojump_clock: MockClock) -> None:
    # Closing a chat adds a message.
    async with open_chat(POLICY) as harness:
        removed: list[UUID] = []
        harness.chats.on_removed = removed.extend
        chat, _ = await harness.chats.reserve_chat("lk", ANNA)
        file = StoredAttachment(UUID(int=7), AttachmentType.FILE, "a.txt", "txt", 10)
        await harness.chats.record_upload(Upload(file, identity_of(ANNA), "lk", "text/plain", 0))
        await harness.chats.perform(AddMessage(chat.uuid, ANNA, "", (file.uuid,)))
        await harness.chats.perform(CloseChat(chat.uuid, OLGA))
        for texts in (2, 3):
            await closed_chat(harness, texts=texts)
        await trio.sleep(31 * DAY)
        assert removed == [file.uuid]
        assert await harness.chats.chat_reader.uploads([file.uuid]) == ()
        assert await records(harness) == [{"chats": 3, "messages": 9, "files": 1}]


async def test_chats_are_deleted_one_in_a_transaction(autojump_clock: MockClock) -> None:
    async with open_virtual_time_chat(autojump_clock, None, policy=POLICY) as chat_driver:
        for _ in range(150):
            await closed_chat(chat_driver)
        batches = chat_driver.journal.statistics().batches
        await trio.sleep(31 * DAY)
        assert await records(chat_driver) == [{"chats": 150, "messages": 300, "files": 0}]
        assert chat_driver.journal.statistics().batches - batches == 150
        # No room was activated for the deletions.
        assert not [ref for ref in chat_driver.system.live() if ref.name.startswith("room/")]


async def test_a_deletion_waits_while_users_wait_but_not_for_ever(autojump_clock: MockClock) -> None:
    asked: list[float] = []
    deleted: list[float] = []

    async def remove(chat: UUID, before: float, record: AuditEntry) -> Expired | None:
        await trio.lowlevel.checkpoint()
        deleted.append(trio.current_time())
        return None

    def is_busy() -> bool:
        asked.append(trio.current_time())
        return trio.current_time() < busy_until

    async with open_chat() as harness:
        await closed_chat(harness)
        reader = harness.chats.chat_reader
        for busy in (1.0, 1000.0):
            await trio.sleep(DAY)
            busy_until = trio.current_time() + RETURN_GRACE + busy
            began = trio.current_time() + RETURN_GRACE
            sweeper = harness.system.spawn(
                lambda: RetentionSweeper(reader, remove, Retention(DAY), is_busy, trio.current_time), name=f"{busy}"
            )
            await trio.sleep(RETURN_GRACE + 20)
            sweeper.kill()
            assert deleted[0] - began == pytest.approx(min(busy, MOST_BUSY * BUSY_SECONDS), abs=BUSY_SECONDS)
            deleted.clear()


async def test_what_storage_could_not_delete_is_deleted_and_counted_once(autojump_clock: MockClock) -> None:
    faults = [CommitFault.AWAY, CommitFault.FORGOTTEN, CommitFault.STORED, None]
    armed = [False]

    def fault() -> CommitFault | None:
        return faults.pop(0) if armed[0] and faults else None

    async with open_virtual_time_chat(
        autojump_clock, None, policy=POLICY, wrap_store=lambda store: FaultyStore(store, iter(fault, "never"))
    ) as chat_driver:
        chats = [await closed_chat(chat_driver) for _ in range(3)]
        armed[0] = True
        await trio.sleep(32 * DAY)
        assert faults == []
        assert [await is_there(chat_driver, chat) for chat in chats] == [False, False, False]
        assert sum(counts["chats"] for counts in await records(chat_driver)) == 3


async def test_a_run_that_is_cut_off_goes_on_after_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    def slow(_: Runner) -> Runner:
        # SQLite in this thread, because a virtual clock does not wait for others.
        return DelayedRunner(InPlace(), lambda: 0.1)

    url = f"sqlite:///{tmp_path}/chat.db"
    async with open_virtual_time_chat(autojump_clock, None, url=url, wrap_runner=slow) as chat_driver:
        for _ in range(20):
            await closed_chat(chat_driver, GUEST, texts=5)
    await trio.sleep(31 * DAY)
    async with open_virtual_time_chat(autojump_clock, None, url=url, policy=POLICY, wrap_runner=slow) as chat_driver:
        await trio.sleep(RETURN_GRACE + 1)
        # What follows is the end of the server in the middle of the run.
        await chat_driver.chats.drain()
        [cut_off] = await records(chat_driver)
        assert 1 <= cut_off["chats"] < 20
    async with open_virtual_time_chat(autojump_clock, None, url=url, policy=POLICY, wrap_runner=slow) as chat_driver:
        await trio.sleep(RETURN_GRACE + 100)
        assert (await chat_driver.chats.chat_reader.chats(ChatFilter())).chats == ()
        assert await chat_driver.chats.chat_reader.person(identity_of(GUEST)) is None
        rest, before = await records(chat_driver)
        assert before["chats"] >= cut_off["chats"]
        assert rest["chats"] + before["chats"] == 20
        assert rest["messages"] + before["messages"] == 120
    contents = b"".join([await path.read_bytes() for path in await trio.Path(tmp_path).iterdir()])
    assert b"text 3" not in contents
