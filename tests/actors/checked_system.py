"""Opens actor systems that check at their end that no actor, no timer and no message was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

import trio
from trio.testing import MockClock

import actorchat.actors
from actorchat.actors import ActorSystem, DeadLetter, DeadLetterReason, Instrument

__all__ = ["MessageLedger", "ledger_enabled", "open_system"]

ledger_enabled: Final = ContextVar("ledger_enabled", default=False)
"""Whether `open_system` adds a `MessageLedger`. It is an instrument, so messages take the slower path."""


class MessageLedger(Instrument):
    """Counts for each message object whether it was accepted, begun, ended or lost."""

    def __init__(self) -> None:
        self.accepted: Counter[int] = Counter()
        self.begun: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.lost_waiting: Counter[int] = Counter()
        self._kept: list[object] = []

    def enqueue(self, name: str, message: object) -> None:
        self.accepted[self._id(message)] += 1

    def begin(self, name: str, message: object) -> None:
        self.begun[self._id(message)] += 1

    def end(self, name: str, message: object, error: BaseException | None) -> None:
        self.ended[self._id(message)] += 1

    def lose(self, letter: DeadLetter) -> None:
        if letter.reason is not DeadLetterReason.CRASHED:
            self.lost_waiting[self._id(letter.message)] += 1

    def _id(self, message: object) -> int:
        # Kept alive, so that no other object gets the same id.
        self._kept.append(message)
        return id(message)

    def check(self, system: ActorSystem) -> None:
        """Check that every accepted message was begun, became a dead letter or was abandoned by its caller."""
        assert not self.begun - self.ended, "a handler has not ended"
        vanished = sum((self.accepted - self.begun - self.lost_waiting).values())
        assert vanished == system.abandoned, "a message was accepted, and neither begun, dead-lettered nor abandoned"
        for number, times in self.begun.items():
            assert times <= max(1, self.accepted[number]), "a message began more often than it was accepted"


@asynccontextmanager
async def open_system(
    *,
    drain: float = 5.0,
    grace: float = 1.0,
    limit: float = 30.0,
    seed: int | None = None,
    on_dead_letter: Callable[[DeadLetter], object] | None = None,
    instrument: Instrument | None = None,
    stuck_after: float | None = None,
) -> AsyncIterator[ActorSystem]:
    """Open a system as `actorchat.actors.open_system` does, and check at the end that nothing is left."""
    ledger = MessageLedger() if ledger_enabled.get() and instrument is None else None

    def lost(letter: DeadLetter) -> None:
        if ledger is not None:
            ledger.lose(letter)
        if on_dead_letter is not None:
            on_dead_letter(letter)

    before = _next_deadline()
    virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
    opened: ActorSystem | None = None
    try:
        # A test that hangs fails; with a virtual clock it fails at once, because no test waits for so long on purpose.
        with trio.fail_after(2e5 if virtual else 20):
            async with actorchat.actors.open_system(
                drain=drain,
                grace=grace,
                limit=limit,
                seed=seed,
                on_dead_letter=lost,
                instrument=instrument or ledger,
                stuck_after=stuck_after,
            ) as opened:
                yield opened
    finally:
        if opened is not None:
            assert opened.tree() == (), "an actor is left"
            # A second of tolerance, because under the real clock time passes between the two readings.
            assert _next_deadline() >= before - 1.0, "a timer is left"
            if ledger is not None:
                ledger.check(opened)


def _next_deadline() -> float:
    """The time of Trio's next deadline, in seconds of its clock."""
    return trio.current_time() + trio.lowlevel.current_statistics().seconds_to_next_deadline
