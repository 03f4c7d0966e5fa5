"""A worker that crashes now and then, and comes back: `python -m examples.supervised_worker`.

What a crash loses (one message), what it keeps (everything that waits), and who hears of it (its asker).
"""

from __future__ import annotations

import logging

import attrs
import trio

from actorchat.actors import Actor, ActorCrashed, DeadLetter, End, Request, Restart, open_system


@attrs.frozen
class Divide(Request[float]):
    """A request names the type of its reply."""

    dividend: float
    divisor: float


class Calculator(Actor[Divide]):
    """Knows nothing of its own crashes: whoever spawned it says what follows one."""

    async def on_start(self) -> None:
        print("calculator starts")

    async def receive(self, message: Divide) -> None:
        if message.dividend < 0:
            # A refusal: only the asker hears of it, and the actor lives on.
            self.fail(message, ValueError("this calculator takes no negative numbers"))
            return
        # A bug: division by zero crashes the actor.
        self.reply(message, message.dividend / message.divisor)

    async def on_stop(self, end: End) -> None:
        print(f"calculator ends: {end.cause.value}")


def report(letter: DeadLetter) -> None:
    print(f"lost ({letter.reason.value}): {letter.message}")


async def main() -> None:
    # Every crash is logged with its traceback; this program prints its own story instead.
    logging.getLogger("actorchat.actors").setLevel(logging.CRITICAL)
    async with open_system(on_dead_letter=report) as system:
        # Back after half a second, then one, two ... seconds; at most five crashes a minute.
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
        # The second question waits in the inbox while the first one crashes the actor; the restart answers it.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(show, 1, 0)
            await trio.sleep(0.1)
            nursery.start_soon(show, 9, 3)


if __name__ == "__main__":
    trio.run(main)
