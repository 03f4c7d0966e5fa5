"""The small actors that the tests of the core share."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from actorchat.actors import Actor, End, Request

__all__ = ["Add", "Boom", "Broken", "Call", "Counter", "Hold", "Message", "Total", "giving"]


@attrs.frozen
class Add:
    n: int


@attrs.frozen
class Boom:
    """Crash the handler."""


@attrs.frozen
class Hold:
    """Stay in the handler till `gate` is set."""

    gate: trio.Event


@attrs.frozen
class Total(Request[tuple[int, ...]]):
    """What was added, in order."""


@attrs.frozen
class Call(Request[object]):
    """Let `work` answer from inside the handler, with the actor."""

    work: Callable[[Counter], object]


Message = Add | Boom | Hold | Total | Call


class Broken(Exception):  # noqa: N818 - what Boom raises
    pass


class Counter(Actor[Message]):
    """Remembers what it was told, and writes its life into `trace`."""

    def __init__(self, trace: list[str] | None = None, seen: list[int] | None = None) -> None:
        self.trace = [] if trace is None else trace
        self.seen: list[int] = [] if seen is None else seen

    async def on_start(self) -> None:
        self.trace.append("start")

    async def on_stop(self, end: End) -> None:
        self.trace.append(f"stop {end.cause.value}")

    async def receive(self, message: Message) -> None:
        match message:
            case Add(n):
                self.seen.append(n)
            case Boom():
                raise Broken
            case Hold(gate):
                await gate.wait()
            case Total():
                self.reply(message, tuple(self.seen))
            case Call(work):
                result = work(self)
                if hasattr(result, "__await__"):
                    result = await result
                self.reply(message, result)


def giving(counter: Counter) -> Callable[[], Counter]:
    """A factory of that one, for a test that looks into it."""
    return lambda: counter
