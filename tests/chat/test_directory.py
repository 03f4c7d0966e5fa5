"""What the directory tells consoles of counters, whatever order they arrive in."""

from __future__ import annotations

import attrs
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.actors import open_system
from actorchat.chat.directory import ConsoleJoined, Consoles, Counted, Directory, PersonSeen
from actorchat.chat.feed import Console
from actorchat.chat.model import OperatorCounters, PersonRecord, Policy, SourceCounters
from actorchat.chat.ports import OperatorRecord, StorageUnavailable
from actorchat.protocol import GlobalUpdated, OperatorUpdated
from actorchat.storage import open_store
from tests.chat.people import OLGA
from tests.chat.world import LK, Recorder


async def refuse(operator_id: int, online: bool) -> PersonRecord:
    raise StorageUnavailable


async def test_an_older_revision_of_a_counter_never_wins(autojump_clock: MockClock) -> None:
    async with open_store("memory://", Policy()) as storage, open_system() as system:
        consoles = Consoles()
        directory = await system.start(lambda: Directory(storage.archive, refuse, consoles))
        person = PersonRecord(OLGA, LK)
        recorder = Recorder(OLGA)
        record = OperatorRecord(person, OperatorCounters(OLGA.id))
        directory.signal(PersonSeen(person))
        await wait_all_tasks_blocked()
        console = Console(recorder, LK)
        consoles.join(console, (SourceCounters("lk"),))
        directory.signal(ConsoleJoined(console, (record,), (SourceCounters("lk"),)))
        for rev, unread in ((5, 2), (3, 9)):
            counters = (SourceCounters("lk", unread, rev), OperatorCounters(OLGA.id, unread, 0, rev))
            directory.signal(Counted(counters))
            await trio.sleep(1)
        await wait_all_tasks_blocked()
        assert [event.unread_chats for event in recorder.got(GlobalUpdated)] == [2]
        assert [event.new_chats for event in recorder.got(OperatorUpdated)] == [2]


async def test_a_profile_that_was_stored_before_its_presence_does_not_take_the_presence_back(
    autojump_clock: MockClock,
) -> None:
    person = PersonRecord(OLGA, LK)

    async def store(operator_id: int, online: bool) -> PersonRecord:
        return attrs.evolve(person, online=online)

    async with open_store("memory://", Policy()) as storage, open_system() as system:
        consoles, recorder = Consoles(), Recorder(OLGA)
        directory = await system.start(lambda: Directory(storage.archive, store, consoles))
        directory.signal(PersonSeen(person))
        console = Console(recorder, LK)
        consoles.join(console, ())
        directory.signal(ConsoleJoined(console, (), ()))
        await trio.sleep(1)
        directory.signal(PersonSeen(person))
        await trio.sleep(1)
        assert recorder.got(OperatorUpdated)[-1].is_online
