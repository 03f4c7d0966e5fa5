"""Who is present, online, typing, renamed or signed out is the same on every node."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import Limits
from actorchat.chat.accounts import SignOut
from actorchat.chat.model import Identity, PersonRecord, Policy, identity_of
from actorchat.chat.operations import AddMessage
from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import (
    MessageNotAdded,
    OperatorUpdated,
    Profile,
    Role,
    TypingUpdated,
    UpdateTyping,
    User,
    UserConnected,
    UserDisconnected,
)
from actorchat.storage.worker_threads import Runner
from tests.chat.harness import Socket
from tests.chat.people import ANNA, OLGA, PETR
from tests.nodes.cluster import BusFaults, Cluster, NodeHarness, open_cluster

T = TypeVar("T")

SOON = 0.2
SILENT = BusFaults(lose=1.0)


def presence(socket: Socket) -> list[tuple[str, str]]:
    """Who came and went, as the socket was shown it."""
    return [
        ("came" if isinstance(event, UserConnected) else "went", event.user.firstname)
        for event in socket.recorder.events
        if isinstance(event, UserConnected | UserDisconnected)
    ]


async def new_chat(cluster: Cluster) -> UUID:
    node = cluster.nodes[0]
    for operator in (OLGA, PETR):
        await node.person(operator)
    chat = await node.reserve(await node.person(ANNA, frozenset()))
    await node.chats.perform(AddMessage(chat, ANNA, "hello"))
    await trio.sleep(3)
    return chat


def online(cluster: Cluster, operator_id: int) -> bool:
    record = cluster.store.person(Identity(Role.OPERATOR, operator_id))
    assert record is not None
    return record.online


@pytest.mark.parametrize("faults", [BusFaults(), SILENT], ids=["bus", "no bus"])
async def test_people_of_all_nodes_come_and_go_once(faults: BusFaults, autojump_clock: MockClock) -> None:
    async with open_cluster(3, faults=faults) as cluster:
        one, two, three = cluster.nodes
        chat = await new_chat(cluster)
        anna = await one.join(chat, ANNA)
        await trio.sleep(3)
        olga = await two.join(chat, OLGA)
        again = await three.join(chat, OLGA)
        await trio.sleep(3)
        assert presence(anna) == [("came", "Anna"), ("came", "Olga")]
        assert sorted(presence(olga)) == [("came", "Anna"), ("came", "Olga")]
        await two.leave(olga)
        await trio.sleep(10)
        assert presence(anna)[2:] == []
        await three.leave(again)
        await trio.sleep(4)
        assert presence(anna)[2:] == []
        await trio.sleep(4)
        assert presence(anna)[2:] == [("went", "Olga")]


async def test_a_user_who_moves_to_another_node_in_time_has_not_left(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await new_chat(cluster)
        olga = await one.join(chat, OLGA)
        anna = await one.join(chat, ANNA)
        await trio.sleep(SOON)
        await one.leave(anna)
        await trio.sleep(3)
        await two.join(chat, ANNA)
        await trio.sleep(10)
        assert presence(olga) == [("came", "Olga"), ("came", "Anna")]


async def test_everybody_whom_no_bus_told_of_is_read_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cluster(faults=SILENT) as cluster:
        one, two = cluster.nodes
        chat = await new_chat(cluster)
        anna = await one.join(chat, ANNA)
        await trio.sleep(3)
        reads: list[Collection[Identity]] = []
        people = cluster.store.people

        def read(identities: Collection[Identity]) -> tuple[PersonRecord, ...]:
            reads.append(identities)
            return people(identities)

        monkeypatch.setattr(cluster.store, "people", read)
        for operator in (OLGA, PETR):
            await two.join(chat, operator)
        await trio.sleep(3)
        assert sorted(presence(anna)[1:]) == [("came", "Olga"), ("came", "Petr")]
        assert reads == [{identity_of(OLGA), identity_of(PETR)}]


async def test_people_of_a_dead_node_have_left(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await new_chat(cluster)
        olga = await one.join(chat, OLGA)
        await two.join(chat, ANNA)
        await trio.sleep(SOON)
        assert presence(olga) == [("came", "Olga"), ("came", "Anna")]
        two.life.cancel()
        await trio.sleep(15)
        assert presence(olga)[2:] == [("went", "Anna")]
        await trio.sleep(30)
        assert [row.node for row in cluster.tables.nodes()] == ["node-0"]


async def test_a_frozen_node_registers_again_with_everybody_who_is_there(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await new_chat(cluster)
        olga = await one.join(chat, OLGA)
        await two.join(chat, ANNA)
        await trio.sleep(SOON)
        cluster.tables.leave("node-1", two.node.state.process)
        await trio.sleep(2)
        assert presence(olga)[2:] == [("went", "Anna")]
        await trio.sleep(5)
        assert presence(olga)[3:] == [("came", "Anna")]


def reaches_database(node: NodeHarness) -> bool:
    return node.node.reaches_database


class CutRunner:
    """A `Runner` whose database can't be reached while `cut`."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.cut = False

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        if self.cut:
            await trio.lowlevel.checkpoint()
            raise StorageUnavailable("cut off")
        return await self._runner.run(call, meanwhile)


