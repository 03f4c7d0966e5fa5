"""Sockets and consoles on every node see each chat whole, in order and once, whatever the bus does."""

from __future__ import annotations

from random import Random
from uuid import UUID

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import ChatRefused
from actorchat.chat.model import ChatState, Stage, StoredMessage, message_status, visible_to
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    ChatOperation,
    CloseChat,
    EditMessage,
    RedactMessage,
    ReopenChat,
    ReturnChat,
    SetTags,
    TransferChat,
)
from actorchat.nodes.follower import Follower
from actorchat.protocol import (
    ChatSummary,
    ChatUpdated,
    GlobalUpdated,
    MarkMessageRead,
    MessageAdded,
    MessageType,
    MessageUpdated,
    OperatorUpdated,
    Profile,
    Receipts,
    Role,
    User,
)
from tests.chat.harness import SOURCES, Socket
from tests.chat.people import ANNA, BORIS, OLGA, PETR
from tests.nodes.cluster import BusFaults, Cluster, NodeHarness, open_cluster

BAD_BUS = BusFaults(lose=0.3, repeat=0.3, late=0.3)
OPERATORS, VISITORS = (OLGA, PETR), (ANNA, BORIS)


async def test_a_visitor_and_a_console_on_two_nodes_talk(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        await two.person(OLGA)
        console = await two.console(OLGA)
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        anna = await one.join(chat, ANNA)
        anna.say("hello")
        await trio.sleep(0.01)
        assert console.recorder.texts() == ["hello"]
        olga = await two.join(chat, OLGA, after=-1)
        olga.say("good day")
        await trio.sleep(0.01)
        assert anna.recorder.texts() == ["hello", "good day"]
        assert olga.recorder.texts() == ["hello", "good day"]
        assert console.recorder.texts() == ["hello", "good day"]


@attrs.define
class Seen:
    """A socket, and the chats as they were stored before it was opened and after."""

    socket: Socket
    node: NodeHarness
    chat: UUID | None
    before: dict[UUID, int]
    after: dict[UUID, int]


class Crowd:
    """Does random things on random nodes, and then compares what every socket was shown with storage."""

    def __init__(self, cluster: Cluster, chance: Random) -> None:
        self.cluster, self.chance = cluster, chance
        self.chats: list[UUID] = []
        self.rooms: list[Seen] = []
        self.consoles: list[Seen] = []
        self.number = 0

    async def start(self) -> None:
        for operator in OPERATORS:
            await self.node().person(operator)
        for visitor in VISITORS:
            for source in ("lk", "shop"):
                await self.node().person(visitor, frozenset())
                chat, _ = await self.node().chats.reserve_chat(source, visitor)
                self.chats.append(chat.uuid)
        for node in self.cluster.nodes:
            await self.open_console(node)

    def node(self) -> NodeHarness:
        return self.chance.choice(self.cluster.nodes)

    def stored(self) -> dict[UUID, int]:
        found = {chat: self.cluster.store.chat(chat) for chat in self.chats}
        return {chat: state.next_index for chat, state in found.items() if state is not None}

    async def open_console(self, node: NodeHarness) -> None:
        before = self.stored()
        profile = self.chance.choice(list(Profile))
        socket = await node.console(self.chance.choice(OPERATORS), SOURCES | {"shop"}, profile)
        self.consoles.append(Seen(socket, node, None, before, self.stored()))

    async def open_room(self, node: NodeHarness, chat: UUID) -> None:
        before = self.stored()
        owner = self.state(chat).owner
        user, profile = self.chance.choice((owner, *OPERATORS)), self.chance.choice(list(Profile))
        after = -1 if profile is Profile.EXTENDED else None
        socket = await node.join(chat, user, profile, after)
        self.rooms.append(Seen(socket, node, chat, before, self.stored()))

    def state(self, chat: UUID) -> ChatState:
        state = self.cluster.store.chat(chat)
        assert state is not None
        return state

    def messages(self, chat: UUID) -> tuple[StoredMessage, ...]:
        page = self.cluster.store.since(chat, rev=0, limit=10_000)
        assert page is not None
        return page.messages

    async def step(self) -> None:
        chance, node, chat = self.chance, self.node(), self.chance.choice(self.chats)
        operator, owner = chance.choice(OPERATORS), self.state(chat).owner
        kind = chance.randrange(14)
        self.number += 1
        open_rooms = [seen for seen in self.rooms if seen.chat == chat]
        if kind == 0:
            await self.open_room(node, chat)
        elif kind == 1 and len(self.consoles) < 8:
            await self.open_console(node)
        elif kind == 2 and len(open_rooms) > 2:
            seen = chance.choice(open_rooms)
            self.rooms.remove(seen)
            self.check_room(seen, at_rest=False)
            await seen.node.leave(seen.socket)
        elif kind == 3 and open_rooms:
            messages = self.messages(chat)
            if messages:
                message = chance.choice(messages)
                chance.choice(open_rooms).socket.receiver.receive(MarkMessageRead(message.id))
        elif kind < 7 and open_rooms:
            chance.choice(open_rooms).socket.say(f"message {self.number}", f"key {self.number}")
        else:
            await self.perform(node, self.operation(chat, operator, owner))

    def operation(self, chat: UUID, operator: User, owner: User) -> ChatOperation:
        chance, text = self.chance, f"message {self.number}"
        messages = self.messages(chat)
        message = chance.choice(messages).id if messages else 0
        return chance.choice(
            (
                AddMessage(chat, owner, text),
                AddMessage(chat, operator, text),
                AddMessage(chat, operator, text, type=MessageType.SYSTEM, type_role=Role.OPERATOR),
                AcceptChat(chat, operator),
                CloseChat(chat, operator),
                ReopenChat(chat, owner),
                TransferChat(chat, operator, chance.choice(OPERATORS).id),
                ReturnChat(chat, operator),
                EditMessage(chat, owner, message, f"edit {self.number}"),
                RedactMessage(chat, operator, message, moderates=True),
                SetTags(chat, (f"tag-{self.number}",)),
            )
        )

    async def perform(self, node: NodeHarness, operation: ChatOperation) -> None:
        try:
            await node.chats.perform(operation)
        except ChatRefused:
            return

    # What was shown

    def check(self) -> None:
        for seen in self.rooms:
            self.check_room(seen, at_rest=True)
        for seen in self.consoles:
            self.check_console(seen)

    def check_room(self, seen: Seen, *, at_rest: bool) -> None:
        assert seen.chat is not None
        assert seen.socket.recorder.closed is None
        recorder, role = seen.socket.recorder, seen.socket.recorder.user.role
        messages = [each for each in self.messages(seen.chat) if visible_to(each, role)]
        indexes = [event.message.message_index for event in recorder.got(MessageAdded)]
        expected = [each.index for each in messages]
        if recorder.profile is Profile.STRICT:
            # It reads the history for the rest.
            expected = [index for index in expected if indexes and index >= indexes[0]]
        assert indexes == expected[: None if at_rest else len(indexes)]
        if not at_rest:
            return
        missing = [each.index for each in messages if each.index >= seen.after[seen.chat] and each.index not in indexes]
        assert missing == []
        shown = {
            event.message.id: event.message
            for event in recorder.events
            if isinstance(event, MessageAdded | MessageUpdated)
        }
        for each in messages:
            if each.id in shown:
                assert shown[each.id].text == each.text
        state = self.state(seen.chat)
        if recorder.profile is Profile.STRICT:
            standard = [each for each in messages if each.type is MessageType.STANDARD and each.id in shown]
            assert [shown[each.id].status for each in standard] == [message_status(state, each) for each in standard]
        else:
            for side, read in ((Role.USER, state.visitor_read), (Role.OPERATOR, state.operators_read)):
                receipts = [event for event in recorder.got(Receipts) if event.role is side]
                assert [event.read for event in receipts] == sorted(event.read for event in receipts)
                assert (receipts[-1].read if receipts else -1) == read

    def check_console(self, seen: Seen) -> None:
        recorder = seen.socket.recorder
        assert recorder.closed is None
        events = recorder.events
        for chat in self.chats:
            standard = [each for each in self.messages(chat) if each.type is MessageType.STANDARD]
            shown = [
                event.message.message_index
                for event in events
                if isinstance(event, MessageAdded) and event.message.chat.uuid == chat
            ]
            expected = [each.index for each in standard]
            # Whether it was shown what was committed while its snapshot was read is not decided.
            first = shown[0] if shown else 10**9
            assert shown == [index for index in expected if index >= first]
            assert [index for index in expected if index >= seen.after.get(chat, 0) and index < first] == []
            state = self.state(chat)
            chats = [
                event.chat
                for event in events
                if isinstance(event, ChatUpdated | ChatSummary) and event.chat.uuid == chat
            ]
            if state.listed and chats:
                assert chats[-1] == state.wire()
            elif state.listed:
                # It was closed all the time.
                assert state.stage is Stage.CLOSED
        for operator in OPERATORS:
            counters = [event for event in recorder.got(OperatorUpdated) if event.user.id == operator.id][-1]
            [record] = [each for each in self.cluster.store.operators(None) if each.person.user.id == operator.id]
            assert (counters.new_chats, counters.open_chats, counters.is_online) == (
                record.counters.new_chats,
                record.counters.open_chats,
                record.person.is_online,
            )
        unread = sum(each.unread_chats for each in self.cluster.store.feed_snapshot({"lk", "shop"}, 0).counters)
        assert recorder.got(GlobalUpdated)[-1].unread_chats == unread


async def play(seed: int, steps: int, faults: BusFaults, count: int = 2) -> None:
    chance = Random(seed)
    async with open_cluster(count, seed=seed, faults=faults, seconds=0.05) as cluster:
        crowd = Crowd(cluster, chance)
        await crowd.start()
        async with trio.open_nursery() as nursery:

            async def walk() -> None:
                for _ in range(steps):
                    await crowd.step()
                    await trio.sleep(chance.choice((0, 0, 0.01, 0.2)))

            for _ in range(3):
                nursery.start_soon(walk)
        await trio.sleep(10)
        crowd.check()


@pytest.mark.parametrize("seed", range(6))
async def test_every_socket_on_every_node_sees_each_chat_whole_and_in_order(
    seed: int, autojump_clock: MockClock
) -> None:
    await play(seed, 40, BAD_BUS, count=2 + seed % 2)


async def test_without_a_bus_everything_arrives_within_seconds(autojump_clock: MockClock) -> None:
    await play(100, 40, BusFaults(lose=1.0))


async def test_without_reading_the_log_something_is_missing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(follower: Follower, applies: object) -> None:
        """Heal nothing."""

    monkeypatch.setattr(Follower, "_look", nothing)
    with pytest.raises((AssertionError, ExceptionGroup)):
        await play(0, 40, BAD_BUS)
