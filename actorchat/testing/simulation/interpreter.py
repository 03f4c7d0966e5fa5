"""Makes an interpreter deterministic: Trio's scheduler, clocks, randomness and the garbage collector.

actorchat itself takes clocks and randomness as parameters. This replaces what libraries and programs under test use:
`time`, `os.urandom` and therefore `uuid4` and `secrets`, and the global generator of `random`. C code that reads the
clock itself, as `datetime.now` does, is not covered.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from heapq import heappush
from itertools import count
from random import Random
from typing import Any, Final, NoReturn, TypeVar
from unittest import mock

import trio

# Trio has no public switch for a deterministic order of tasks. Its own tests use this one.
import trio._core._run as trio_run
import trio._path as trio_path

__all__ = ["NotSimulated", "real_seconds", "sealed"]

T = TypeVar("T")

real_seconds: Final = time.perf_counter
"""The real clock, also inside `sealed`."""


class NotSimulated(Exception):  # noqa: N818 - the name is clear without "Error"
    """The program used something that can't be simulated: a thread or a real socket."""


@contextmanager
def sealed(entropy: Random, wall: Callable[[], float], monotonic: Callable[[], float]) -> Iterator[None]:
    """Inside the block, make everything that differs between two runs come from `entropy` and the clocks.

    `wall` returns epoch seconds. `trio.to_thread.run_sync` calls its function in place, without a thread. Starting a
    thread, and connecting or binding a real socket, raises `NotSimulated`.
    Import what a program needs before the block: modules that are imported inside it keep the replaced functions.
    """
    with ExitStack() as stack:

        def replace(owner: object, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        replace(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        stack.callback(trio_run._r.setstate, trio_run._r.getstate())
        trio_run._r.seed(entropy.getrandbits(64))
        replace(trio_run.Deadlines, "add", _add_deadline())
        replace(os, "urandom", entropy.randbytes)
        replace(random, "_urandom", entropy.randbytes)
        stack.callback(random.setstate, random.getstate())
        random.seed(entropy.getrandbits(64))
        for name, clock in (("time", wall), ("monotonic", monotonic), ("perf_counter", monotonic)):
            replace(time, name, clock)
            replace(time, f"{name}_ns", partial(_nanoseconds, clock))
        replace(trio.to_thread, "run_sync", _run_in_place)
        replace(trio_path, "run_sync", _run_in_place)
        replace(threading.Thread, "start", _refuse("start a thread"))
        replace(socket.socket, "connect", _refuse("connect a real socket"))
        replace(socket.socket, "bind", _refuse("bind a real socket"))
        # The world collects garbage at fixed times, so that finalizers and weak references are deterministic.
        if gc.isenabled():
            stack.callback(gc.enable)
        gc.collect()
        gc.freeze()
        gc.disable()
        stack.callback(gc.unfreeze)
        yield


def _add_deadline() -> Callable[[trio_run.Deadlines, float, trio.CancelScope], None]:
    ages = count()

    def add(self: trio_run.Deadlines, deadline: float, cancel_scope: trio.CancelScope) -> None:
        # Trio orders scopes with the same deadline by address, which differs between runs; this orders them by age.
        heappush(self._heap, (deadline, next(ages), cancel_scope))
        self._active += 1

    return add


def _nanoseconds(clock: Callable[[], float]) -> int:
    return round(clock() * 1e9)


async def _run_in_place(
    sync_fn: Callable[..., T],
    *args: Any,  # Any: as Trio declares it
    thread_name: str | None = None,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    await trio.lowlevel.checkpoint_if_cancelled()
    borrower = object()
    if limiter is not None:
        await limiter.acquire_on_behalf_of(borrower)
    try:
        return sync_fn(*args)
    finally:
        if limiter is not None:
            limiter.release_on_behalf_of(borrower)
        await trio.lowlevel.cancel_shielded_checkpoint()


def _refuse(what: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise NotSimulated(f"a simulated program can't {what}: use what its world offers instead")

    return refuse
