"""The simulated broker delivers at least once and in order, and refuses when it is full."""

from __future__ import annotations

import pytest
import trio

from actorchat.testing.simulation import Broker, BrokerUnavailable, Published, World, simulate


@pytest.mark.parametrize("seed", range(5))
def test_a_publisher_that_repeats_failed_batches_delivers_in_order(seed: int) -> None:
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

    simulate(program, seed).check()


def test_a_full_channel_refuses_messages() -> None:
    async def program(world: World) -> None:
        broker = Broker(world)
        broker.capacity = 1
        await broker.publish([Published("chat", b"")])
        with pytest.raises(BrokerUnavailable):
            await broker.publish([Published("chat", b"")])
        await anext(broker.consume("chat"))
        await broker.publish([Published("chat", b"")])

    simulate(program, 1).check()
