"""The actor `Counter` and its messages, which the tests of the actor core share."""

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
    """Stay in the handler until `gate` is set."""

    gate: trio.Event


@attrs.frozen
class Total(Request[tuple[int, ...]]):
    """A request for the numbers added so far, in order."""


@attrs.frozen
class Call(Request[object]):
    """A request to call `work` with the actor inside its handler, and to reply with the result."""

    work: Callable[[Counter], object]


Message = Add | Boom | Hold | Total | Call


class Broken(Exception):  # noqa: N818 - raised by `Boom`
    pass


class Counter(Actor[Message]):
    """Stores the numbers it receives in `seen`, and its starts and stops in `trace`."""

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
    """A factory that returns `counter`, for a test that inspects it."""
    return lambda: counter
