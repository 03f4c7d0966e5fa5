"""Reads chats from any store in reader threads, and notices when nothing can be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from math import inf
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import trio

from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.database_files import FilesChanged
from actorchat.storage.store import Reads
from actorchat.storage.worker_threads import Runner

__all__ = ["AsyncReader"]

_log = logging.getLogger("actorchat.storage")

_PROBE_PERIOD: Final = 1.0
_WARNING_PERIOD: Final = 60.0

P = ParamSpec("P")
T = TypeVar("T")


def _in_runner(
    method: Callable[Concatenate[Reads, P], T],
) -> Callable[Concatenate[AsyncReader, P], Coroutine[Any, Any, T]]:
    """`method` of `Reads` as an asynchronous method of `AsyncReader`."""
    name = method.__name__

    async def read(self: AsyncReader, /, *args: P.args, **kwargs: P.kwargs) -> T:
        found: T = await self._run(partial(getattr(self._store, name), *args, **kwargs))
        return found

    return read


class AsyncReader:
    """`actorchat.chat.ports.ChatReader`: runs each method of `Reads` in `runner`.

    If a read fails, `Store.probe` finds out whether storage as a whole can't be read. Then `unreadable` is true until a
    probe succeeds. Each such outage is logged once, and single reads that fail otherwise once a minute.
    """

    chat = _in_runner(Reads.chat)
    newest = _in_runner(Reads.newest)
    after = _in_runner(Reads.after)
    since = _in_runner(Reads.since)
    authored = _in_runner(Reads.authored)
    chats = _in_runner(Reads.chats)
    person = _in_runner(Reads.person)
    operators = _in_runner(Reads.operators)
    feed_snapshot = _in_runner(Reads.feed_snapshot)
    unused = _in_runner(Reads.unused)
    due = _in_runner(Reads.due)
    uploads = _in_runner(Reads.uploads)
    unbound_uploads = _in_runner(Reads.unbound_uploads)

    def __init__(self, store: Reads, runner: Runner) -> None:
        self._store = store
        self._runner = runner
        self._begun = trio.Event()
        self._probing = False
        self._warned_at = -inf

    @property
    def unreadable(self) -> bool:
        return self._begun.is_set()

    async def watch(self) -> None:
        """Probe once a second during an outage, until cancelled. Only this ends an outage."""
        while True:
            await self._begun.wait()
            await trio.sleep(_PROBE_PERIOD)
            try:
                await self._runner.run(self._store.probe)
            except StorageUnavailable:
                continue
            self._begun = trio.Event()
            _log.warning("storage can be read again")

    async def _run(self, read: Callable[[], T]) -> T:
        # A runner is never cancelled and may not yield, but a caller that reads many pages needs both. This yields
        # after the read, so that with the memory store, too, the result may be old when it is used.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            found = await self._runner.run(read)
        except StorageUnavailable as error:
            if not isinstance(error, FilesChanged):
                # Changed files are reported by the writer.
                await self._judge(str(error))
            raise
        await trio.lowlevel.cancel_shielded_checkpoint()
        return found

    async def _judge(self, failure: str) -> None:
        """Find out whether only this read fails, with `failure`, or all reads do."""
        if self._probing or self.unreadable:
            return
        self._probing = True
        try:
            await self._runner.run(self._store.probe)
        except FilesChanged:
            return
        except StorageUnavailable as error:
            self._begun.set()
            _log.error("storage can't be read: %s", str(error))
        else:
            if trio.current_time() - self._warned_at >= _WARNING_PERIOD:
                self._warned_at = trio.current_time()
                _log.error("a read failed while others work, the database may be damaged: %s", failure)
        finally:
            self._probing = False
