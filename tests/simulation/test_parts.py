"""The simulated broker, bus and database behave as real ones do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from actorchat.testing.simulation import (
    Broker,
    BrokerUnavailable,
    Bus,
    CommitLost,
    Database,
    DatabaseUnavailable,
    DeadlockDetected,
    Published,
    UniqueViolation,
    World,
    simulate,
)


def run(program: Callable[[World], Awaitable[None]], seed: int = 1) -> None:
    simulate(program, seed).check()


async def _fill(database: Database, **rows: int) -> None:
    connection = await database.connect()
    async with connection.transaction() as transaction:
        for key, value in rows.items():
            await transaction.insert("numbers", key, value=value)


def test_a_transaction_is_seen_by_others_once_it_is_committed() -> None:
    async def program(world: World) -> None:
        database = Database(world)
        await _fill(database, a=1)
        one, two = await database.connect(), await database.connect()
        async with two.transaction() as reading:
            async with one.transaction() as writing:
                await writing.update("numbers", "a", value=2)
                assert (await writing.read("numbers", "a") or {})["value"] == 2
                assert (await reading.read("numbers", "a") or {})["value"] == 1
            # READ COMMITTED: each statement sees what is committed when it begins.
            assert (await reading.read("numbers", "a") or {})["value"] == 2

    run(program)


@pytest.mark.parametrize("seed", range(10))
def test_increments_behind_a_row_lock_are_never_lost(seed: int) -> None:
    async def program(world: World) -> None:
        database = Database(world)
        await _fill(database, a=0)

        async def increment() -> None:
            connection = await database.connect()
            for _ in range(5):
                async with connection.transaction() as transaction:
                    [row] = (await transaction.lock("numbers", ["a"])).values()
                    await transaction.update("numbers", "a", value=row["value"] + 1)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(increment)
        assert database.rows("numbers")["a"]["value"] == 20

    run(program, seed)


def test_without_the_lock_increments_are_lost() -> None:
    finals = set[int]()

    async def program(world: World) -> None:
        database = Database(world)
        await _fill(database, a=0)

        async def increment() -> None:
            connection = await database.connect()
            for _ in range(5):
                async with connection.transaction() as transaction:
                    row = await transaction.read("numbers", "a") or {}
                    await transaction.update("numbers", "a", value=row["value"] + 1)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(increment)
        finals.add(database.rows("numbers")["a"]["value"])

    for seed in range(5):
        run(program, seed)
    assert min(finals) < 20


def test_of_two_that_lock_in_opposite_orders_one_is_rolled_back() -> None:
    async def program(world: World) -> None:
        database = Database(world)
        await _fill(database, a=0, b=0)
        deadlocks = 0

        async def change(first: str, second: str) -> None:
            nonlocal deadlocks
            connection = await database.connect()
            try:
                async with connection.transaction() as transaction:
                    await transaction.update("numbers", first, value=1)
                    await trio.sleep(1)
                    await transaction.update("numbers", second, value=1)
            except DeadlockDetected:
                deadlocks += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, "a", "b")
            nursery.start_soon(change, "b", "a")
        assert deadlocks == 1
        assert [row["value"] for row in database.rows("numbers").values()] == [1, 1]

    run(program)


def test_a_key_is_inserted_once() -> None:
    async def program(world: World) -> None:
        database = Database(world)
        await _fill(database, a=1)
        connection = await database.connect()
        with pytest.raises(UniqueViolation):
            async with connection.transaction() as transaction:
                await transaction.insert("numbers", "a", value=2)
        async with connection.transaction() as transaction:
            assert await transaction.delete("numbers", "a")
            assert not await transaction.update("numbers", "b", value=1)
        assert not database.rows("numbers")

    run(program)


@pytest.mark.parametrize(("stored", "late", "at_once", "later"), [(False, 0, 1, 1), (True, 0, 2, 2), (True, 0.6, 1, 2)])
def test_a_lost_commit_is_stored_or_not_and_perhaps_later(stored: bool, late: float, at_once: int, later: int) -> None:
    async def program(world: World) -> None:
        database = Database(world)
        await _fill(database, a=1)
        connection = await database.connect()
        database.lose_commit(stored=stored, late=late)
        with pytest.raises(CommitLost):
            async with connection.transaction() as transaction:
                await transaction.update("numbers", "a", value=2)
        with pytest.raises(DatabaseUnavailable):
            async with connection.transaction():
                pass
        assert database.rows("numbers")["a"]["value"] == at_once
        # A lock on the row waits for the end of the uncertain transaction.
        fresh = await database.connect()
        async with fresh.transaction() as fence:
            assert (await fence.lock("numbers", ["a"]))["a"]["value"] == later

    run(program)


@pytest.mark.parametrize("replicated", [True, False])
def test_a_failover_loses_what_the_standby_had_not(replicated: bool) -> None:
    async def program(world: World) -> None:
        database = Database(world, replicated=replicated)
        await _fill(database, a=1)
        database.catch_up()
        connection = await database.connect()
        async with connection.transaction() as transaction:
            await transaction.update("numbers", "a", value=2)
        assert database.fail_over() == (0 if replicated else 1)
        assert database.rows("numbers")["a"]["value"] == (2 if replicated else 1)
        with pytest.raises(DatabaseUnavailable):
            await database.connect()
        await trio.sleep(1)
        await database.connect()

    run(program)


@pytest.mark.parametrize("seed", range(5))
def test_a_publisher_that_repeats_what_failed_reaches_the_broker_in_order(seed: int) -> None:
    async def program(world: World) -> None:
        broker = Broker(world)
        broker.cut_rate, broker.late = 0.5, 2.0
        broker.refuse_until = trio.current_time() + 3
        messages = [Published("chat", b"{}", id=str(number)) for number in range(40)]
        for start in range(0, 40, 8):
            while True:
                try:
                    await broker.publish(messages[start : start + 8])
                    break
                except BrokerUnavailable:
                    await trio.sleep(0.5)
        stored = [int(message.id) for message in broker.stored("chat")]
        assert list(dict.fromkeys(stored)) == list(range(40))
        assert len(stored) > 40
        feed = broker.consume("chat")
        assert [int((await anext(feed)).id) for _ in range(3)] == stored[:3]

    run(program, seed)


def test_a_full_channel_refuses() -> None:
    async def program(world: World) -> None:
        broker = Broker(world)
        broker.capacity = 1
        await broker.publish([Published("chat", b"")])
        with pytest.raises(BrokerUnavailable):
            await broker.publish([Published("chat", b"")])
        await anext(broker.consume("chat"))
        await broker.publish([Published("chat", b"")])

    run(program)


def test_a_bus_loses_repeats_and_reorders_and_can_be_split() -> None:
    heard: dict[str, list[int]] = {"b": [], "c": []}

    async def program(world: World) -> None:
        bus: Bus[int] = Bus(world)
        bus.lose, bus.repeat, bus.delay = 0.2, 0.2, 1.0
        sender = bus.join("a")

        async def listen(name: str) -> None:
            member = bus.join(name)
            while True:
                heard[name].append(await member.receive())

        for name in heard:
            world.nursery.start_soon(listen, name)
        await trio.sleep(1)
        for number in range(50):
            sender.tell(number)
        await trio.sleep(2)
        bus.split(["a", "b"], ["c"])
        sender.tell(99)
        await trio.sleep(2)

    run(program)
    for name, notes in heard.items():
        assert 25 < len(set(notes)) <= 50 or name == "b"
        assert len(notes) > len(set(notes))
        assert notes != sorted(notes)
    assert 99 not in heard["c"]


def test_a_bus_member_that_does_not_receive_loses_the_oldest_notes() -> None:
    async def program(world: World) -> None:
        bus: Bus[int] = Bus(world, capacity=3)
        bus.delay = 0.0
        sender, slow = bus.join("a"), bus.join("b")
        for number in range(5):
            sender.tell(number)
        await trio.sleep(1)
        assert [await slow.receive() for _ in range(3)] == [2, 3, 4]
        assert bus.lost == 2

    run(program)
