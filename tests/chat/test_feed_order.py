"""Consoles get events in the order of the commits: first a chat's events, then its counters."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.chat.broadcast import Broadcast
from actorchat.chat.operations import CloseChat
from actorchat.chat.operator_directory import Directory
from actorchat.chat.operator_feed import Console, Feed, FeedItem
from actorchat.chat.publisher import Publisher
from actorchat.protocol import (
    ChatUpdated,
    Event,
    Frames,
    GlobalUpdated,
    MessageAdded,
    OperatorUpdated,
)
from actorchat.storage.store import Store
from actorchat.testing import CommitFault, FaultyStore
from tests.chat.harness import LINKS, SOURCES, RecordingSession, open_chat
from tests.chat.people import ANNA, CHAT, OLGA, PETR
from tests.chat.test_crashes import plant


def short(events: list[Event]) -> list[Any]:
    """The events in a short form that distinguishes them."""
    told: list[Any] = []
    for event in events:
        match event:
            case ChatUpdated(chat=each):
                told.append(each.status.value)
            case MessageAdded(message=message):
                told.append(message.text)
            case OperatorUpdated(user=user) if user.id == OLGA.id:
                told.append((event.new_chats, event.open_chats))
            case GlobalUpdated(unread_chats=unread):
                told.append(unread)
            case _:
                pass
    return told


@pytest.mark.parametrize("fault", [CommitFault.STORED, CommitFault.FORGOTTEN])
async def test_a_console_that_joins_during_an_uncertain_commit_sends_nothing(
    fault: CommitFault, autojump_clock: MockClock
) -> None:
    faults: list[CommitFault] = []

    def broken(store: Store) -> Store:
        return FaultyStore(store, iter(lambda: faults.pop() if faults else None, object()), away_for=4)

    async with open_chat(faults=broken) as harness:
        petr, chat = await harness.console(PETR), await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        anna.say("hello")
        await trio.sleep(1)
        petr.recorder.take()
        faults.append(fault)
        olga.say("in doubt")
        await wait_all_tasks_blocked()
        late = await harness.console(PETR)
        snapshot = short(late.recorder.take())
        await trio.sleep(1)
        assert (short(petr.recorder.take()), short(late.recorder.take())) == ([], [])
        await trio.sleep(20)
        stored = fault is CommitFault.STORED
        assert snapshot == [(0, int(stored)), 1, "open" if stored else "new"]
        assert short(petr.recorder.take()) == (["open", "in doubt", (0, 1)] if stored else [])
        assert short(late.recorder.take()) == []


async def test_a_directory_that_crashes_during_an_uncertain_commit_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    faults: list[CommitFault] = []

    def broken(store: Store) -> Store:
        return FaultyStore(store, iter(lambda: faults.pop() if faults else None, object()), away_for=5)

    async with open_chat(faults=broken) as harness:
        petr, chat = await harness.console(PETR), await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        anna.say("hello")
        await trio.sleep(1)
        faults.append(CommitFault.STORED)
        olga.say("in doubt")
        await wait_all_tasks_blocked()
        petr.recorder.take()
        plant(monkeypatch, Directory, "_console_joined", 1)
        await harness.console(OLGA)
        await trio.sleep(0.5)
        assert set(short(petr.recorder.take())) <= {(0, 0)}
        await trio.sleep(20)
        told = short(petr.recorder.take())
        # The counter is sent once more when the operator is stored as online.
        assert list(dict.fromkeys(each for each in told if each != (0, 0))) == ["open", "in doubt", (0, 1)]


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize(("owner", "name"), [(Publisher, "publish"), (Broadcast, "_encode"), (Directory, "_count")])
async def test_after_a_crash_every_event_is_sent_once_in_order(
    owner: type, name: str, nth: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        petr, chat = await harness.console(PETR), await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        anna.say("hello")
        await trio.sleep(1)
        petr.recorder.take()
        anna.recorder.take()
        plant(monkeypatch, owner, name, nth, times=2)
        # All of these are one batch of the journal.
        anna.say("one")
        olga.say("two")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.chats.perform, CloseChat(chat, OLGA))
            await wait_all_tasks_blocked()
            anna.say("three")
        await trio.sleep(10)
        told = short(petr.recorder.take())
        assert [each for each in told if isinstance(each, str)] == ["one", "open", "two", "closed", "new", "three"]
        assert [1, *(each for each in told if isinstance(each, int))][-1] == 1
        assert [each for each in told if isinstance(each, tuple)][-1] == (0, 0)
        assert told.count((0, 1)) <= 2
        in_room = [each for each in short(anna.recorder.take()) if each != "The chat was closed."]
        assert in_room == ["one", "open", "two", "closed", "new", "three"]


async def test_a_console_gets_only_the_revisions_that_its_snapshot_lacks() -> None:
    def frames(*texts: str) -> Frames:
        return Frames.of([text.encode() for text in texts])

    # Revisions 4 to 7 of one chat; consoles get nothing for revision 5.
    item = FeedItem(CHAT, 7, frames("a", "b", "c", "d"), (), ((4, 2), (5, 2), (6, 3), (7, 4)))
    for shown, seen in ((3, "abcd"), (4, "cd"), (5, "cd"), (6, "d"), (7, "")):
        recorder = RecordingSession(PETR)
        console = Console(recorder, SOURCES, LINKS)
        console.show([item], item.frames, linked=False)
        console.release({CHAT: shown})
        assert b"".join(recorder.payloads).decode() == seen
        last = FeedItem(CHAT, 8, frames("e"))
        console.show([last], last.frames, linked=False)
        assert b"".join(recorder.payloads).decode() == seen + "e"


async def test_a_broadcast_of_several_revisions_assigns_frames_to_each(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        await harness.console(PETR)
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        feed_state = harness.chats._feeds.anchor("lk")
        items: list[FeedItem] = []
        feed_state.put = items.append  # type: ignore[method-assign, assignment] # records the feed items
        anna.say("one")
        olga.say("two")
        anna.say("three")
        await harness.settle()
        assert [(item.rev, item.steps) for item in items] == [(3, ((1, 2), (2, 4), (3, 5)))]


async def test_draining_waits_for_a_room_that_has_crashed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        petr = await harness.console(PETR)
        anna = await harness.join(await harness.reserve(), ANNA)
        await trio.sleep(1)
        petr.recorder.take()
        plant(monkeypatch, Publisher, "publish", 1, times=2)
        anna.say("hello")
        await harness.chats.drain()
        assert anna.recorder.texts() == ["hello"]
        assert short(petr.recorder.take())[:2] == ["new", "hello"]


@pytest.mark.parametrize("nth", [1, 3])
async def test_draining_waits_for_a_feed_that_has_crashed(
    nth: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_chat() as harness:
        petr = await harness.console(PETR)
        anna = await harness.join(await harness.reserve(), ANNA)
        await trio.sleep(1)
        petr.recorder.take()
        plant(monkeypatch, Feed, "_flush", nth, times=3)
        anna.say("hello")
        await harness.chats.drain()
        assert short(petr.recorder.take())[:2] == ["new", "hello"]
