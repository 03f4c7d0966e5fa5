"""Reads and trims the log of commits in a store's own threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import trio

from actorchat.chat.commit_log import LogEntry, TooOld, Trimmed
from actorchat.storage.store import LoggedBatch, NodeLog, StoredLog
from actorchat.storage.worker_threads import Runner

__all__ = ["AsyncLog", "AsyncNodeLog"]


class AsyncLog:
    """`actorchat.chat.commit_log.CommitLog` over `log`: it reads in `reader` and writes in `writer`."""

    def __init__(self, log: StoredLog, reader: Runner, writer: Runner) -> None:
        self._log = log
        self._reader = reader
        self._writer = writer

    async def positions(self) -> Mapping[str, int]:
        await trio.lowlevel.checkpoint()
        return await self._reader.run(self._log.positions)

    async def entries(self, *, after: int, size: int) -> Sequence[LogEntry]:
        await trio.lowlevel.checkpoint()
        return await self._reader.run(partial(self._log.entries, after, size))

    async def record(self, positions: Mapping[str, int], *, expired: TooOld) -> Trimmed:
        # No checkpoint: a relay that is cancelled still has to record what it published last.
        return await self._writer.run(partial(self._log.record_relayed, positions, expired))


class AsyncNodeLog:
    """`actorchat.storage.store.NodeLog` over `log`: it reads in `reader`."""

    def __init__(self, log: NodeLog, reader: Runner) -> None:
        self._log = log
        self._reader = reader

    async def newest_batches(self) -> Mapping[str, int]:
        await trio.lowlevel.checkpoint()
        return await self._reader.run(self._log.newest_batches)

    async def batches(self, writer: str, *, after: int, upto: int, limit: int) -> Sequence[LoggedBatch]:
        await trio.lowlevel.checkpoint()
        return await self._reader.run(partial(self._log.batches, writer, after=after, upto=upto, limit=limit))

    def last_logged(self) -> LoggedBatch | None:
        return self._log.last_logged()

    def epoch(self) -> int:
        return self._log.epoch()

    def follow_epoch(self, epoch: int) -> None:
        self._log.follow_epoch(epoch)
