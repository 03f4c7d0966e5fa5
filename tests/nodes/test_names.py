"""A node name belongs to one server that lives; a server that has ended gives it back within seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes import process
from actorchat.nodes.process import has_ended, name_process
from actorchat.nodes.registry import BURIAL, LIFE, PATIENCE, PERIOD, NameTaken, Registry
from actorchat.nodes.tables import NodeRow, Tables
from actorchat.storage.worker_threads import InPlace
from tests.nodes.memory_tables import MemoryTables

T = TypeVar("T")


@attrs.define
class Candidate:
    """A server that wants to be the node `one`."""

    tables: Tables
    process: str = attrs.field(factory=name_process)
    state: str = "ready"
    replaced_by: list[NodeRow] = attrs.Factory(list)
    registry: Registry = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        row = NodeRow(
            node="one",
            epoch=0,
            version="1.0",
            state="starting",
            address="here",
            statistics="{}",
            process=self.process,
        )
        self.registry = Registry(
            self.tables,
            InPlace(),
            row,
            describe=lambda: (self.state, "{}"),
            changed=lambda _: None,
            registered=lambda: None,
            cut_off=lambda: None,
            replaced=self.replaced_by.append,
        )


@pytest.fixture
def tables(autojump_clock: MockClock) -> MemoryTables:
    return MemoryTables(autojump_clock.current_time)


async def test_a_name_whose_node_lives_is_refused_as_soon_as_that_renews_its_lease(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    older, newer = Candidate(tables), Candidate(tables)
    await older.registry.register()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(older.registry.run)
        begun = trio.current_time()
        with pytest.raises(NameTaken) as refused:
            await newer.registry.register()
        assert refused.value.holder.process == older.process
        assert trio.current_time() - begun < 5
        await trio.sleep(60)
        assert older.replaced_by == []
        assert [row.process for row in tables.nodes()] == [older.process]
        nursery.cancel_scope.cancel()


async def test_the_name_of_a_crashed_server_is_free_when_its_lease_has_run_out(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    crashed, newer = Candidate(tables), Candidate(tables)
    await crashed.registry.register()
    begun = trio.current_time()
    await newer.registry.register()
    assert trio.current_time() - begun <= LIFE + 1
    assert [row.process for row in tables.nodes()] == [newer.process]


async def test_the_name_of_a_process_that_is_seen_to_have_ended_is_free_at_once(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    crashed, newer = Candidate(tables, process=ended_process()), Candidate(tables)
    await crashed.registry.register()
    begun = trio.current_time()
    await newer.registry.register()
    assert trio.current_time() == begun


async def test_of_two_that_wait_for_the_name_of_a_crashed_server_one_gets_it(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    crashed, *candidates = (Candidate(tables) for _ in range(3))
    await crashed.registry.register()
    refused: list[Candidate] = []

    async def start(candidate: Candidate) -> None:
        try:
            await candidate.registry.register()
        except NameTaken:
            refused.append(candidate)
        else:
            await candidate.registry.run()

    async with trio.open_nursery() as nursery:
        for candidate in candidates:
            nursery.start_soon(start, candidate)
        await trio.sleep(LIFE + 10)
        nursery.cancel_scope.cancel()
    assert len(refused) == 1


async def test_a_server_waits_for_one_of_its_name_that_is_stopping(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    older, newer = Candidate(tables, state="draining"), Candidate(tables)
    await older.registry.register()

    async def drain() -> None:
        await trio.sleep(9)
        await older.registry.leave()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(older.registry.run)
        nursery.start_soon(drain)
        begun = trio.current_time()
        await newer.registry.register()
        assert 9 <= trio.current_time() - begun <= 10


async def test_a_server_that_never_stops_stopping_is_not_waited_for_for_ever(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    older, newer = Candidate(tables, state="draining"), Candidate(tables)
    await older.registry.register()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(older.registry.run)
        begun = trio.current_time()
        with pytest.raises(NameTaken):
            await newer.registry.register()
        assert trio.current_time() - begun <= PATIENCE + 1
        nursery.cancel_scope.cancel()


async def test_a_node_that_was_frozen_ends_if_another_has_its_name_now(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    frozen, newer = Candidate(tables), Candidate(tables)
    await frozen.registry.register()
    await trio.sleep(LIFE + 1)
    await newer.registry.register()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(newer.registry.run)
        await frozen.registry.run()
        assert [row.process for row in frozen.replaced_by] == [newer.process]
        assert not await frozen.registry.hold("sweeper")
        await frozen.registry.leave()
        await trio.sleep(60)
        assert newer.replaced_by == []
        assert [row.process for row in tables.nodes()] == [newer.process]
        nursery.cancel_scope.cancel()


async def test_a_node_that_was_frozen_goes_on_if_the_one_that_had_its_name_has_crashed(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    frozen, crashed = Candidate(tables), Candidate(tables)
    await frozen.registry.register()
    await trio.sleep(LIFE + 1)
    await crashed.registry.register()
    with trio.move_on_after(LIFE + 5):
        await frozen.registry.run()
    assert frozen.replaced_by == []
    assert [(row.process, row.alive) for row in tables.nodes()] == [(frozen.process, True)]


async def test_a_node_that_registers_again_says_why(
    tables: MemoryTables, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    one, newer = Candidate(tables), Candidate(tables)
    await one.registry.register()

    def bury() -> None:
        assert tables.bury(BURIAL) == ["one"]

    def register_unanswered() -> None:
        assert tables.register(one.registry._row, LIFE) is not None

    def take_over() -> None:
        assert tables.register(newer.registry._row, LIFE) is not None

    for silence, happen, reason in (
        (LIFE + BURIAL, bury, "it was taken for dead"),
        (0, register_unanswered, "its last registration was not answered"),
        (0, tables.lose_presence, "the database has crashed and has lost who is present"),
        (LIFE, take_over, "another server has its name"),
    ):
        await trio.sleep(silence)
        happen()
        caplog.clear()
        await one.registry.renew()
        assert caplog.messages[0] == f"this node registers again: {reason}"


async def test_a_new_state_is_stored_at_once(tables: MemoryTables, autojump_clock: MockClock) -> None:
    one = Candidate(tables)
    await one.registry.register()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.registry.run)
        await trio.sleep(PERIOD / 2)
        one.state = "draining"
        one.registry.announce()
        await trio.testing.wait_all_tasks_blocked()
        assert [row.state for row in tables.nodes()] == ["draining"]
        # Also a change that nobody has announced does not wait for the next renewal.
        one.state = "ready"
        await trio.sleep(1.5 * PERIOD)
        assert [row.state for row in tables.nodes()] == ["ready"]
        nursery.cancel_scope.cancel()


async def test_a_state_that_could_not_be_stored_is_stored_with_the_next_look(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    one = Candidate(tables)
    await one.registry.register()
    one.state = "draining"
    one.registry.runner = CutOff()
    with pytest.raises(StorageUnavailable):
        await one.registry.look()
    one.registry.runner = InPlace()
    await one.registry.look()
    assert [row.state for row in tables.nodes()] == ["draining"]


class CutOff:
    """A `Runner` whose database can't be reached."""

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        raise StorageUnavailable("cut off")


