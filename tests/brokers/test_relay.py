"""The relay publishes what is logged, once it can, in order, and remembers how far it got."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from uuid import UUID

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.blobs.links import SignedLinks
from actorchat.brokers import BrokerUnavailable, Relays, open_relays
from actorchat.brokers.message_builder import MessageBuilder
from actorchat.chat.commit_log import LogEntry, Trimmed
from actorchat.chat.model import Policy
from actorchat.chat.operations import AcceptChat, AddMessage, Operation, RecordPerson, ReserveChat
from actorchat.protocol import BrokerChannel, BrokerMessage, Message, Role, User
from actorchat.storage.async_log import AsyncLog
from actorchat.storage.memory import MemoryStore
from actorchat.storage.store import Batch
from actorchat.storage.worker_threads import InPlace

ANN, EVE = User(1, Role.USER, firstname="Ann"), User(1, Role.OPERATOR, firstname="Eve")
CHAT = UUID(int=1)
LINKS = SignedLinks(b"key", lambda: NOW, seconds=60)
NOW = 1_700_000_000
EPOCH = 5


class Place:
    """A store with a log, and a way to commit to it."""

    def __init__(self, *brokers: str) -> None:
        self.store = MemoryStore(Policy(), lambda: EPOCH, brokers or ("b",))
        self.log = AsyncLog(self.store, InPlace(), InPlace())
        self.relays: Relays | None = None
        self._numbers = count(1)
        self.commit(RecordPerson(EVE, frozenset(), frozenset({"shop"})), ReserveChat(CHAT, "shop", ANN))

    def commit(self, *operations: Operation, now: float | None = None) -> None:
        number = next(self._numbers)
        self.store.commit(operations, Batch("writer", number, NOW + number if now is None else now))
        if self.relays is not None:
            self.relays.committed()

    def say(self, *texts: str) -> None:
        self.commit(*(AddMessage(CHAT, ANN, text) for text in texts))


class ScriptedBroker:
    """A broker that is away, full or slow when a test says so."""

    def __init__(self, problem: str = "") -> None:
        self.got: list[BrokerMessage] = []
        self.problem = problem
        self.full = ""
        self.takes = 1_000_000
        self.connections = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["ScriptedBroker"]:
        self.connections += 1
        await trio.lowlevel.checkpoint()
        if self.problem:
            raise BrokerUnavailable(self.problem)
        yield self

    async def publish(self, messages: Sequence[BrokerMessage]) -> None:
        await trio.sleep(0.001)
        for message in messages:
            if self.full or self.problem or not self.takes:
                raise BrokerUnavailable(self.full or self.problem or "the line broke")
            self.takes -= 1
            self.got.append(message)

    async def ping(self) -> None:
        if self.problem:
            raise BrokerUnavailable(self.problem)

    @property
    def texts(self) -> list[str]:
        bodies = [message.decode() for message in self.got if message.channel is BrokerChannel.MESSAGE]
        return [body.text for body in bodies if isinstance(body, Message)]

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.got]


@asynccontextmanager
async def relaying(place: Place, keep: float = 3_600, **brokers: ScriptedBroker) -> AsyncIterator[Relays]:
    with trio.fail_after(1_000):
        async with open_relays(
            brokers, place.log, links=LINKS, keep=keep, clock=lambda: NOW + trio.current_time()
        ) as relays:
            place.relays = relays
            yield relays


async def test_commits_are_published_in_order_with_their_ids(autojump_clock: MockClock) -> None:
    place, broker = Place(), ScriptedBroker()
    async with relaying(place, b=broker):
        place.commit(AddMessage(CHAT, ANN, "one"), AcceptChat(CHAT, EVE))
        place.say("two")
    assert broker.texts == ["one", "two"]
    assert broker.ids == [
        "operators/shop/5/1",
        f"{CHAT}/5/1/0",
        f"{CHAT}/5/1/1",
        f"{CHAT}/5/2/0",
        "operators/shop/5/2",
        "global/shop/5/1",
        f"{CHAT}/5/3/1",
    ]
    assert {message.source for message in broker.got} == {"shop"}


async def test_operators_and_counters_of_a_tenth_of_a_second_are_one_message(autojump_clock: MockClock) -> None:
    place, broker = Place(), ScriptedBroker()
    chats = [UUID(int=number) for number in range(2, 7)]
    async with relaying(place, b=broker):
        for number, chat in enumerate(chats):
            visitor = User(number + 10, Role.USER)
            place.commit(ReserveChat(chat, "shop", visitor), AddMessage(chat, visitor, "hi"), now=NOW + 500.01)
            place.commit(AcceptChat(chat, EVE), now=NOW + 500.02)
    merged = [message for message in broker.got if message.channel in (BrokerChannel.OPERATORS, BrokerChannel.GLOBAL)]
    assert [message.id for message in merged] == ["operators/shop/5/1", "operators/shop/5/11", "global/shop/5/5"]
    assert b'"open_chats":5' in merged[1].body
    assert merged[2].body == b'{"unread_chats":5}'


def test_entries_that_are_read_again_give_the_same_messages() -> None:
    place = Place()
    for number in range(20):
        place.commit(AddMessage(CHAT, ANN if number % 3 else EVE, "x"), now=NOW + number * 0.04)
    entries = place.store.entries(0, 1_000_000)

    def fail(entry: LogEntry, error: Exception) -> None:
        raise error

    def built(after: int) -> tuple[list[BrokerMessage], list[int]]:
        builder, messages, complete = MessageBuilder(LINKS, fail), list[BrokerMessage](), list[int]()
        for entry in entries:
            if entry.seq > after:
                messages += builder.add(entry)
                complete.append(builder.complete_before(entry.seq))
        return messages + builder.flush(), complete

    everything, complete = built(0)
    ids = [message.id for message in everything]
    for position in complete:
        again = [message.id for message in built(position)[0]]
        assert ids[len(ids) - len(again) :] == again


async def test_what_waits_while_the_broker_is_away_follows_in_order(autojump_clock: MockClock) -> None:
    place, broker = Place(), ScriptedBroker()
    broker.problem = "nobody listens"
    async with relaying(place, b=broker) as relays:
        for number in range(30):
            place.say(f"{number}a", f"{number}b")
            await trio.sleep(1)
        [away] = relays.statistics()
        assert (away.problem, away.outages, away.published) == ("nobody listens", 1, 0)
        assert away.behind > 15
        broker.problem = ""
        await trio.sleep(40)
        [back] = relays.statistics()
        assert (back.problem, back.behind) == (None, 0)
    assert broker.texts == [f"{number}{letter}" for number in range(30) for letter in "ab"]


async def test_a_line_that_breaks_repeats_messages_but_never_loses_or_swaps_them(autojump_clock: MockClock) -> None:
    place, broker = Place(), ScriptedBroker()
    async with relaying(place, b=broker):
        for number in range(20):
            broker.takes = 3
            place.say(*(f"{number}.{each}" for each in range(5)))
            await trio.sleep(2)
            broker.takes = 1_000_000
            await trio.sleep(5)
    seen = list(dict.fromkeys(broker.texts))
    assert len(broker.texts) > len(seen)
    assert seen == [f"{number}.{each}" for number in range(20) for each in range(5)]


async def test_each_broker_has_a_position_of_its_own(autojump_clock: MockClock) -> None:
    place, near, far = Place("near", "far"), ScriptedBroker(), ScriptedBroker()
    far.problem = "away"
    async with relaying(place, near=near, far=far):
        place.say("one")
        await trio.sleep(5)
        positions = place.store.positions()
        assert positions["near"] > positions["far"] == 0
        assert near.texts == ["one"]
    async with relaying(place, near=near, far=ScriptedBroker()) as relays:
        await relays.flush()
        assert near.texts == ["one"]


async def test_positions_survive_and_nothing_is_published_twice_after_a_calm_stop(autojump_clock: MockClock) -> None:
    place, broker = Place(), ScriptedBroker()
    for text in ("one", "two", "three"):
        async with relaying(place, b=broker):
            place.say(text)
    assert broker.texts == ["one", "two", "three"]
    assert len(broker.ids) == len(set(broker.ids))


async def test_a_crash_repeats_at_most_what_was_published_since_the_last_record(autojump_clock: MockClock) -> None:
    place, broker = Place(), ScriptedBroker()
    with trio.CancelScope() as scope:
        async with relaying(place, b=broker):
            place.say("old")
            await trio.sleep(3)
            recorded = dict(place.store.positions())
            place.say("new")
            await trio.sleep(0.05)
            place.store.record_relayed = lambda positions, expired: Trimmed(0, 0, 0)  # type: ignore[method-assign]
            scope.cancel()
    del place.store.record_relayed
    assert place.store.positions() == recorded
    async with relaying(place, b=broker):
        await trio.sleep(1)
    assert broker.texts == ["old", "new", "new"]


async def test_an_outage_is_one_line_a_minute_and_does_not_spin(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    place, broker = Place(), ScriptedBroker()
    broker.problem = "it refuses the user name or password"
    async with relaying(place, b=broker):
        place.say("x")
        await trio.sleep(300)
        assert broker.connections < 30
        broker.problem = ""
        await trio.sleep(40)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert 4 <= len(lines) <= 7
    assert set(lines[:-1]) == {"b takes no messages, they wait in storage: it refuses the user name or password"}
    assert lines[-1].startswith("b takes messages again, after 3")


async def test_a_broker_that_is_full_counts_as_away_though_it_accepts_connections(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    place, broker = Place(), ScriptedBroker()
    broker.full = "out of memory"
    async with relaying(place, b=broker) as relays:
        place.say("x")
        await trio.sleep(50)
        [statistics] = relays.statistics()
        assert (statistics.problem, statistics.outages) == ("out of memory", 1)
        assert broker.connections < 12
        assert statistics.behind > 10
    assert len(caplog.records) == 1


async def test_a_broker_that_keeps_up_with_steady_traffic_is_not_behind(autojump_clock: MockClock) -> None:
    place, broker = Place(), ScriptedBroker()
    async with relaying(place, b=broker) as relays:
        for number in range(400):
            await trio.sleep(0.05)
            place.commit(AddMessage(CHAT, ANN, str(number)), now=NOW + trio.current_time())
            # An operator changes all the time; such changes are published ten times a second.
            eve = User(1, Role.OPERATOR, lastname=str(number))
            place.commit(RecordPerson(eve, frozenset({"lastname"}), frozenset({"shop"})), now=NOW + trio.current_time())
            [statistics] = relays.statistics()
            assert statistics.behind < 0.5


async def test_what_waits_for_too_long_is_dropped_with_an_error(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    place, broker = Place(), ScriptedBroker()
    broker.problem = "away"
    async with relaying(place, 60, b=broker):
        place.commit(AddMessage(CHAT, ANN, "old"), now=NOW)
        await trio.sleep(200)
        place.commit(AddMessage(CHAT, ANN, "new"), now=NOW + 200)
        await trio.sleep(1)
        assert "commits are not published any more" in caplog.text
        broker.problem = ""
        await trio.sleep(40)
    assert broker.texts == ["new"]


async def test_a_clock_that_steps_drops_nothing_that_waits(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    place, broker, step = Place(), ScriptedBroker(), 0.0
    broker.problem = "away"
    with trio.fail_after(1_000_000):
        async with open_relays(
            {"b": broker}, place.log, links=LINKS, keep=50_000, clock=lambda: NOW + step + trio.current_time()
        ) as relays:
            place.relays = relays
            for step in (0.0, 1e9, -1e9, 0.0):
                for _ in range(3):
                    await trio.sleep(1_000)
                    place.commit(AddMessage(CHAT, ANN, f"{step}"), now=NOW + step + trio.current_time())
            broker.problem = ""
            await trio.sleep(100)
            assert broker.texts == [f"{step}" for step in (0.0, 1e9, -1e9, 0.0) for _ in range(3)]
            # They do expire, by the time that really passes.
            broker.problem = "away"
            place.commit(AddMessage(CHAT, ANN, "late"), now=NOW + 1e9)
            await trio.sleep(49_000)
            assert "not published any more" not in caplog.text
            await trio.sleep(4_000)
            assert "1 commits are not published any more" in caplog.text


async def test_a_broker_that_answers_gets_what_seems_too_old_at_the_start(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    place, broker = Place(), ScriptedBroker()
    place.say("before the clock was set")
    with trio.fail_after(1_000_000):
        broker.problem = "starting"
        async with open_relays(
            {"b": broker}, place.log, links=LINKS, keep=604_800, clock=lambda: NOW + 1e9 + trio.current_time()
        ):
            await trio.sleep(3_000)
            broker.problem = ""
            await trio.sleep(100)
            assert broker.texts == ["before the clock was set"]
    place.say("nobody takes it")
    async with open_relays(
        {"b": ScriptedBroker(problem="away")}, place.log, links=LINKS, keep=604_800, clock=lambda: NOW + 1e9
    ):
        await trio.sleep(4_000)
    assert "1 commits are not published any more" in caplog.text


@pytest.mark.parametrize("payload", [b"nonsense", b"\x90", b"\x95\x63\x80\x90\x90\x90"])
async def test_an_entry_that_can_not_be_read_is_named_once_and_left_out(
    payload: bytes, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    place, broker = Place(), ScriptedBroker()
    place.say("one")
    place.say("two")
    place.say("three")
    entries = place.store._entries
    entries[2] = attrs.evolve(entries[2], payload=payload)
    broker.takes = 1
    async with relaying(place, b=broker):
        await trio.sleep(1)
        broker.takes = 1_000
        await trio.sleep(60)
        place.say("four")
        await trio.sleep(5)
    assert list(dict.fromkeys(broker.texts)) == ["one", "three", "four"]
    lines = [message for message in caplog.messages if "can't be read" in message]
    assert len(lines) == 1
    assert lines[0].startswith(f"commit 3 in the log ({len(payload)} bytes) can't be read and is not published to b: ")


async def test_an_adapter_that_fails_in_an_unknown_way_is_tried_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    place, broker = Place(), ScriptedBroker()
    publish, failures = broker.publish, [KeyError("what"), ValueError("why")]

    async def failing(messages: Sequence[BrokerMessage]) -> None:
        if failures:
            raise failures.pop()
        await publish(messages)

    broker.publish = failing  # type: ignore[method-assign]
    async with relaying(place, b=broker):
        place.say("x")
        await trio.sleep(5)
    assert broker.texts == ["x"]
    assert "publishing to b failed" in caplog.text


async def test_an_adapter_that_always_fails_is_logged_once_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    place, broker = Place(), ScriptedBroker()

    async def failing(messages: Sequence[BrokerMessage]) -> None:
        raise KeyError("what")

    broker.publish = failing  # type: ignore[method-assign]
    async with relaying(place, b=broker):
        place.say("x")
        await trio.sleep(300)
    assert 3 <= caplog.text.count("publishing to b failed") <= 5
