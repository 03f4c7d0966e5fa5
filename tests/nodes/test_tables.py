"""The tables that nodes share do the same in memory and in PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import UUID, uuid4

import attrs
import psycopg
import pytest

from actorchat.chat.elsewhere import CONSOLES, Place
from actorchat.chat.model import Identity, Policy
from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes.postgres_tables import PostgresTables
from actorchat.nodes.tables import MOST_INQUIRIES, Inquiry, NodeRow, Tables
from actorchat.protocol import Role
from actorchat.storage.postgres.store import PostgresStore
from tests.nodes.memory_tables import MemoryTables

ROW = NodeRow(node="one", epoch=0, version="1.0", state="ready", address="here", statistics="{}", process="first")
SECOND = attrs.evolve(ROW, process="second")
ANNA: Place = (UUID(int=5), Identity(Role.USER, 2**52))
OLGA: Place = (CONSOLES, Identity(Role.OPERATOR, 1))
EXPIRED = 1e-6


@pytest.fixture(params=["memory", "postgresql"])
def tables(request: pytest.FixtureRequest) -> Iterator[Tables]:
    if request.param == "memory":
        yield MemoryTables(time.monotonic)
        return
    new_postgres: Callable[[], str] = request.getfixturevalue("new_postgres")
    url = new_postgres()
    with closing(PostgresStore(url, Policy())):
        pass
    with closing(PostgresTables(url)) as found:
        yield found


def test_a_node_is_listed_until_it_leaves(tables: Tables) -> None:
    epoch = registered(tables, ROW)
    assert [(row.node, row.epoch, row.state, row.alive) for row in tables.nodes()] == [("one", epoch, "ready", True)]
    assert tables.renew(attrs.evolve(ROW, epoch=epoch, state="draining", statistics='{"sockets": 1}'), 60)
    [row] = tables.nodes()
    assert (row.state, row.statistics, row.address) == ("draining", '{"sockets": 1}', "here")
    tables.leave("one", "first")
    assert list(tables.nodes()) == []


def registered(tables: Tables, row: NodeRow, seconds: float = 60, ended: int = 0) -> int:
    epoch = tables.register(row, seconds, ended)
    assert epoch is not None
    return epoch


def test_a_name_belongs_to_one_process_until_its_lease_ends(tables: Tables) -> None:
    epoch = registered(tables, ROW)
    assert tables.register(SECOND, 60) is None
    assert tables.register(SECOND, 60, ended=epoch - 1) is None
    [row] = tables.nodes()
    assert (row.process, row.epoch) == ("first", epoch)
    # A process whose claim was stored without an answer claims it again.
    assert registered(tables, ROW) > epoch
    assert tables.renew(attrs.evolve(ROW, epoch=tables.nodes()[0].epoch), EXPIRED)
    while tables.nodes()[0].alive:
        time.sleep(0.001)
    assert registered(tables, SECOND) > epoch
    assert tables.register(ROW, 60) is None


def test_a_name_is_free_if_its_process_has_ended(tables: Tables) -> None:
    epoch = registered(tables, ROW)
    assert registered(tables, SECOND, ended=epoch) > epoch


def test_a_renewal_is_seen_in_the_end_of_the_lease(tables: Tables) -> None:
    row = attrs.evolve(ROW, epoch=registered(tables, ROW))
    before = tables.nodes()[0].expires
    assert tables.nodes()[0].expires == before
    time.sleep(0.001)
    assert tables.renew(row, 60)
    assert tables.nodes()[0].expires > before


def test_an_older_process_of_a_name_changes_nothing(tables: Tables) -> None:
    older = registered(tables, ROW)
    tables.put_presence("one", older, 1, [ANNA], [])
    newer = registered(tables, SECOND, ended=older)
    assert newer > older
    assert tables.presence_of("one") == (0, []) or tables.presence_of("one") == (0, ())
    assert not tables.renew(attrs.evolve(ROW, epoch=older), 60)
    tables.put_presence("one", older, 9, [OLGA], [])
    tables.leave("one", "first")
    assert tables.presence_of("one")[0] == 0
    assert [row.epoch for row in tables.nodes()] == [newer]


def test_a_name_that_is_claimed_again_has_a_higher_epoch_than_all_before(tables: Tables) -> None:
    older = registered(tables, ROW)
    tables.leave("one", "first")
    assert registered(tables, SECOND) > older


def test_presence_is_read_with_its_number(tables: Tables) -> None:
    epoch = registered(tables, ROW)
    tables.put_presence("one", epoch, 1, [ANNA, OLGA], [])
    tables.put_presence("one", epoch, 2, [ANNA], [OLGA])
    number, places = tables.presence_of("one")
    assert (number, list(places)) == (2, [ANNA])
    assert [row.presence for row in tables.nodes()] == [2]
    assert tables.presence_of("nobody")[0] == 0


def test_a_dead_node_is_buried_with_what_it_had(tables: Tables) -> None:
    epoch = registered(tables, ROW, EXPIRED)
    tables.put_presence("one", epoch, 1, [ANNA], [])
    assert tables.hold("sweeper", "one", epoch, 60)
    while tables.nodes()[0].alive:
        time.sleep(0.001)
    assert list(tables.bury(60)) == []
    assert list(tables.bury(0)) == ["one"]
    assert list(tables.nodes()) == []
    assert list(tables.presence_of("one")[1]) == []
    assert tables.hold("sweeper", "two", 1, 60)


def test_one_node_at_a_time_holds_a_lease(tables: Tables) -> None:
    assert tables.hold("sweeper", "one", 1, 60)
    assert tables.hold("sweeper", "one", 1, EXPIRED)
    while not tables.hold("sweeper", "two", 1, 60):
        time.sleep(0.001)
    assert not tables.hold("sweeper", "one", 1, 60)
    assert not tables.hold("sweeper", "two", 2, 60)
    assert tables.hold("relay", "one", 1, 60)


def test_an_inquiry_is_answered_once_by_the_node_that_it_is_for(tables: Tables) -> None:
    older = registered(tables, ROW)
    epoch, other = registered(tables, ROW), registered(tables, attrs.evolve(ROW, node="two"))
    inquiry = Inquiry(uuid4(), b"who?")
    assert tables.ask(inquiry, "one", 60)
    assert list(tables.asked("two", other)) == list(tables.asked("one", older)) == []
    assert list(tables.asked("one", epoch)) == [inquiry]
    assert tables.take_answer(inquiry.id) is None
    tables.answer(inquiry.id, b"first")
    tables.answer(inquiry.id, b"second")
    assert list(tables.asked("one", epoch)) == []
    assert tables.take_answer(inquiry.id) == b"first"
    tables.answer(inquiry.id, b"late")
    assert tables.take_answer(inquiry.id) is None


def test_inquiries_are_bounded_and_expire(tables: Tables) -> None:
    epoch = registered(tables, ROW)
    for _ in range(MOST_INQUIRIES):
        assert tables.ask(Inquiry(uuid4(), b""), "two", 0.5)
    inquiry = Inquiry(uuid4(), b"")
    assert not tables.ask(inquiry, "one", 60)
    while not tables.ask(inquiry, "one", EXPIRED):
        time.sleep(0.01)
    while tables.asked("one", epoch):
        time.sleep(0.001)
    # Its row is deleted.
    tables.answer(inquiry.id, b"late")
    assert tables.take_answer(inquiry.id) is None


def test_a_crash_of_the_database_loses_presence_until_the_node_has_registered_again(
    tables: Tables,
) -> None:
    epoch = registered(tables, ROW)
    row = attrs.evolve(ROW, epoch=epoch)
    tables.put_presence("one", epoch, 1, [ANNA], [])
    assert tables.renew(row, 60)
    if isinstance(tables, MemoryTables):
        tables.lose_presence()
    else:
        assert isinstance(tables, PostgresTables)
        with tables._using() as connection:
            # As PostgreSQL does with an unlogged table.
            connection.execute("TRUNCATE presence")
    with pytest.raises(StorageUnavailable, match="presence of one"):
        tables.presence_of("one")
    assert not tables.renew(row, 60)
    epoch = registered(tables, ROW)
    assert tables.renew(attrs.evolve(ROW, epoch=epoch), 60)
    tables.put_presence("one", epoch, 1, [ANNA], [])
    assert [tables.presence_of("one")[0], *tables.presence_of("one")[1]] == [1, ANNA]


def test_nodes_of_the_version_before_can_store_their_presence(new_postgres: Callable[[], str]) -> None:
    url = new_postgres()
    with closing(PostgresStore(url, Policy())), closing(PostgresTables(url)) as tables:
        registered(tables, ROW)
        with psycopg.connect(url) as before:
            before.execute(
                "INSERT INTO nodes (node, epoch, version, state, address, statistics, presence, expires_at)"
                " VALUES ('two', 1, '0.9', 'ready', 'there', '{}', 1, now() + interval '1 minute')"
            )
            before.execute(
                "INSERT INTO presence (chat, role, id, node, sockets)"
                " VALUES (%s, 'node', 0, 'two', 0), (%s, 'user', %s, 'two', 1)",
                (UUID(int=0), ANNA[0], ANNA[1].id),
            )
        assert [(row.node, row.process) for row in tables.nodes()] == [("one", "first"), ("two", "")]
        assert tables.presence_of("two") == (1, [ANNA])
