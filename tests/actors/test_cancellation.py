"""A cancellation at any checkpoint leaves nothing behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from itertools import chain, count

import pytest
import trio

from actorchat.actors import ActorError, ActorSystem, Ref, Restart, Strategy, open_supervisor
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Call, Counter, Hold, Message

Work = Callable[[Counter], object]


async def passes(number: int) -> None:
    for _ in range(number):
        await trio.lowlevel.checkpoint()


def busy_for(number: int) -> Work:
    return lambda _: passes(number)


class Script:
    """A program that uses most features. `trace` records the actors' starts and stops, `ends` the results of calls."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.ends: list[str] = []

    def actor(self, _: str = "") -> Counter:
        return Counter(self.trace)

    async def until_it_ends(self, wait: Callable[[], object]) -> None:
        self.ends.append("begun")
        try:
            await wait()  # type: ignore[misc] # an ask or a send
            self.ends.append("done")
        except ActorError:
            self.ends.append("failed")
        except trio.Cancelled:
            self.ends.append("cancelled")
            raise

    async def run(self, system: ActorSystem) -> None:
        restart = Restart(max=5, backoff=0.001)
        async with open_supervisor(system, Strategy.ONE_FOR_ALL, restart) as supervisor:
            refs: list[Ref[Message]] = [
                system.spawn(self.actor, inbox=2, restart=restart),
                system.virtual(self.actor, idle=0.001)["x"],
                supervisor.spawn(self.actor),
                supervisor.spawn(self.actor),
            ]
            await system.start(self.actor)
            async with trio.open_nursery() as nursery:
                for ref in refs:
                    for message in (Call(busy_for(3)), Call(lambda _: 1 / 0), Call(busy_for(1))):
                        nursery.start_soon(self.until_it_ends, partial(ref.ask, message))
                    nursery.start_soon(self.until_it_ends, partial(ref.ask, Call(self.owe), timeout=0.01))
                    for n in range(4):
                        nursery.start_soon(self.until_it_ends, partial(ref.send, Add(n)))
                    ref.signal(Call(self.use_everything(refs[0])))
                    ref.tell(Boom())
                    ref.signal(Add(2))
            refs[0].stop()
            await refs[0].join()
            refs[1].kill()
            refs[2].tell(Hold(trio.Event()))
            refs[2].kill()

    def use_everything(self, other: Ref[Message]) -> Work:
        def work(actor: Counter) -> None:
            actor.after(0.0005, Add(1), key="once")
            actor.every(0.001, Add(1), key="often")
            actor.pipe(partial(passes, 2), ok=lambda _: Add(3))
            if actor.ref is not other:
                actor.watch(other, as_=lambda _: Add(4))

        return work

    async def owe(self, actor: Counter) -> None:
        await trio.sleep(0.002)


@pytest.mark.parametrize("outer", [True, False], ids=["around the system", "around its body"])
async def test_cancelling_at_any_checkpoint_leaves_no_waiting_sender(
    outer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # Formatting thousands of tracebacks would take most of the time.
    caplog.set_level(logging.CRITICAL + 1, "actorchat.actors")
    # Every pass at first; fewer later, when the script mostly waits for timers.
    for step in chain(range(100), count(100, 11)):
        script = Script()
        with trio.fail_after(30), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                inner = trio.CancelScope()
                nursery.start_soon(cancel_after, scope if outer else inner, step)
                async with open_system() as system:
                    with inner:
                        await script.run(system)
                nursery.cancel_scope.cancel()
        starts = script.trace.count("start")
        assert starts * 2 == len(script.trace), f"cancelled at pass {step}: {script.trace}"
        assert script.ends.count("begun") * 2 == len(script.ends), f"cancelled at pass {step}: {script.ends}"
        if not (scope.cancelled_caught or inner.cancelled_caught):
            break
    assert step > 20, "the script is long enough to be worth it"


async def cancel_after(scope: trio.CancelScope, step: int) -> None:
    await passes(step)
    scope.cancel()
