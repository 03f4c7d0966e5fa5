"""The directory sends counters and presence to consoles, in whatever order they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.actors import Ref, open_system
from actorchat.chat import operator_directory as directory_module
from actorchat.chat.model import OperatorCounters, PersonRecord, Policy, SourceCounters, endless
from actorchat.chat.operations import RecordPerson
from actorchat.chat.operator_directory import (
    ConsoleJoined,
    ConsoleLeft,
    Consoles,
    Counted,
    Directory,
    DirectoryMessage,
    PersonSeen,
)
from actorchat.chat.operator_feed import Console
from actorchat.chat.ports import OperatorRecord, StorageUnavailable
from actorchat.protocol import GlobalUpdated, OperatorUpdated
from actorchat.storage import open_journal, open_store
from tests.chat.harness import LINKS, SOURCES, RecordingSession
from tests.chat.people import OLGA
from tests.storage.sample_chat import OutcomeRecorder


async def refuse(operator_id: int, online: bool = False) -> PersonRecord:
    raise StorageUnavailable


async def test_an_older_revision_of_a_counter_never_wins(autojump_clock: MockClock) -> None:
    async with open_store("memory://", Policy()) as storage, open_system() as system:
        consoles = Consoles()
        directory = await system.start(lambda: Directory(storage.chat_reader, refuse, refuse, consoles))
        person = PersonRecord(OLGA, endless(SOURCES))
        recorder = RecordingSession(OLGA)
        record = OperatorRecord(person, OperatorCounters(OLGA.id))
        directory.signal(PersonSeen(person))
        await wait_all_tasks_blocked()
        console = Console(recorder, SOURCES, LINKS)
        consoles.join(console, (SourceCounters("lk"),))
        directory.signal(ConsoleJoined(console, (record,), (SourceCounters("lk"),)))
        for rev, unread in ((5, 2), (3, 9)):
            counters = (SourceCounters("lk", unread, rev), OperatorCounters(OLGA.id, unread, 0, rev))
            directory.signal(Counted(counters))
            await trio.sleep(1)
        await wait_all_tasks_blocked()
        assert [event.unread_chats for event in recorder.got(GlobalUpdated)] == [2]
        assert [event.new_chats for event in recorder.got(OperatorUpdated)] == [2]


async def test_a_profile_stored_before_the_presence_does_not_undo_it(
    autojump_clock: MockClock,
) -> None:
    person = PersonRecord(OLGA, endless(SOURCES))

    async def store(operator_id: int, online: bool) -> PersonRecord:
        return attrs.evolve(person, online=online)

    async with open_store("memory://", Policy()) as storage, open_system() as system:
        consoles, recorder = Consoles(), RecordingSession(OLGA)
        directory = await system.start(lambda: Directory(storage.chat_reader, store, refuse, consoles))
        directory.signal(PersonSeen(person))
        console = Console(recorder, SOURCES, LINKS)
        consoles.join(console, ())
        directory.signal(ConsoleJoined(console, (), ()))
        await trio.sleep(1)
        directory.signal(PersonSeen(person))
        await trio.sleep(1)
        assert recorder.got(OperatorUpdated)[-1].is_online


class _ChatDriver:
    """A directory over scripted storage; `calls` are (what, seconds since the start)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []
        self.failures = 0
        self.consoles = Consoles()
        self._started = trio.current_time()

    async def store_presence(self, operator_id: int, online: bool) -> PersonRecord:
        self._called("online" if online else "offline")
        return PersonRecord(OLGA, endless(SOURCES), online, leaving=not online)

    async def return_chats(self, operator_id: int) -> PersonRecord:
        self._called("return")
        if self.failures:
            self.failures -= 1
            raise StorageUnavailable
        return PersonRecord(OLGA, endless(SOURCES))

    def _called(self, what: str) -> None:
        self.calls.append((what, round(trio.current_time() - self._started, 1)))

    def connect(self, directory: Ref[DirectoryMessage]) -> Console:
        console = Console(RecordingSession(OLGA), SOURCES, LINKS)
        self.consoles.join(console, ())
        directory.signal(ConsoleJoined(console, (), ()))
        return console

    def disconnect(self, directory: Ref[DirectoryMessage], console: Console) -> None:
        assert self.consoles.leave(console)
        directory.signal(ConsoleLeft(OLGA.id))


