"""What other nodes commit is shown once and in order: if it is late, overtakes itself, or is gone from the log."""

from __future__ import annotations

import attrs
import trio
from trio.testing import MockClock

from actorchat.chat.model import identity_of
from actorchat.chat.node_commits import NodeCommit
from actorchat.chat.operations import AddMessage, RecordPerson
from actorchat.nodes import Told
from actorchat.nodes.follower import PERIOD
from actorchat.protocol import CloseCode, OperatorUpdated, UserConnected
from tests.chat.people import ANNA, OLGA, PETR
from tests.nodes.cluster import BusFaults, open_cluster

SOON = 0.01
SECONDS_LATER = 3.0


async def test_a_console_is_shown_a_new_chat_from_its_beginning(autojump_clock: MockClock) -> None:
    async with open_cluster(0) as cluster:
        silent = await cluster.start_node(BusFaults(lose=1.0))
        told, shown = await cluster.start_node(), await cluster.start_node()
        await silent.person(OLGA)
        chat = await silent.reserve(await silent.person(ANNA, frozenset()))
        await trio.sleep(SECONDS_LATER)
        console = await shown.console(OLGA)
        await silent.chats.perform(AddMessage(chat, ANNA, "first"))
        await told.chats.perform(AddMessage(chat, ANNA, "second"))
        await trio.sleep(SOON)
        assert console.recorder.texts() == ["first", "second"]


async def test_a_room_that_reads_its_chat_reads_again_after_news(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        await one.chats.perform(AddMessage(chat, ANNA, "before"))
        await trio.sleep(SECONDS_LATER)
        cluster.delay = lambda: 1.0
        async with trio.open_nursery() as nursery:

            async def say_it_meanwhile() -> None:
                # The room has the chat as it was, but doesn't know it yet.
                await trio.sleep(0.75)
                cluster.delay = lambda: 0.0
                await one.chats.perform(AddMessage(chat, ANNA, "meanwhile"))

            nursery.start_soon(say_it_meanwhile)
            await two.join(chat, ANNA)
        assert two.chats.chat_nowait(chat).next_index == 2


async def test_an_own_commit_that_was_read_before_its_outcome_is_shown_once(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        socket = await two.join(chat, ANNA)
        cluster.delay = lambda: 1.0
        socket.say("own")
        # It is committed, and its outcome is on the way.
        await trio.sleep(0.75)
        cluster.delay = lambda: 0.0
        await one.chats.perform(AddMessage(chat, ANNA, "other"))
        await trio.sleep(SECONDS_LATER)
        assert socket.recorder.texts() == ["own", "other"]


async def test_repeated_and_late_notes_change_nothing(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        socket = await two.join(chat, ANNA)
        for text in ("one", "two", "three"):
            await one.chats.perform(AddMessage(chat, ANNA, text))
        await trio.sleep(SECONDS_LATER)
        for row in cluster.store.batches("writer-0", after=0, upto=99, limit=99):
            two.node._heard(Told(row.writer, row.number, row.previous, row.payload))
        await trio.sleep(SECONDS_LATER)
        assert socket.recorder.texts() == ["one", "two", "three"]


async def test_a_node_that_missed_what_is_gone_from_the_log_reads_everything_again(autojump_clock: MockClock) -> None:
    async with open_cluster(faults=BusFaults(lose=1.0)) as cluster:
        one, two = cluster.nodes
        await one.person(OLGA)
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        await trio.sleep(SECONDS_LATER)
        socket, console = await two.join(chat, ANNA), await two.console(OLGA)
        await one.chats.perform(AddMessage(chat, ANNA, "missed"))
        logged = cluster.store._logged
        assert logged is not None
        del logged["writer-0"][:-1]
        await one.chats.perform(AddMessage(chat, ANNA, "last"))
        del logged["writer-0"][0]
        await trio.sleep(SECONDS_LATER)
        assert socket.recorder.texts() == ["missed", "last"]
        assert console.recorder.closed == CloseCode.RESTARTING


async def test_payloads_of_another_version_are_read_from_storage(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        socket = await two.join(chat, ANNA)
        two.node._follower._reader.read = _unreadable  # type: ignore[method-assign]
        await one.chats.perform(AddMessage(chat, ANNA, "hello"))
        await trio.sleep(SECONDS_LATER)
        assert socket.recorder.texts() == ["hello"]


def _unreadable(payload: bytes) -> NodeCommit:
    raise ValueError("version 2")


async def test_nodes_that_rename_a_user_at_once_show_the_same_name(autojump_clock: MockClock) -> None:
    async with open_cluster(seconds=0.3, faults=BusFaults(late=0.5)) as cluster:
        chat = await cluster.nodes[0].reserve(await cluster.nodes[0].person(ANNA, frozenset()))
        sockets = [await node.join(chat, ANNA) for node in cluster.nodes]
        for number in range(10):
            async with trio.open_nursery() as nursery:
                for node in cluster.nodes:
                    nursery.start_soon(node.chats.people.record, rename(f"Anna {number} of {node.node.state.name}"))
        await trio.sleep(20 * PERIOD)
        record = cluster.store.person(identity_of(ANNA))
        assert record is not None
        assert [socket.recorder.got(UserConnected)[-1].user for socket in sockets] == [record.user] * 2


async def test_an_own_outcome_does_not_hide_a_newer_name_of_another_node(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        chat = await one.reserve(await one.person(ANNA, frozenset()))
        socket = await two.join(chat, ANNA)
        cluster.delay = lambda: 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two.chats.people.record, rename("older"))
            # It is committed, and its outcome is on the way.
            await trio.sleep(0.75)
            cluster.delay = lambda: 0.0
            await one.chats.people.record(rename("newer"))
        await trio.sleep(SECONDS_LATER)
        assert socket.recorder.got(UserConnected)[-1].user.firstname == "newer"


def rename(name: str) -> RecordPerson:
    return RecordPerson(attrs.evolve(ANNA, firstname=name), frozenset({"firstname"}))


async def test_operators_of_other_nodes_are_on_every_console(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        one, two = cluster.nodes
        await one.person(OLGA)
        await trio.sleep(SOON)
        console = await two.console(OLGA)
        console.recorder.take()
        await one.person(PETR)
        await one.console(PETR)
        await trio.sleep(SECONDS_LATER)
        shown = {(event.user.id, event.is_online) for event in console.recorder.got(OperatorUpdated)}
        assert (PETR.id, True) in shown
