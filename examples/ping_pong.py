"""Two actors that play ping-pong: `python -m examples.ping_pong`.

It shows messages, addresses, and how two actors get to know each other.
"""

from __future__ import annotations

import attrs
import trio

from actorchat.actors import Actor, Ref, open_system


@attrs.frozen
class Ball:
    """The only message of the game. `back` is the address of the player who gets the ball next."""

    number: int
    back: Ref[Ball]


class Player(Actor[Ball]):
    """Plays each ball back, and stops after the last one."""

    def __init__(self, sound: str, last: int) -> None:
        self.sound = sound
        self.last = last

    async def receive(self, message: Ball) -> None:
        print(f"{message.number} {self.sound}")
        if message.number < self.last:
            message.back.tell(Ball(message.number + 1, back=self.ref))
        if message.number >= self.last - 1:
            # The actor accepts no more messages, and ends once it has handled those in its inbox.
            self.ref.stop()


async def main() -> None:
    async with open_system() as system:
        ping = system.spawn(lambda: Player("ping", last=6), name="ping")
        pong = system.spawn(lambda: Player("pong", last=6), name="pong")
        # `tell` puts the ball into ping's inbox and returns at once.
        ping.tell(Ball(1, back=pong))
        await ping.join()
        await pong.join()


if __name__ == "__main__":
    trio.run(main)