@pytest.mark.parametrize("seconds", [35, 60], ids=["still listed", "buried"])
async def test_a_node_that_was_cut_off_gives_up_its_sockets_once_and_heals(
    seconds: float, autojump_clock: MockClock
) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await new_chat(cluster)
        olga, anna = await one.join(chat, OLGA), await two.join(chat, ANNA)
        await trio.sleep(SOON)
        given_up: list[float] = []
        begun = trio.current_time()
        two.node.state.cut_off = lambda: given_up.append(trio.current_time() - begun)
        database = two.node.registry.runner = CutRunner(two.node.registry.runner)
        two.node._log._reader = database
        database.cut, one.faults.lose, two.faults.lose = True, 1.0, 1.0
        await one.chats.perform(AddMessage(chat, OLGA, "meanwhile"))
        await trio.sleep(8)
        assert reaches_database(two)
        await trio.sleep(6)
        assert not reaches_database(two)
        assert presence(olga)[2:] == [("went", "Anna")]
        await trio.sleep(seconds - 14)
        assert [round(moment) for moment in given_up] == [30]
        assert anna.recorder.texts() == []
        database.cut = False
        await trio.sleep(5)
        assert reaches_database(two)
        assert presence(olga)[3:] == [("came", "Anna")]
        assert anna.recorder.texts() == ["meanwhile"]


@pytest.mark.parametrize("apart", [10, 60])
@pytest.mark.parametrize("faults", [BusFaults(), SILENT], ids=["bus", "no bus"])
async def test_an_operator_is_online_while_any_node_has_a_console(
    faults: BusFaults, apart: float, autojump_clock: MockClock
) -> None:
    async with open_cluster(faults=faults) as cluster:
        one, two = cluster.nodes
        await new_chat(cluster)
        first, second = await one.console(OLGA), await two.console(OLGA)
        watching = await two.console(PETR)
        await trio.sleep(3)
        watching.recorder.take()
        await one.leave(first)
        await trio.sleep(apart)
        assert online(cluster, OLGA.id)
        assert OLGA.id not in {event.user.id for event in watching.recorder.got(OperatorUpdated)}
        await two.leave(second)
        await trio.sleep(29)
        assert online(cluster, OLGA.id)
        await trio.sleep(5)
        assert not online(cluster, OLGA.id)
        assert watching.recorder.got(OperatorUpdated)[-1].is_online is False


