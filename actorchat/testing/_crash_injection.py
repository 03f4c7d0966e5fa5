"""Makes actors crash on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from actorchat.actors import Actor

__all__ = ["InjectedCrash", "crash"]

M = TypeVar("M")


class InjectedCrash(Exception):  # noqa: N818 - it is injected on purpose
    """Raised by `crash` in an actor's handler."""


@contextmanager
def crash(actor: type[Actor[M]], *, on: type[object], nth: int = 1, after: bool = False) -> Iterator[None]:
    """Inside the block, raise `InjectedCrash` in the handler of the `nth` message of type `on`.

    The handler raises before it handles the message, or afterwards if `after` is true. Messages are counted over all
    actors of the class. If the class overrides `receive_batch`, the whole batch with that message crashes. Only
    incarnations that start inside the block are affected.
    """
    seen = 0

    def count(messages: Sequence[object]) -> bool:
        nonlocal seen
        before = seen
        seen += sum([isinstance(message, on) for message in messages])
        return before < nth <= seen

    receive, receive_batch = actor.receive, actor.receive_batch
    batched = receive_batch is not Actor.receive_batch
    inside = False

    async def crashing(self: Actor[M], message: M) -> None:
        # A message that `receive_batch` passes on to `receive` was already counted with its batch.
        hit = not inside and count([message])
        if hit and not after:
            raise InjectedCrash(repr(message))
        await receive(self, message)
        if hit:
            raise InjectedCrash(repr(message))

    async def crashing_batch(self: Actor[M], messages: Sequence[M]) -> None:
        nonlocal inside
        hit = count(messages)
        if hit and not after:
            raise InjectedCrash(repr(messages))
        inside = True
        try:
            await receive_batch(self, messages)
        finally:
            inside = False
        if hit:
            raise InjectedCrash(repr(messages))

    before = {name: vars(actor).get(name) for name in ("receive", "receive_batch")}
    actor.receive = crashing  # type: ignore[method-assign] # replaced on purpose
    if batched:
        actor.receive_batch = crashing_batch  # type: ignore[method-assign] # replaced on purpose
    try:
        yield
    finally:
        for name, method in before.items():
            if method is not None:
                setattr(actor, name, method)
            elif name in vars(actor):
                delattr(actor, name)
