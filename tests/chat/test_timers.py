"""Timers that return or close chats, and the reopening of closed chats, in virtual time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.actors import open_system
from actorchat.chat.accounts import SetAway
from actorchat.chat.model import Policy
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    CloseChat,
    Operation,
    ReleaseChat,
    ReopenChat,
    ReserveChat,
    SetOnline,
    TransferChat,
)
from actorchat.chat.sweeper import AT_ONCE, MAX_BACKOFF, Sweeper
from actorchat.protocol import (
    ChatStatus,
    ChatUpdated,
    GlobalUpdated,
    MessageAdded,
    OperatorUpdated,
    Profile,
    Role,
    User,
)
from actorchat.storage import open_journal, open_store
from actorchat.storage.journal import Journal
from tests.chat.harness import SOURCES, ChatHarness, open_chat
from tests.chat.people import ANNA, BORIS, CHAT, OLGA, PETR
from tests.storage.sample_chat import OutcomeRecorder

ANSWER = Policy(answer_timeout=30)


async def asked(harness: ChatHarness, owner: User = ANNA) -> UUID:
    chat = await harness.reserve(owner)
    await harness.chats.perform(AddMessage(chat, owner, "hi"))
    return chat


async def stands(harness: ChatHarness, chat: UUID) -> tuple[str, int | None]:
    state = await harness.state(chat)
    return state.stage.value, None if state.operator is None else state.operator.id


async def test_accepting_late_gives_the_operator_the_whole_answer_time(autojump_clock: MockClock) -> None:
    async with open_chat(policy=ANSWER) as harness:
        chat = await asked(harness)
        await trio.sleep(1000.7)
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await trio.sleep(30)
        assert await stands(harness, chat) == ("open", OLGA.id)
        await trio.sleep(2.5)
        assert await stands(harness, chat) == ("new", None)


async def test_a_transferred_chat_that_was_answered_waits_for_its_new_operator(autojump_clock: MockClock) -> None:
    async with open_chat(policy=ANSWER) as harness:
        chat = await asked(harness)
        await harness.chats.perform(AddMessage(chat, OLGA, "hello"))
        await trio.sleep(100)
        assert await stands(harness, chat) == ("open", OLGA.id)
        await harness.chats.perform(TransferChat(chat, OLGA, PETR.id))
        await trio.sleep(29.5)
        assert await stands(harness, chat) == ("new", PETR.id)
        await trio.sleep(3)
        assert await stands(harness, chat) == ("new", None)


async def test_an_unanswered_chat_is_never_closed_and_stays_unread(autojump_clock: MockClock) -> None:
    async with open_chat(policy=Policy(answer_timeout=30, idle_timeout=60)) as harness:
        console = await harness.console(PETR)
        chat = await asked(harness)
        await trio.sleep(3_000)
        assert await stands(harness, chat) == ("new", None)
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await trio.sleep(3_000)
        assert await stands(harness, chat) == ("new", None)
        assert console.recorder.got(GlobalUpdated)[-1].unread_chats == 1
        assert ChatStatus.CLOSED not in [event.chat.status for event in console.recorder.got(ChatUpdated)]


async def test_an_idle_close_reaches_the_visitor_and_the_consoles(autojump_clock: MockClock) -> None:
    async with open_chat(policy=Policy(idle_timeout=60)) as harness:
        console = await harness.console(OLGA)
        chat = await asked(harness)
        await harness.chats.perform(AddMessage(chat, OLGA, "hello"))
        strict, extended = await harness.join(chat, ANNA, Profile.STRICT), await harness.join(chat, ANNA)
        await trio.sleep(50)
        for socket in (console, strict, extended):
            socket.recorder.take()
        await trio.sleep(20)
        assert strict.recorder.types() == ["message_added"]
        assert extended.recorder.types() == ["chat_updated", "message_added"]
        (told,) = strict.recorder.got(MessageAdded)
        assert (told.message.type_role, told.message.chat.status) == (Role.USER, ChatStatus.CLOSED)
        assert console.recorder.types() == ["chat_updated", "operator_updated", "global_updated", "chat_summary"]
        (shown,) = console.recorder.got(ChatUpdated)
        assert (shown.chat.status, shown.chat.operator_user) == (ChatStatus.CLOSED, OLGA)
        assert console.recorder.got(GlobalUpdated)[-1].unread_chats == 0


async def test_a_closed_chat_reopens_with_its_operator_only_if_online(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        olga = await harness.console(OLGA)
        chat = await asked(harness)
        await harness.chats.perform(AcceptChat(chat, OLGA))
        for reopened_in_grace in (False, True):
            await harness.chats.perform(CloseChat(chat, ANNA))
            if reopened_in_grace:
                await harness.leave(olga)
            await trio.sleep(20)
            await harness.chats.perform(AddMessage(chat, ANNA, "one more thing"))
            assert await stands(harness, chat) == ("open", OLGA.id)
        await harness.chats.perform(CloseChat(chat, ANNA))
        await trio.sleep(20)
        for operation in (AddMessage(chat, ANNA, "and another"), ReopenChat(chat, ANNA)):
            await harness.chats.perform(operation)
            assert await stands(harness, chat) == ("new", None)
            await harness.chats.perform(AcceptChat(chat, OLGA))
            await harness.chats.perform(CloseChat(chat, ANNA))


async def test_an_operator_is_offline_before_its_chats_are_returned(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[Operation] = []
    submit = Journal.submit

    def recording(self: Journal, operation: Operation, *rest: object) -> bool:
        submitted.append(operation)
        return submit(self, operation, *rest)  # type: ignore[arg-type]  # passed on unchanged

    monkeypatch.setattr(Journal, "submit", recording)
    async with open_chat() as harness:
        olga, petr = await harness.console(OLGA), await harness.console(PETR)
        for owner in (ANNA, BORIS):
            await harness.chats.perform(AcceptChat(await asked(harness, owner), OLGA))
        await harness.leave(olga)
        await trio.sleep(29)
        submitted.clear()
        petr.recorder.take()
        await trio.sleep(2)
        assert submitted[0] == SetOnline(OLGA.id, False)
        assert [type(each) for each in submitted].count(ReleaseChat) == 2
        told = [each for each in petr.recorder.got(OperatorUpdated) if each.user.id == OLGA.id]
        assert [(each.is_online, each.open_chats) for each in told] == [(False, 2), (False, 0)]


async def test_a_chat_given_to_an_operator_that_is_leaving_is_returned_too(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        await harness.person(BORIS, frozenset())
        olga = await harness.console(OLGA)
        mine, given = await asked(harness), await asked(harness, BORIS)
        await harness.chats.perform(AcceptChat(mine, OLGA))
        await harness.leave(olga)
        await trio.sleep(1)
        # As if the server were killed right after the operator was stored as offline.
        await harness.chats.people.store_presence(OLGA.id, True)
        record = await harness.chats.people.store_presence(OLGA.id, False)
        assert record.leaving
        await harness.chats.perform(TransferChat(given, PETR, OLGA.id))
        record = await harness.chats.people.return_chats(OLGA.id)
        assert not record.leaving
        assert await stands(harness, mine) == await stands(harness, given) == ("new", None)
        # From now on an operator who is shown as offline can be given a chat and keeps it.
        await harness.chats.perform(TransferChat(given, PETR, OLGA.id))
        assert await stands(harness, given) == ("new", OLGA.id)


async def test_the_unanswered_chats_of_an_operator_who_goes_away_are_returned_and_open_ones_are_not(
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as harness:
        await harness.person(BORIS, frozenset())
        await harness.console(OLGA)
        mine, given = await asked(harness), await asked(harness, BORIS)
        await harness.chats.perform(AcceptChat(mine, OLGA))
        await harness.chats.perform(TransferChat(given, PETR, OLGA.id))
        await harness.chats.people.decide_on_account(SetAway(OLGA.id, True))
        await trio.sleep(1)
        assert await stands(harness, mine) == ("open", OLGA.id)
        assert await stands(harness, given) == ("new", None)
        # A chat that somebody gives to the operator on purpose stays there.
        await harness.chats.perform(TransferChat(given, PETR, OLGA.id))
        await trio.sleep(1)
        assert await stands(harness, given) == ("new", OLGA.id)


async def test_a_return_that_a_kill_interrupted_is_completed_at_the_next_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    with trio.fail_after(20):
        async with open_chat(store=url) as harness:
            chat = await asked(harness)
            await harness.chats.perform(AcceptChat(chat, OLGA))
            await harness.chats.people.store_presence(OLGA.id, True)
            # The server ends after this commit, of which the directory is not notified.
            assert (await harness.chats.people.store_presence(OLGA.id, False)).leaving
            assert await stands(harness, chat) == ("open", OLGA.id)
        async with open_chat(store=url) as harness:
            while await stands(harness, chat) != ("new", None):
                await trio.lowlevel.checkpoint()
            while (await harness.chats.chat_reader.operators(SOURCES))[0].person.leaving:
                await trio.lowlevel.checkpoint()


async def test_an_operator_without_a_console_keeps_its_chats_over_restarts(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    async with open_chat(store=url) as harness:
        chat = await asked(harness)
        await harness.chats.perform(AcceptChat(chat, OLGA))
    async with open_chat(store=url) as harness:
        await wait_all_tasks_blocked()
        assert not (await harness.chats.people.return_chats(OLGA.id)).leaving
        assert await stands(harness, chat) == ("open", OLGA.id)


async def test_timers_from_before_a_start_end_only_after_a_grace(autojump_clock: MockClock) -> None:
    policy, old, new = Policy(answer_timeout=5), CHAT, UUID(int=5)
    swept: list[tuple[UUID, float]] = []

    async def sweep(chat: UUID) -> None:
        swept.append((chat, trio.current_time() - started))

    async with (
        open_store("memory://", policy) as storage,
        open_journal(storage.store, storage.runner, clock=trio.current_time) as journal,
    ):

        async def accepted(chat: UUID, owner: User) -> None:
            for operation in (ReserveChat(chat, "lk", owner), AddMessage(chat, owner, "hi"), AcceptChat(chat, OLGA)):
                journal.submit(operation, OutcomeRecorder())
            await journal.barrier()

        await accepted(old, ANNA)
        # The server is down for an hour, in which no answer could be sent.
        await trio.sleep(3_600)
        started = trio.current_time()
        async with open_system() as system:
            system.spawn(lambda: Sweeper(storage.chat_reader, sweep, trio.current_time))
            await accepted(new, BORIS)
            await trio.sleep(32)
    at = {chat: [moment for each, moment in swept if each == chat] for chat in (old, new)}
    assert 5 <= at[new][0] <= 7
    assert 30 <= at[old][0] <= 32


async def test_chats_that_cannot_be_swept_wait_ever_longer_and_starve_no_others(autojump_clock: MockClock) -> None:
    swept: list[tuple[UUID, float]] = []

    async def sweep(chat: UUID) -> None:
        swept.append((chat, trio.current_time()))

    async with (
        open_store("memory://", Policy(answer_timeout=5)) as storage,
        open_journal(storage.store, storage.runner, clock=trio.current_time) as journal,
        open_system() as system,
    ):
        system.spawn(lambda: Sweeper(storage.chat_reader, sweep, trio.current_time))
        chats = [UUID(int=number) for number in range(1, AT_ONCE + 11)]
        for chat in chats:
            owner = User(chat.int, Role.USER)
            for operation in (ReserveChat(chat, "lk", owner), AddMessage(chat, owner, "hi"), AcceptChat(chat, OLGA)):
                journal.submit(operation, OutcomeRecorder())
        await journal.barrier()
        await trio.sleep(15)
        assert {chat for chat, _ in swept} == set(chats)
        await trio.sleep(600)
    moments = [moment for chat, moment in swept if chat == chats[0]]
    waits = [later - earlier for earlier, later in pairwise(moments)]
    assert waits[0] <= 2
    assert MAX_BACKOFF <= waits[-1] <= MAX_BACKOFF + 2
