"""Runs a store's blocking calls in dedicated threads, or in place if they do not block.

Trio's worker threads stay idle for ten seconds after their last call; these threads end with their block.
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
    """Runs blocking calls."""

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        """Run `call` and return its result. Not cancellable: the wait goes on until `call` has finished.

        This may return without a checkpoint, so callers in a loop need their own. `meanwhile` is called once, in the
        caller's task, after `call` was started. If it raises, the exception is raised after `call` has finished, and
        the result is lost.
        """


class InPlace:
    """Runs calls that do not block, in the caller's task. Has a checkpoint only if there is a `meanwhile`."""

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        if meanwhile is not None:
            meanwhile()
            await trio.lowlevel.cancel_shielded_checkpoint()
        return call()


class Workers:
    """Threads that run calls in the order of their arrival. Made by `open_workers`."""

    def __init__(self, name: str, count: int) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._token: TrioToken = trio.lowlevel.current_trio_token()
        self._running = count
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
            # Not cancellable: a thread cannot be stopped, and the caller needs the outcome, for example of a commit.
            await trio.lowlevel.wait_task_rescheduled(lambda _: Abort.FAILED)
        return result.pop().unwrap()

    async def join(self) -> None:
        """End the threads after the calls that are queued, and wait for them."""
        for _ in self._threads:
            self._calls.put(None)
        # Takes as long as the running calls. Shielded, because a thread that outlives the block could use closed files.
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
            # Otherwise its result would live until the next call; an exception keeps objects such as cursors alive.
            del work
        self._token.run_sync_soon(self._thread_ended)

    def _thread_ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._ended.set()


@asynccontextmanager
async def open_workers(name: str, count: int = 1) -> AsyncIterator[Workers]:
    """Start `count` threads called `name`; leaving the block ends and joins them."""
    workers = Workers(name, count)
    try:
        yield workers
    finally:
        await workers.join()
