"""A group may change while it publishes."""

from __future__ import annotations

from actorchat.actors import DeadLetter, End, Group, Overflow
from actorchat.testing import settle
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Call, Counter, Message, giving


async def test_membership_changes_during_publish_affect_the_next_publish_only() -> None:
    group = Group[Message]()
    counters = [Counter() for _ in range(4)]

    def change(_: DeadLetter) -> None:
        # Called inside `publish`, when the message for the full member is dropped.
        group.discard(refs[0])
        refs[1].stop()
        group.add(refs[3])

    async with open_system(on_dead_letter=change) as system:
        refs = [await system.start(giving(counter), inbox=1, overflow=Overflow.REJECT) for counter in counters]
        for ref in (refs[2], refs[0], refs[1]):
            group.add(ref)
        refs[2].tell(Add(0))
        # The full member loses the message, the stopped one accepts none, and the one that left still gets it.
        assert group.publish(Add(1)) == 1
        assert list(group) == [refs[2], refs[1], refs[3]]
        await settle(system)
        assert list(group) == [refs[2], refs[3]]
        assert group.publish(Add(2)) == 2
        await settle(system)
    assert [counter.seen for counter in counters] == [[1], [], [0, 2], [2]]


async def test_handlers_may_publish_while_others_join_and_leave() -> None:
    group = Group[Message]()
    counters = [Counter() for _ in range(3)]

    async with open_system() as system:
        refs = [await system.start(giving(counter)) for counter in counters]
        late, leaving = refs[1], refs[2]
        group.add(refs[0])
        group.add(leaving)
        refs[0].tell(Call(lambda actor: group.add(late) and group.publish(Add(1))))
        leaving.tell(Call(lambda actor: group.discard(actor.ref)))
        leaving.tell(Call(lambda actor: actor.ref.stop()))
        await settle(system)
        assert group.publish(Add(2)) == 2
        await settle(system)
    assert counters[0].seen == counters[1].seen == [1, 2]
    assert counters[2].seen in ([], [1])


async def test_a_message_published_in_on_stop_does_not_reach_its_publisher() -> None:
    group = Group[Message]()
    taken: list[int] = []

    class Leaving(Counter):
        async def on_stop(self, end: End) -> None:
            taken.append(group.publish(Add(9)))

    async with open_system() as system:
        ears = Counter()
        for factory in (Leaving, lambda: ears, Leaving):
            group.add(await system.start(factory))
        first, _, last = group
        first.kill()
        last.stop()
        await settle(system)
        assert len(group) == 1
    # Both leave at the same time, so neither gets the other's message.
    assert taken == [1, 1]
    assert ears.seen == [9, 9]
