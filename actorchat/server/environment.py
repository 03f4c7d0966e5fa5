"""Bundles a server's clocks, randomness, network, storages and capacities, so that a simulation can replace them."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random, SystemRandom
from typing import Protocol

import attrs

from actorchat.chat.model import Policy
from actorchat.server.attachment_store import OpenBlobs, open_blobs
from actorchat.server.file_descriptors import connections_that_fit
from actorchat.storage import Storage, open_store
from actorchat.transports.kernel import KERNEL, Kernel
from actorchat.transports.listener import bind
from actorchat.transports.ports import Limits

__all__ = ["Environment", "OpenStore"]


class OpenStore(Protocol):
    """Opens the storage at a URL, as `actorchat.storage.open_store` does."""

    def __call__(
        self,
        url: str,
        policy: Policy,
        *,
        clock: Callable[[], float],
        brokers: Collection[str] = (),
        folder: Path | None = None,
    ) -> AbstractAsyncContextManager[Storage]: ...


@attrs.frozen(kw_only=True)
class Environment:
    """The outside world as a server uses it. The defaults are the real machine's.

    `wall` returns epoch seconds. `stopwatch` returns seconds and measures one pass of the reactor. `random` makes ids
    and jitter, but no secrets. `listen` binds a host and port like `actorchat.transports.listener.bind`. `connections`
    is called when the server starts to listen and returns how many connections may be open at a time, None = any
    number. `sockets` are the limits of each socket. `operations_in_flight` limits the operations of all chats together,
    `journal_capacity` those that wait in the journal. `process_folder` has what several processes can't
    share: the search index of a PostgreSQL database and the socket for commands. None is the data folder.
    """

    wall: Callable[[], float] = time.time
    stopwatch: Callable[[], float] = time.perf_counter
    random: Random = attrs.field(factory=SystemRandom)
    kernel: Kernel = KERNEL
    listen: Callable[[str, int], Awaitable[tuple[socket.socket, ...]]] = bind
    open_store: OpenStore = open_store
    open_blobs: OpenBlobs = open_blobs
    connections: Callable[[], int | None] = connections_that_fit
    sockets: Limits = attrs.field(factory=Limits)
    operations_in_flight: int = 20_000
    journal_capacity: int = 10_000
    process_folder: Path | None = None
