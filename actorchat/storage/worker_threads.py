"""Owns where a store's blocking calls run: a few named threads of its own, or in place. Knows no store.

Trio's cached worker threads linger for ten seconds; these end with their block.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeVar

import outcome
import trio
from trio.lowlevel import Abort, TrioToken

__all__ = ["InPlace", "Runner", "Workers", "open_workers"]

T = TypeVar("T")


class Runner(Protocol):
    """Somewhere to run a blocking call."""

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        """Return what `call` returns. Never abandoned: a cancelled caller still gets the result of what has
        begun. It may not yield: a caller that loops sees to that, and to its own cancellation.

        `meanwhile` is called once, in the caller's task, as soon as `call` is on its way. It should not raise: what it
        raises is raised in place of `call`'s result, when nothing of `call` is running.
        """


class InPlace:
    """Runs calls that don't block, in the caller's task. Yields only between `meanwhile` and the call."""

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        if meanwhile is not None:
            meanwhile()
            await trio.lowlevel.cancel_shielded_checkpoint()
        return call()


class Workers:
    """Threads that take calls in the order they came. Made by `open_workers`."""

    def __init__(self, name: str, count: int) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._token: TrioToken = trio.lowlevel.current_trio_token()
        self._left = count
        self._ended = trio.Event()
        self._threads = [
            Thread(target=self._work, name=f"{name}-{number}" if count > 1 else name, daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        task = trio.lowlevel.current_task()
        result: list[outcome.Outcome[T]] = []

        def work() -> None:
            result.append(outcome.capture(call))
            self._token.run_sync_soon(trio.lowlevel.reschedule, task)

        self._calls.put(work)
        try:
            if meanwhile is not None:
                meanwhile()
        finally:
            # A thread can't be stopped, and what it does (a commit) must be known: so the wait is not cancelled.
            await trio.lowlevel.wait_task_rescheduled(lambda _: Abort.FAILED)
        return result.pop().unwrap()

    async def join(self) -> None:
        """Return when every thread has ended: after the call it is running, if any, and no later one."""
        for _ in self._threads:
            self._calls.put(None)
        # As long as the calls that have begun take; a thread that outlives its block could touch closed
        # files.
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
            # An error that it raised holds what it worked with, such as cursors.
            del work
        self._token.run_sync_soon(self._one_ended)

    def _one_ended(self) -> None:
        self._left -= 1
        if not self._left:
            self._ended.set()


@asynccontextmanager
async def open_workers(name: str, count: int = 1) -> AsyncIterator[Workers]:
    """`count` threads called `name`. Leaving the block ends and joins them."""
    workers = Workers(name, count)
    try:
        yield workers
    finally:
        await workers.join()
