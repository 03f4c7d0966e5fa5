"""Checks that a bus between nodes keeps its promises: every implementation passes `check_bus`."""

# ruff: noqa: S101 - assertions are what a conformance suite is made of

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from actorchat.nodes import MOST_WHISPERED, Bus, Note, Told, Whisper

__all__ = ["check_bus"]

CAP: Final = 30.0
"""Seconds that one check may take."""

AGAIN: Final = 0.05
"""Seconds after which a note is told again, because a bus may lose it."""

OpenBus = Callable[[], Bus]


async def check_bus(open_bus: OpenBus, cut: Callable[[], Awaitable[object]] | None = None) -> None:
    """Prove that a bus does what `actorchat.nodes.Bus` promises.

    `open_bus()` makes one node's end of the same bus. `cut()` breaks all connections of the ends, which may reconnect
    at once. Raises AssertionError.
    """
    for check in (_check_notes, _check_own_notes, _check_large_notes, _check_bound, _check_cancelling):
        with trio.fail_after(CAP):
            await check(open_bus)
    if cut is not None:
        with trio.fail_after(CAP):
            await _check_reconnecting(open_bus, cut)


@attrs.define
class _Ear:
    """The notes that one node has heard."""

    heard: list[Note] = attrs.Factory(list)
    _changed: trio.Event = attrs.Factory(trio.Event)

    def __call__(self, note: Note) -> None:
        self.heard.append(note)
        self._changed.set()

    async def has(self, note: Note) -> None:
        while note not in self.heard:
            self._changed = trio.Event()
            await self._changed.wait()


@asynccontextmanager
async def _listening(bus: Bus) -> AsyncIterator[_Ear]:
    ear = _Ear()
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.run, ear)
        yield ear
        nursery.cancel_scope.cancel()


async def _deliver(bus: Bus, note: Note, *ears: _Ear) -> None:
    """Tell `note` again and again until all have heard it."""

    async def repeat(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                bus.tell(note)
                await trio.sleep(AGAIN)

    async with trio.open_nursery() as nursery:
        scope = await nursery.start(repeat)
        for ear in ears:
            await ear.has(note)
        scope.cancel()


async def _check_notes(open_bus: OpenBus) -> None:
    """Each kind of note arrives as it was told, at every other node."""
    one, two, three = open_bus(), open_bus(), open_bus()
    async with _listening(one) as first, _listening(two) as second, _listening(three) as third:
        for note in (
            Told("writer", 7, 5, b"\x00\xff payload"),
            Told("writer", 2**53, 2**53 - 1),
            Whisper("node", 3, "typing", b"\x00" * 100),
            Whisper("n\N{GREEK SMALL LETTER ALPHA}", 1, "empty", b""),
        ):
            await _deliver(one, note, second, third)
            await _deliver(two, note, first)
        assert {one.problem, two.problem, three.problem} == {None}


async def _check_own_notes(open_bus: OpenBus) -> None:
    """A node hears no notes of its own."""
    one, two = open_bus(), open_bus()
    async with _listening(one) as first, _listening(two) as second:
        own = Told("one", 1, 0)
        await _deliver(one, own, second)
        await _deliver(two, Told("two", 1, 0), first)
        assert own not in first.heard


async def _check_large_notes(open_bus: OpenBus) -> None:
    """The largest whisper arrives; a batch of any size arrives with its payload or without it."""
    one, two = open_bus(), open_bus()
    async with _listening(one), _listening(two) as ear:
        await _deliver(one, Whisper("node", 1, "large", b"x" * MOST_WHISPERED), ear)
        large = Told("one", 1, 0, b"x" * 2_000_000)
        one.tell(large)
        last = Told("one", 2, 1)
        await _deliver(one, last, ear)
        assert {note for note in ear.heard if isinstance(note, Told)} <= {large, Told("one", 1, 0), last}
        try:
            one.tell(Whisper("node", 1, "too large", b"x" * (MOST_WHISPERED + 1)))
        except ValueError:
            pass
        else:
            raise AssertionError("a whisper that is too large was taken")


async def _check_bound(open_bus: OpenBus) -> None:
    """Telling never blocks, also while nobody sends: then the newest notes are kept, and arrive in order."""
    one, two = open_bus(), open_bus()
    async with _listening(two) as ear:
        for number in range(1, 5_001):
            one.tell(Told("one", number, number - 1, b"x" * 50))
        async with _listening(one):
            last = Told("one", 5_001, 5_000)
            await _deliver(one, last, ear)
        numbers = [note.number for note in ear.heard if isinstance(note, Told) and note != last]
        assert numbers == sorted(numbers)
        assert len(numbers) < 5_000


async def _check_cancelling(open_bus: OpenBus) -> None:
    """A bus that was cancelled at any time can be run again, and others don't notice."""
    one, two = open_bus(), open_bus()
    async with _listening(two) as ear:
        for number in range(10):
            one.tell(Told("one", number, 0, b"x" * 1_000))
            with trio.move_on_after(0.002 * number):
                await one.run(lambda note: None)
        async with _listening(one):
            await one.flush()
            await _deliver(one, Told("one", 100, 0), ear)


async def _check_reconnecting(open_bus: OpenBus, cut: Callable[[], Awaitable[object]]) -> None:
    """After its connections broke, a bus carries notes again by itself."""
    one, two = open_bus(), open_bus()
    async with _listening(one) as first, _listening(two) as second:
        for number in range(1, 4):
            await _deliver(one, Told("one", number, 0), second)
            await cut()
            await _deliver(one, Told("one", number, 1), second)
            await _deliver(two, Told("two", number, 1), first)
        assert {one.problem, two.problem} == {None}