async def test_a_node_that_waits_for_its_name_counts_as_away(tables: MemoryTables, autojump_clock: MockClock) -> None:
    frozen, newer = Candidate(tables), Candidate(tables, state="draining")
    await frozen.registry.register()
    await trio.sleep(LIFE + 1)
    await newer.registry.register()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(newer.registry.run)
        nursery.start_soon(frozen.registry.run)
        await trio.sleep(PATIENCE - 1)
        assert frozen.replaced_by == []
        assert trio.current_time() - frozen.registry.reached_at >= LIFE
        await newer.registry.leave()
        await trio.sleep(PERIOD)
        assert trio.current_time() - frozen.registry.reached_at <= PERIOD
        nursery.cancel_scope.cancel()


async def test_a_node_that_leaves_while_it_registers_again_is_not_listed(
    tables: MemoryTables, autojump_clock: MockClock
) -> None:
    one = Candidate(tables)
    await one.registry.register()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.registry.run)
        await trio.sleep(PERIOD / 2)
        await one.registry.leave()
        await one.registry.renew()
        await one.registry.register()
        await trio.sleep(60)
        assert tables.nodes() == []


def test_a_process_is_named_once() -> None:
    assert name_process() != name_process()
    assert not has_ended(name_process())


def test_a_process_that_has_ended_is_seen_by_its_pid() -> None:
    assert has_ended(ended_process())


@pytest.mark.parametrize("name", ["", "somewhere", "elsewhere/pid:[1] 1 00", f" {2**31 - 2} 00"])
def test_a_process_that_can_not_be_seen_from_here_has_not_ended(name: str) -> None:
    assert not has_ended(name)


@pytest.mark.parametrize("pid", ["", "-1", "x", str(2**70)])
def test_a_pid_that_is_none_has_not_ended(pid: str) -> None:
    assert not has_ended(f"{process._machine()} {pid} 00")


def ended_process() -> str:
    """The name of a process on this machine that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return name_process().replace(f" {os.getpid()} ", f" {done.pid} ")
