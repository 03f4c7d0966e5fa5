"""Reserved chats without a message are deleted after their timeout, unless they are in use."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.chat import ChatRefused
from actorchat.chat.model import ANONYMOUS_IDS, Identity, Policy
from actorchat.chat.operations import AddMessage, CloseChat
from actorchat.chat.service import ROOM_IDLE
from actorchat.chat.sweeper import AT_ONCE, RETURN_GRACE
from actorchat.protocol import Profile, Role, User
from actorchat.testing import CommitFault, DelayedRunner, FaultyStore
from tests.chat.harness import ChatHarness, RecordingSession, open_chat
from tests.chat.people import ANNA, OLGA
from tests.system.virtual_time_chat import VirtualTimeChat, open_virtual_time_chat

POLICY = Policy(reserved_timeout=100)
GUEST = User(ANONYMOUS_IDS + 1, Role.USER)


async def is_there(harness: ChatHarness | VirtualTimeChat, chat: UUID) -> bool:
    return await harness.chats.chat_reader.chat(chat) is not None


async def test_an_unused_chat_expires_with_its_anonymous_owner(
    autojump_clock: MockClock,
) -> None:
    async with open_chat(POLICY) as harness:
        unused, used = await harness.reserve(GUEST), await harness.reserve(ANNA)
        await harness.chats.perform(AddMessage(used, ANNA, "hi"))
        await trio.sleep(99)
        assert await is_there(harness, unused)
        await trio.sleep(20)
        assert not await is_there(harness, unused)
        assert await is_there(harness, used)
        assert await harness.chats.chat_reader.person(Identity(Role.USER, GUEST.id)) is None
        with pytest.raises(ChatRefused, match="not_found"):
            await harness.chats.joining.room(RecordingSession(GUEST), unused, None)
        with pytest.raises(ChatRefused, match="not_found"):
            await harness.chats.perform(AddMessage(unused, GUEST, "hi"))
        # The guest's token is still valid, and gets another chat.
        assert await harness.reserve(GUEST) != unused


async def test_an_unused_chat_is_kept_while_somebody_is_in_its_room(autojump_clock: MockClock) -> None:
    async with open_chat(POLICY) as harness:
        chat = await harness.reserve(GUEST)
        guest = await harness.join(chat, GUEST)
        await trio.sleep(1000)
        guest.say("I have thought about it")
        await trio.sleep(1)
        assert guest.recorder.texts() == ["I have thought about it"]

        chat = await harness.reserve(ANNA)
        operator = await harness.join(chat, OLGA)
        await trio.sleep(500)
        await harness.leave(operator)
        # A receiver holds the room's address.
        del operator
        await trio.sleep(ROOM_IDLE)
        assert await is_there(harness, chat)
        await trio.sleep(ROOM_IDLE + 2 * POLICY.reserved_timeout)
        assert not await is_there(harness, chat)


async def test_an_unused_chat_that_is_requested_again_is_kept(autojump_clock: MockClock) -> None:
    async with open_chat(POLICY) as harness:
        chat = await harness.reserve(GUEST)
        for _ in range(10):
            await trio.sleep(70)
            assert await harness.reserve(GUEST) == chat


async def test_clients_have_time_to_reconnect_after_a_start(autojump_clock: MockClock) -> None:
    async with open_chat(Policy(reserved_timeout=1)) as harness:
        chat = await harness.reserve(GUEST)
        await trio.sleep(RETURN_GRACE - 1)
        assert await is_there(harness, chat)
        await trio.sleep(2)
        assert not await is_there(harness, chat)


async def test_many_chats_expire_a_few_at_a_time_in_one_transaction_each(autojump_clock: MockClock) -> None:
    async with open_virtual_time_chat(autojump_clock, None, policy=POLICY) as chat_driver:
        for number in range(2 * AT_ONCE + 10):
            await chat_driver.chats.reserve_chat(f"made-up-{number}", GUEST)
        await trio.sleep(100)
        before = chat_driver.journal.statistics()
        await trio.sleep(20)
        after = chat_driver.journal.statistics()
        assert await chat_driver.chats.chat_reader.unused(trio.current_time(), 1) == ()
        assert after.operations - before.operations == 2 * AT_ONCE + 10
        assert after.batches - before.batches == 3
        # No room was activated for the deletions.
        assert not [ref for ref in chat_driver.system.live() if ref.name.startswith("room/")]


FATES = [(None, False), (CommitFault.STORED, False), (CommitFault.FORGOTTEN, True), (CommitFault.AWAY, True)]
"""The faults of a deletion's commit, and whether the chat exists afterwards."""


@asynccontextmanager
async def expiring(clock: MockClock, fault: CommitFault | None) -> AsyncIterator[tuple[VirtualTimeChat, UUID]]:
    """A guest's chat whose deletion was just submitted. The commit takes a second, and longer with a fault."""
    faults: list[CommitFault | None] = []
    slow = [0.0]
    async with open_virtual_time_chat(
        clock,
        None,
        wrap_store=lambda store: FaultyStore(
            store, iter(lambda: faults.pop() if faults else None, "never"), away_for=2
        ),
        wrap_runner=lambda runner: DelayedRunner(runner, lambda: slow[0]),
    ) as chat_driver:
        chat, _ = await chat_driver.chats.reserve_chat("lk", GUEST)
        await trio.sleep(10)
        faults.append(fault)
        slow[0] = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat_driver.chats.expire, [chat.uuid], trio.current_time())
            await wait_all_tasks_blocked()
            yield chat_driver, chat.uuid


