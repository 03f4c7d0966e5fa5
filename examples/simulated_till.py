"""Simulate a till that must count each order once, even if it is killed: `python -m examples.simulated_till`.

Clients repeat an order until it is answered. Without idempotency keys the simulation finds seeds that count one twice.
"""

from functools import partial

import attrs
import trio

from actorchat.actors import Actor, Request, open_system
from actorchat.testing.simulation import Node, World, simulate

CLIENTS, ORDERS = 3, 5
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.frozen
class Order(Request[int]):
    key: str


async def shop(keys: bool, world: World) -> None:
    chance, disk = world.random("shop"), dict[str, int]()  # the disk outlives the process

    class Till(Actor[Order]):
        async def receive(self, message: Order) -> None:
            await trio.sleep(0.05)
            disk[message.key] = 1
            self.reply(message, len(disk))

    async def serve(node: Node) -> None:
        async with open_system(seed=world.seed) as system:
            till = system.spawn(Till)

            async def answer(stream: trio.abc.Stream) -> None:
                order = b""
                try:
                    async for piece in stream:  # the network cuts where it likes
                        order += piece
                        if order.endswith(b"\n"):
                            count = await till.ask(Order(order.decode() if keys else f"order {len(disk)}"))
                            await stream.send_all(b"%d" % count)
                except BROKEN:
                    world.log("a client is gone")

            await trio.serve_listeners(answer, [world.listen(80)])

    async def buy(client: int) -> None:
        for number in range(ORDERS):
            answered = b""
            while not answered:
                try:
                    with trio.move_on_after(2):
                        async with await world.dial(80) as stream:
                            await stream.send_all(f"order {number} of client {client}\n".encode())
                            answered = await stream.receive_some()
                except BROKEN:
                    await trio.sleep(chance.random())

    async def break_things(node: Node) -> None:
        while True:
            await trio.sleep(chance.uniform(0.2, 1.5))
            await node.kill()
            node.start()

    node = world.node("till", serve)
    node.start()
    world.nursery.start_soon(break_things, node)
    async with trio.open_nursery() as nursery:
        for client in range(CLIENTS):
            nursery.start_soon(buy, client)
    world.check(len(disk) == CLIENTS * ORDERS, "once", f"{CLIENTS * ORDERS} orders were counted as {len(disk)}")


if __name__ == "__main__":
    for keys in (True, False):
        broken = [seed for seed in range(10) if simulate(partial(shop, keys), seed).violation is not None]
        print(f"keys: {keys}; orders were counted twice with the seeds {broken}")