async def test_a_person_whose_profile_is_the_same_is_not_shown_again(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await new_chat(cluster)
        anna = await one.join(chat, ANNA)
        await two.join(chat, OLGA)
        await two.console(OLGA)
        await trio.sleep(SOON)
        await one.chats.people.store_presence(OLGA.id, online=True)
        await trio.sleep(SOON)
        assert presence(anna) == [("came", "Anna"), ("came", "Olga")]


async def test_an_operator_of_a_dead_node_is_offline_after_the_grace(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        await new_chat(cluster)
        await two.console(OLGA)
        await one.console(PETR)
        await trio.sleep(3)
        two.life.cancel()
        await trio.sleep(25)
        assert online(cluster, OLGA.id)
        await trio.sleep(30)
        assert not online(cluster, OLGA.id)
        assert online(cluster, PETR.id)


async def test_a_new_node_leaves_operators_of_others_online(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        await new_chat(cluster)
        console = await cluster.nodes[0].console(OLGA)
        await trio.sleep(3)
        console.recorder.take()
        await cluster.start_node()
        await trio.sleep(120)
        assert online(cluster, OLGA.id)
        assert console.recorder.got(OperatorUpdated) == []


async def test_typing_is_shown_on_other_nodes_and_ends_with_its_node(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await new_chat(cluster)
        console, olga = await one.console(OLGA), await one.join(chat, OLGA)
        anna = await two.join(chat, ANNA)
        await trio.sleep(SOON)
        for recorder in (console.recorder, olga.recorder):
            recorder.take()
        anna.receiver.receive(UpdateTyping("hel", stopped=False))
        await trio.sleep(SOON)
        two.life.cancel()
        assert [event.text for event in console.recorder.got(TypingUpdated)] == ["hel"]
        assert [(event.text, event.stopped) for event in olga.recorder.got(TypingUpdated)] == [("", False)]
        await trio.sleep(8)
        assert [event.stopped for event in console.recorder.got(TypingUpdated)] == [False, True]
        assert [event.stopped for event in olga.recorder.got(TypingUpdated)] == [False, True]


async def test_a_rate_limit_holds_over_all_nodes(autojump_clock: MockClock) -> None:
    async with open_cluster(limits=Limits(messages_per_second=2, burst=6)) as cluster:
        chat = await new_chat(cluster)
        sockets = [await node.join(chat, ANNA) for node in cluster.nodes]
        await trio.sleep(10)
        for _ in range(120):
            for socket in sockets:
                socket.say("again")
            await trio.sleep(0.25)
        sent = cluster.store.chat(chat)
        assert sent is not None
        # 30 seconds, and the bursts and some seconds of both nodes. Apart from each other they would take 132.
        assert 60 <= sent.next_index <= 2 * 30 + 2 * 6 + 2 * 2 * 5
        assert all(socket.recorder.got(MessageNotAdded) for socket in sockets)


async def test_a_sign_out_ends_the_sockets_of_all_nodes(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        await new_chat(cluster)
        ended: list[tuple[User, float]] = []
        two.chats.people.on_sign_out = lambda user, issued: ended.append((user, issued))
        at = trio.current_time()
        await one.chats.people.decide_on_account(SignOut(ANNA, at))
        await trio.sleep(SOON)
        assert ended == [(ANNA, at)]


async def test_one_node_sweeps_and_another_goes_on_when_it_is_dead(autojump_clock: MockClock) -> None:
    async with open_cluster(policy=Policy(reserved_timeout=100)) as cluster:
        one, two = cluster.nodes
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        holders = [await node.node.holds("sweeper") for node in (one, two)]
        assert sorted(holders) == [False, True]
        (one if holders[0] else two).life.cancel()
        await trio.sleep(20)
        left = two if holders[0] else one
        assert await left.node.holds("sweeper")
        await trio.sleep(200)
        assert cluster.store.chat(chat) is None


async def test_a_reserved_chat_with_a_visitor_on_another_node_stays(autojump_clock: MockClock) -> None:
    async with open_cluster(policy=Policy(reserved_timeout=60)) as cluster:
        one, two = cluster.nodes
        used = await one.reserve(await one.person(ANNA, frozenset()))
        sweeper = one if await one.node.holds("sweeper") else two
        other = two if sweeper is one else one
        anna = await other.join(used, ANNA, Profile.STRICT)
        await trio.sleep(500)
        assert cluster.store.chat(used) is not None
        assert anna.recorder.closed is None
        anna.say("hello")
        await trio.sleep(SOON)
        assert anna.recorder.texts() == ["hello"]