async def tried(call: Awaitable[object]) -> str:
    try:
        await call
    except ChatRefused as refused:
        return refused.code
    return "done"


@pytest.mark.parametrize(("fault", "kept"), FATES)
async def test_a_join_during_a_deletion_waits_for_its_outcome(
    fault: CommitFault | None, kept: bool, autojump_clock: MockClock
) -> None:
    async with expiring(autojump_clock, fault) as (chat_driver, chat):
        recorder, before = RecordingSession(GUEST), trio.current_time()
        with pytest.raises(trio.WouldBlock):
            chat_driver.chats.joining.room_nowait(recorder, chat, None)
        assert await tried(chat_driver.chats.joining.room(recorder, chat, None)) == ("done" if kept else "not_found")
        assert trio.current_time() - before >= 0.5
        assert await is_there(chat_driver, chat) is kept
        assert recorder.types() == (["user_connected"] if kept else [])


@pytest.mark.parametrize(("fault", "kept"), FATES)
async def test_a_message_before_the_deletion_keeps_the_chat_and_a_late_one_fails(
    fault: CommitFault | None, kept: bool, autojump_clock: MockClock
) -> None:
    async with expiring(autojump_clock, fault) as (chat_driver, chat):
        say = AddMessage(chat, GUEST, "hi", client_id="k")
        answer = await tried(chat_driver.chats.perform(say))
        while answer == "storage_unavailable":
            await trio.sleep(1)
            answer = await tried(chat_driver.chats.perform(say))
        assert answer == ("done" if kept else "not_found")
        assert await is_there(chat_driver, chat) is kept


async def test_a_chat_whose_first_message_is_on_its_way_is_kept(autojump_clock: MockClock) -> None:
    async with open_virtual_time_chat(
        autojump_clock, None, wrap_runner=lambda runner: DelayedRunner(runner, lambda: 1.0)
    ) as chat_driver:
        chat, _ = await chat_driver.chats.reserve_chat("lk", GUEST)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat_driver.chats.perform, AddMessage(chat.uuid, GUEST, "hi"))
            await trio.sleep(3)
            nursery.start_soon(chat_driver.chats.expire, [chat.uuid], trio.current_time() + 100)
        state = await chat_driver.chats.chat_reader.chat(chat.uuid)
        assert state is not None
        assert state.next_index == 1


async def test_a_room_read_before_its_chat_was_deleted_does_not_open(autojump_clock: MockClock) -> None:
    delays: list[float] = []
    async with open_virtual_time_chat(
        autojump_clock,
        None,
        wrap_runner=lambda runner: DelayedRunner(runner, lambda: delays.pop(0) if delays else 0.0),
    ) as chat_driver:
        chat, _ = await chat_driver.chats.reserve_chat("lk", GUEST)
        async with trio.open_nursery() as nursery:
            # The room's read happens after 2 s and returns after 4 s; the deletion is in between.
            delays += [4.0, 2.0]
            nursery.start_soon(tried, chat_driver.chats.perform(CloseChat(chat.uuid, GUEST)))
            await trio.sleep(1.5)
            nursery.start_soon(chat_driver.chats.expire, [chat.uuid], trio.current_time())
        assert not await is_there(chat_driver, chat.uuid)
        with pytest.raises(trio.WouldBlock):
            chat_driver.chats.chat_nowait(chat.uuid)
        assert await tried(chat_driver.chats.joining.room(RecordingSession(GUEST), chat.uuid, None)) == "not_found"


async def test_what_storage_could_not_delete_is_deleted_later(autojump_clock: MockClock) -> None:
    faults = [CommitFault.AWAY, CommitFault.FORGOTTEN, None]
    armed = [False]

    def fault() -> CommitFault | None:
        return faults.pop(0) if armed[0] and faults else None

    async with open_virtual_time_chat(
        autojump_clock, None, policy=POLICY, wrap_store=lambda store: FaultyStore(store, iter(fault, "never"))
    ) as chat_driver:
        chat, _ = await chat_driver.chats.reserve_chat("lk", GUEST)
        armed[0] = True
        await trio.sleep(200)
        assert faults == []
        assert not await is_there(chat_driver, chat.uuid)


async def test_visitors_without_messages_leave_nothing_behind(autojump_clock: MockClock) -> None:
    """A thousand visitors: only the chats of the last minutes are in storage, and none in the end."""
    async with open_virtual_time_chat(autojump_clock, None, policy=POLICY) as chat_driver:
        chat_reader = chat_driver.chats.chat_reader
        most = 0
        for number in range(1000):
            guest = User(ANONYMOUS_IDS + number, Role.USER)
            chat, _ = await chat_driver.chats.reserve_chat(f"made-up-{number}", guest)
            if number % 10 == 0:
                await chat_driver.leave(await chat_driver.join(chat.uuid, guest, Profile.EXTENDED))
            await trio.sleep(1)
            if number % 100 == 0:
                most = max(most, len(await chat_reader.unused(trio.current_time() + 1, 10_000)))
        assert most < 3 * POLICY.reserved_timeout
        # A closed session holds its room's address until it is collected, and an open room keeps its chat.
        gc.collect()
        await trio.sleep(5 * POLICY.reserved_timeout)
        assert await chat_reader.unused(trio.current_time(), 1) == ()
        for number in range(1000):
            assert await chat_reader.person(Identity(Role.USER, ANONYMOUS_IDS + number)) is None
        assert not [ref for ref in chat_driver.system.live() if ref.name.startswith(("room/", "feed/"))]
