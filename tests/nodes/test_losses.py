"""After storage has lost commits, no socket on any node goes on from what is not stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat.model import Policy
from actorchat.chat.operations import AcceptChat, AddMessage, Changed, EditMessage, Operation, ReturnChat
from actorchat.protocol import (
    ChatUpdated,
    CloseCode,
    MessageAdded,
    OperatorUpdated,
    Profile,
    ResyncRequired,
    UserConnected,
    UserDisconnected,
)
from actorchat.storage.memory import MemoryStore
from actorchat.storage.store import Batch, DecisionAndCounters
from tests.chat.people import ANNA, BORIS, OLGA
from tests.nodes.cluster import BusFaults, open_cluster

BUSES = [BusFaults(), BusFaults(lose=1.0), BusFaults(late=0.5, repeat=0.5)]


class ForgetfulStore(MemoryStore):
    """A store that can lose its newest commits, as a standby has that lagged."""

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        super().__init__(policy, clock, nodes=True)
        self._past: list[tuple[Sequence[Operation], Batch]] = []

    @property
    def committed(self) -> int:
        return len(self._past)

    def commit(self, operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
        self._past.append((operations, batch))
        return super().commit(operations, batch)

    def go_back(self, committed: int) -> None:
        """Lose all but the first `committed` batches. The next batch is logged in another epoch."""
        past, epoch = self._past[:committed], self._epoch
        earlier = ForgetfulStore(self._policy, self._clock)
        for operations, batch in past:
            earlier.commit(operations, batch)
        self.__dict__.update(earlier.__dict__)
        self._epoch = epoch + 1


def forgetful() -> ForgetfulStore:
    return ForgetfulStore(Policy(), trio.current_time)


@pytest.mark.parametrize("faults", BUSES)
async def test_rooms_that_are_ahead_close_on_every_node_and_show_what_is_stored(
    faults: BusFaults, autojump_clock: MockClock
) -> None:
    store = forgetful()
    async with open_cluster(faults=faults, store=store) as cluster:
        one, two = cluster.nodes
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        quiet = await one.reserve(await one.person(BORIS, frozenset()))
        await two.person(OLGA)
        for each in (chat, quiet):
            await one.chats.perform(AddMessage(each, ANNA if each == chat else BORIS, "kept"))
        anna, olga = await one.join(chat, ANNA, Profile.EXTENDED, -1), await two.join(chat, OLGA, Profile.EXTENDED, -1)
        boris, strict = await one.join(quiet, BORIS), await two.join(quiet, OLGA)
        await trio.sleep(3)
        kept = store.committed
        anna.say("lost")
        await trio.sleep(3)
        assert anna.recorder.texts() == olga.recorder.texts() == ["kept", "lost"]
        store.go_back(kept)
        await two.chats.perform(AddMessage(chat, OLGA, "again"))
        await two.chats.perform(AddMessage(chat, OLGA, "more"))
        await trio.sleep(5)
        for socket in (anna, olga):
            assert socket.recorder.closed == CloseCode.RESTARTING
            # The message has the index of the lost one, so the client has to forget that.
            assert isinstance(socket.recorder.events[-1], ResyncRequired)
            assert socket.recorder.texts() == ["kept", "lost"]
        assert boris.recorder.closed is None
        assert strict.recorder.closed is None
        for node, user in ((one, ANNA), (two, OLGA)):
            assert (node.node.losses, node.chats.statistics().rooms_ahead) == (1, 1)
            back = await node.join(chat, user, Profile.EXTENDED, -1)
            back.say(f"from {user.id}")
            await trio.sleep(3)
            assert back.recorder.texts()[:3] == ["kept", "again", "more"]
            assert back.recorder.texts()[3:] == [f"from {each.id}" for each in (ANNA, OLGA)][: 1 + (node is two)]


async def test_an_idle_node_finds_out_by_itself(autojump_clock: MockClock) -> None:
    store = forgetful()
    async with open_cluster(1, store=store) as cluster:
        [one] = cluster.nodes
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        anna = await one.join(chat, ANNA, Profile.STRICT)
        kept = store.committed
        anna.say("lost")
        await trio.sleep(0.01)
        store.go_back(kept)
        await trio.sleep(2)
        assert anna.recorder.closed == CloseCode.RESTARTING
        assert not [event for event in anna.recorder.events if isinstance(event, ResyncRequired)]
        back = await one.join(chat, ANNA)
        back.say("again")
        await trio.sleep(0.01)
        assert [event.message.message_index for event in back.recorder.got(MessageAdded)] == [0]


async def test_other_changes_than_messages_are_compared_too(autojump_clock: MockClock) -> None:
    store = forgetful()
    async with open_cluster(store=store) as cluster:
        one, two = cluster.nodes
        await two.person(OLGA)
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        changed = await one.chats.perform(AddMessage(chat, ANNA, "first"))
        assert isinstance(changed, Changed)
        first = changed.messages[0].id
        anna = await one.join(chat, ANNA)
        for lost, instead in (
            (AcceptChat(chat, OLGA), AddMessage(chat, ANNA, "second")),
            (AddMessage(chat, ANNA, "third"), AddMessage(chat, ANNA, "3rd")),
            (
                EditMessage(chat, ANNA, first, "a"),
                EditMessage(chat, ANNA, first, "b"),
            ),
        ):
            await trio.sleep(3)
            kept = store.committed
            await two.chats.perform(lost)
            await trio.sleep(0.1)
            store.go_back(kept)
            await two.chats.perform(instead)
            await trio.sleep(3)
            assert anna.recorder.closed == CloseCode.RESTARTING
            anna = await one.join(chat, ANNA)
            assert anna.recorder.closed is None


async def test_a_chat_that_is_not_stored_any_more_is_unknown(autojump_clock: MockClock) -> None:
    store = forgetful()
    async with open_cluster(store=store) as cluster:
        one, _ = cluster.nodes
        await one.person(ANNA, frozenset())
        kept = store.committed
        chat = await one.reserve(ANNA)
        anna = await one.join(chat, ANNA)
        anna.say("lost")
        await trio.sleep(0.01)
        store.go_back(kept)
        await trio.sleep(2)
        assert anna.recorder.closed == CloseCode.RESTARTING
        with pytest.raises(Exception, match="no such chat"):
            await one.join(chat, ANNA)
        await one.leave(anna)
        await one.chats.drain()


async def test_consoles_start_over_with_stored_counters(autojump_clock: MockClock) -> None:
    store = forgetful()
    async with open_cluster(store=store) as cluster:
        one, two = cluster.nodes
        await two.person(OLGA)
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        await one.chats.perform(AddMessage(chat, ANNA, "kept"))
        consoles = [await node.console(OLGA) for node in (one, two)]
        await trio.sleep(3)
        kept = store.committed
        for _ in range(3):
            await one.chats.perform(AcceptChat(chat, OLGA))
            await one.chats.perform(ReturnChat(chat, OLGA))
        await one.chats.perform(AcceptChat(chat, OLGA))
        await trio.sleep(3)
        store.go_back(kept)
        await trio.sleep(3)
        for node, console in zip((one, two), consoles, strict=True):
            assert console.recorder.closed == CloseCode.RESTARTING
            await node.leave(console)
        consoles = [await node.console(OLGA) for node in (one, two)]
        await trio.sleep(3)
        await two.chats.perform(AcceptChat(chat, OLGA))
        await trio.sleep(3)
        for console in consoles:
            assert console.recorder.closed is None
            events = console.recorder.got(OperatorUpdated)
            assert (events[0].open_chats, events[-1].open_chats, events[-1].is_online) == (0, 1, True)
            assert console.recorder.got(ChatUpdated)[-1].chat.operator_user == OLGA


async def test_presence_stays_and_is_stored_again(autojump_clock: MockClock) -> None:
    store = forgetful()
    async with open_cluster(store=store) as cluster:
        one, two = cluster.nodes
        await two.person(OLGA)
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        anna, _ = await one.join(chat, ANNA), await two.join(chat, OLGA)
        await trio.sleep(3)
        # As after a failover: the table of presence is unlogged.
        cluster.tables.lose_presence()
        store.go_back(store.committed)
        await trio.sleep(3)
        assert anna.recorder.closed is None
        assert not anna.recorder.got(UserDisconnected)
        assert {event.user.id for event in anna.recorder.got(UserConnected)} == {ANNA.id, OLGA.id}
        third = await cluster.start_node()
        await trio.sleep(3)
        boris = await third.join(chat, ANNA)
        assert {event.user.id for event in boris.recorder.got(UserConnected)} == {ANNA.id, OLGA.id}
