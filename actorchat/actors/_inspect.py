"""Inspection of a running system: its actors, their current messages, and where stuck actors wait."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import CoroutineType
from typing import TYPE_CHECKING, NoReturn

import trio

from actorchat.actors._events import ActorInfo, EventKind
from actorchat.actors._inbox import message_of
from actorchat.actors._ref import INACTIVE, Ref

if TYPE_CHECKING:
    from actorchat.actors._system import ActorSystem

_log = logging.getLogger("actorchat.actors")


def inspect(system: ActorSystem) -> Iterator[ActorInfo]:
    for ref in system.live():
        # Time may have passed since the previous actor.
        if ref._state not in INACTIVE:
            yield _describe(ref, trio.current_time())


async def watch_stuck(system: ActorSystem, after: float) -> None:
    """Report each message that keeps an actor busy for `after` seconds, once. Runs until cancelled."""
    told: dict[Ref[NoReturn], int] = {}
    while True:
        await trio.sleep(after / 2)
        now = trio.current_time()
        live = system.live()
        for ref in live:
            if _busy_for(ref, now) >= after and told.get(ref) != ref._busy_mark:
                told[ref] = ref._busy_mark
                where = _await_stack(system, ref)
                _log.warning("%s is stuck in one message\n%s", ref.name, where)
                system._emit(EventKind.STUCK, ref, None, where)
        told = {ref: told[ref] for ref in live if ref in told}


def _busy_for(ref: Ref[NoReturn], now: float) -> float:
    inbox, actor = ref._inbox, ref._actor
    if actor is None or (actor._current is None and not actor._batch):
        ref._busy_mark = -1
        return 0.0
    mark = inbox.begun + inbox.signals
    if mark != ref._busy_mark:
        ref._busy_mark, ref._busy_since = mark, now
    return now - ref._busy_since


def _describe(ref: Ref[NoReturn], now: float) -> ActorInfo:
    inbox, actor = ref._inbox, ref._actor
    current = None if actor is None else message_of(actor._batch[0] if actor._batch else actor._current)
    return ActorInfo(
        name=ref.name,
        actor=ref._kind.__name__ if ref._kind is not None else "",
        parent=ref._spec._parent,
        state=ref._state.value,
        age=now - ref._since,
        restarts=ref._restarts,
        queued=inbox.queued,
        bound=inbox.bound,
        begun=inbox.begun,
        signals=inbox.signals,
        dropped=inbox.dropped,
        drops={} if ref._drops is None else dict(ref._drops),
        message=None if current is None else type(current).__name__,
        busy_for=_busy_for(ref, now),
        waiting_on=None if ref._waits_for is None else ref._waits_for.name,
    )


def _await_stack(system: ActorSystem, ref: Ref[NoReturn]) -> str:
    """The frames in which the actor's task waits, outermost first."""
    step: object = next((task.coro for task, owner in system._tasks.items() if owner is ref), None)
    lines = []
    while isinstance(step, CoroutineType) and step.cr_frame is not None:
        lines.append(f"{step.cr_code.co_filename}:{step.cr_frame.f_lineno} in {step.cr_code.co_qualname}")
        step = step.cr_await
    return "\n".join(lines)
