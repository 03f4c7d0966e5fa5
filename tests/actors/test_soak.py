"""Nothing accumulates over many addresses, long times and random crashes."""

from __future__ import annotations

import gc
import logging
from random import Random

import pytest
import trio
from trio.testing import MockClock

from actorchat.actors import Actor, ActorSystem, Group, Ref, Restart, Virtual
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Broken, Counter, Message

# One schedule without a ledger, which would itself accumulate.
ONE_SCHEDULE = pytest.mark.parametrize("schedule", [0], indirect=True)


def alive(kind: type[object]) -> int:
    """The number of live instances of the class."""
    gc.collect()
    return sum(isinstance(each, kind) for each in gc.get_objects())


@pytest.mark.slow
@ONE_SCHEDULE
async def test_ten_thousand_keys_return_to_no_actor_no_address_and_no_task(autojump_clock: MockClock) -> None:
    async with open_system() as system:
        before = alive(Ref), alive(Actor), trio.lowlevel.current_statistics().tasks_living
        rooms = system.virtual(lambda key: Counter(), idle=10)  # type: ignore[var-annotated] # no key is typed here
        for start in range(0, 10_000, 1000):
            for n in range(start, start + 1000):
                rooms[str(n)].tell(Add(n))
            await trio.sleep(3)
        assert rooms.active > 1000
        await trio.sleep(25)
        assert rooms.active == 0
        assert (alive(Ref), alive(Actor), trio.lowlevel.current_statistics().tasks_living) == before


class Room(Actor[Message]):
    """Passes messages on to its members, and counts the members that have ended."""

    def __init__(self, key: str, members: Group[Message]) -> None:
        self.members = members

    async def on_start(self) -> None:
        for member in self.members:
            self.watch(member, as_=lambda _: Add(-1))
        self.after(50, Add(0), key="beat")

    async def receive(self, message: Message) -> None:
        match message:
            case Boom():
                raise Broken
            case Add(n) if n > 0:
                self.members.publish(message)
                self.after(n % 30, Add(0), key="typing")


class ChatService:
    """Rooms whose members join and leave."""

    def __init__(self, system: ActorSystem, rooms: int, members: int) -> None:
        self.system, self.count, self.members = system, rooms, members
        restart = Restart(max=2, backoff=0.5)
        self.rooms: Virtual[str, Message, Group[Message]] = system.virtual(
            Room, anchor=lambda key: Group(), idle=60, restart=restart
        )
        self.random = Random(7)

    async def fill(self, number: int) -> None:
        room, group = self.rooms[str(number)], self.rooms.anchor(str(number))
        while len(group) < self.members:
            group.add(self.system.spawn(Counter, inbox=8, restart=Restart(backoff=0.5)))
        room.tell(Add(1))
        await trio.lowlevel.checkpoint()

    async def hour(self, changes: int) -> None:
        """Run for an hour with `changes` random changes."""
        random = self.random
        for _ in range(changes):
            number = random.randrange(self.count)
            await self.fill(number)
            room, group = self.rooms[str(number)], self.rooms.anchor(str(number))
            member = random.choice(list(group))
            match random.randrange(6):
                case 0:
                    room.tell(Boom())
                case 1:
                    member.stop()
                case 2:
                    member.kill()
                case 3:
                    member.tell(Boom())
                case 4:
                    room.kill()
                case _:
                    room.tell(Add(random.randrange(1, 100)))
            await trio.sleep(2 * 3600 / changes * random.random())

    async def warm_up(self) -> None:
        """Crash every room once, because an address allocates its counters with the first crash or loss."""
        for number in range(self.count):
            await self.fill(number)
            for ref in (self.rooms[str(number)], *self.rooms.anchor(str(number))):
                ref.tell(Boom())
        await trio.sleep(600)

    def empty(self) -> None:
        """Stop all members and rooms.

        It awaits nothing: on Python 3.13 Trio may hold the last cancellation for a while, here of a sleep, and with it
        the frames that it went through and what they name.
        """
        for number in range(self.count):
            for member in self.rooms.anchor(str(number)):
                member.stop()


@pytest.mark.slow
@ONE_SCHEDULE
@pytest.mark.parametrize(
    ("rooms", "hours", "changes"),
    [
        pytest.param(20, 3, 150, id="short"),
        pytest.param(1_000, 10, 3_000, id="full", marks=pytest.mark.soak),
    ],
)
async def test_hours_of_churn_leave_nothing_behind(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, rooms: int, hours: int, changes: int
) -> None:
    # Captured log records hold tracebacks, which hold actors.
    caplog.set_level(logging.CRITICAL + 1, "actorchat.actors")
    async with open_system(seed=7) as system:
        before = alive(Ref), alive(Actor), trio.lowlevel.current_statistics().tasks_living
        chats = ChatService(system, rooms, 10)
        held: list[int] = []
        keys = [chats.rooms[str(number)] for number in range(rooms)]
        await chats.warm_up()
        for _ in range(hours):
            await chats.hour(changes)
            for number in range(rooms):
                await chats.fill(number)
            await trio.sleep(600)
            # With all rooms full and idle, the number of objects must not grow from hour to hour.
            gc.collect()
            held.append(len(gc.get_objects()))
            assert (chats.rooms.active, len(system.tree())) == (0, rooms * 10)
        assert max(held) < 1.02 * held[0]
        chats.empty()
        await trio.sleep(600)
        assert system.tree() == ()
        del keys
        chats.rooms = system.virtual(Room, anchor=lambda key: Group())
        assert (alive(Ref), alive(Actor), trio.lowlevel.current_statistics().tasks_living) == before