@asynccontextmanager
async def open_chat_driver() -> AsyncIterator[tuple[_ChatDriver, Ref[DirectoryMessage]]]:
    async with open_store("memory://", Policy()) as storage, open_system() as system:
        async with open_journal(storage.store, storage.runner) as journal:
            journal.submit(RecordPerson(OLGA, frozenset(), SOURCES), OutcomeRecorder())
        chat_driver = _ChatDriver()
        yield (
            chat_driver,
            await system.start(
                lambda: Directory(
                    storage.chat_reader, chat_driver.store_presence, chat_driver.return_chats, chat_driver.consoles
                )
            ),
        )


async def test_chats_are_returned_after_the_operator_is_offline_and_again_until_it_worked(
    autojump_clock: MockClock,
) -> None:
    async with open_chat_driver() as (chat_driver, directory):
        chat_driver.failures = 2
        console = chat_driver.connect(directory)
        await trio.sleep(1)
        chat_driver.disconnect(directory, console)
        await trio.sleep(60)
        assert chat_driver.calls == [("online", 0), ("offline", 31), ("return", 31), ("return", 32), ("return", 33)]


async def test_an_operator_who_reconnects_keeps_the_chats_not_yet_returned(autojump_clock: MockClock) -> None:
    async with open_chat_driver() as (chat_driver, directory):
        chat_driver.failures = 100
        console = chat_driver.connect(directory)
        await trio.sleep(1)
        chat_driver.disconnect(directory, console)
        await trio.sleep(31.5)
        chat_driver.connect(directory)
        await trio.sleep(60)
        assert chat_driver.calls[1:] == [("offline", 31), ("return", 31), ("return", 32), ("online", 32.5)]


async def test_the_grace_period_counts_from_the_last_socket_even_if_heard_late(autojump_clock: MockClock) -> None:
    async with open_chat_driver() as (chat_driver, directory):
        first = chat_driver.connect(directory)
        await trio.sleep(1)
        chat_driver.disconnect(directory, first)
        await trio.sleep(29.9)
        second = Console(RecordingSession(OLGA), SOURCES, LINKS)
        chat_driver.consoles.join(second, ())
        assert chat_driver.consoles.leave(second)
        # The messages about the second socket come after the first one's timer has ended.
        await trio.sleep(1)
        assert chat_driver.calls == [("online", 0)]
        await trio.sleep(60)
        assert chat_driver.calls[1:] == [("offline", 60.9), ("return", 60.9)]


async def test_counters_of_sources_without_a_console_are_forgotten_when_there_are_many(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "KNOWN_SOURCES", 10)
    async with open_store("memory://", Policy()) as storage, open_system() as system:
        consoles, recorder = Consoles(), RecordingSession(OLGA)

        directory = await system.start(lambda: Directory(storage.chat_reader, refuse, refuse, consoles))
        console = Console(recorder, SOURCES, LINKS)
        consoles.join(console, ())
        directory.signal(ConsoleJoined(console, (), ()))
        for rev, source in enumerate(["lk", *(f"made-up-{number}" for number in range(100))], 1):
            counters = (SourceCounters(source, rev, rev),)
            consoles.count(counters)
            directory.signal(Counted(counters))
            await wait_all_tasks_blocked()
            assert len(consoles.sources) <= 10
        # A value that a console has seen is kept, so an older value is not sent again.
        directory.signal(Counted((SourceCounters("lk", 7, 0),)))
        await trio.sleep(1)
        assert "lk" in consoles.sources
        assert [event.unread_chats for event in recorder.got(GlobalUpdated)] == [1]
