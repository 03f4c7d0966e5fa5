"""The simulated database behaves like PostgreSQL."""

from __future__ import annotations

import pytest
import trio

from actorchat.testing.simulation import (
    CommitLost,
    Database,
    DatabaseUnavailable,
    DeadlockDetected,
    UniqueViolation,
    World,
    simulate,
)


async def _fill(database: Database, **rows: int) -> None:
    connection = await database.connect()
    async with connection.transaction() as transaction:
        for key, value in rows.items():
            await transaction.insert("numbers", key, value=value)


def test_a_transaction_is_visible_to_others_once_it_is_committed() -> None:
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

    simulate(program, 1).check()


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

    simulate(program, seed).check()


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
        simulate(program, seed).check()
    assert min(finals) < 20


def test_one_of_two_deadlocked_transactions_is_rolled_back() -> None:
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

    simulate(program, 1).check()


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

    simulate(program, 1).check()


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

    simulate(program, 1).check()


@pytest.mark.parametrize("replicated", [True, False])
def test_a_failover_loses_commits_that_the_standby_lacks(replicated: bool) -> None:
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

    simulate(program, 1).check()
