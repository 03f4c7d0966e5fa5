"""A worker that crashes and is restarted: `python -m examples.supervised_worker`.

A crash loses one message and keeps the waiting ones; the caller whose message crashed gets the error.
"""

from __future__ import annotations

import logging

import attrs
import trio

from actorchat.actors import Actor, ActorCrashed, DeadLetter, End, Request, Restart, open_system


@attrs.frozen
class Divide(Request[float]):
    """A request. Its base class names the type of the reply."""

    dividend: float
    divisor: float


class Calculator(Actor[Divide]):
    """Contains no code for crashes: `spawn` sets what happens after one."""

    async def on_start(self) -> None:
        print("calculator starts")

    async def receive(self, message: Divide) -> None:
        if message.dividend < 0:
            # A refusal raises in the caller only; the actor goes on.
            self.fail(message, ValueError("this calculator takes no negative numbers"))
            return
        # A bug: a division by zero crashes the actor.
        self.reply(message, message.dividend / message.divisor)

    async def on_stop(self, end: End) -> None:
        print(f"calculator ends: {end.cause.value}")


def report(letter: DeadLetter) -> None:
    print(f"lost ({letter.reason.value}): {letter.message}")


async def main() -> None:
    # Crashes are logged with a traceback. Hide that, to show the program's own output only.
    logging.getLogger("actorchat.actors").setLevel(logging.CRITICAL)
    async with open_system(on_dead_letter=report) as system:
        # Restart after 0.5, 1, 2 … seconds, for at most five crashes a minute.
        calculator = system.spawn(Calculator, restart=Restart(max=5, within=60.0, backoff=0.5, jitter=0.0))

        async def show(dividend: float, divisor: float) -> None:
            try:
                print(f"{dividend} / {divisor} = {await calculator.ask(Divide(dividend, divisor), timeout=5.0)}")
            except ActorCrashed as crash:
                print(f"{dividend} / {divisor}: {crash} by {crash.__cause__!r}")
            except ValueError as refusal:
                print(f"{dividend} / {divisor}: {refusal}")

        await show(6, 3)
        await show(-6, 3)
        # The second request waits in the inbox while the first crashes the actor, and is answered after the restart.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(show, 1, 0)
            await trio.sleep(0.1)
            nursery.start_soon(show, 9, 3)


if __name__ == "__main__":
    trio.run(main)
