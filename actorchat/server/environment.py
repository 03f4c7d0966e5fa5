"""What a server takes from outside: clocks, randomness, sockets, storage, and how much of anything it holds.

The defaults are a real machine's. A simulation gives its own.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from random import Random, SystemRandom
from typing import Protocol

import attrs

from actorchat.chat.model import Policy
from actorchat.server.file_descriptors import connections_that_fit
from actorchat.storage import Storage, open_store
from actorchat.transports.kernel import KERNEL, Kernel
from actorchat.transports.listener import bind
from actorchat.transports.ports import Limits

__all__ = ["Environment", "OpenStore"]


class OpenStore(Protocol):
    """Opens the storage at a URL, as `actorchat.storage.open_store` does."""

    def __call__(
        self, url: str, policy: Policy, *, clock: Callable[[], float], brokers: Collection[str] = ()
    ) -> AbstractAsyncContextManager[Storage]: ...


@attrs.frozen(kw_only=True)
class Environment:
    """`wall` gives epoch seconds. `stopwatch` measures how long one pass of the reactor takes, in seconds.

    `random` makes ids and jitter; tokens' secrets never come from it. `listen` binds a host and port, as
    `actorchat.transports.listener.bind` does. `connections` says, when the server starts to listen, how many may be
    open at a time (None = any number). `sockets` are the bounds of each socket, `operations_in_flight` those of the
    whole chat and `journal_capacity` those of the journal.
    """

    wall: Callable[[], float] = time.time
    stopwatch: Callable[[], float] = time.perf_counter
    random: Random = attrs.field(factory=SystemRandom)
    kernel: Kernel = KERNEL
    listen: Callable[[str, int], Awaitable[tuple[socket.socket, ...]]] = bind
    open_store: OpenStore = open_store
    connections: Callable[[], int | None] = connections_that_fit
    sockets: Limits = attrs.field(factory=Limits)
    operations_in_flight: int = 20_000
    journal_capacity: int = 10_000
