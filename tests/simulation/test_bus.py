"""The simulated bus loses, repeats and reorders notes, and can be partitioned."""

from __future__ import annotations

import trio

from actorchat.testing.simulation import Bus, World, simulate


def test_a_bus_loses_repeats_and_reorders_notes_and_can_be_partitioned() -> None:
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

    simulate(program, 1).check()
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

    simulate(program, 1).check()
