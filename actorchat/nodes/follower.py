"""Applies what other nodes commit, from the bus and from the log: each batch once, those of one writer in order."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import attrs
import trio

from actorchat.chat.node_commits import NodeCommit, NodeCommitReader
from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes.notes import Told
from actorchat.storage.store import LoggedBatch

__all__ = ["Follower", "ReadableLog"]

_log = logging.getLogger("actorchat.nodes")

PERIOD: Final = 1.0
"""Seconds after which the log is read although the bus told nothing."""

PAGE: Final = 200
"""Batches that are read at a time."""

MOST_BEHIND: Final = 20_000
"""Batches that are read one after the other. A node that has missed more starts over."""

MOST_EARLY: Final = 2_000
"""Batches from the bus that wait for others. Beyond it they are read from the log instead."""

RETRY: Final = 0.5
"""Seconds before the log is read again after a failure."""


class ReadableLog(Protocol):
    """`actorchat.storage.store.NodeLog`, asynchronous."""

    async def newest_batches(self) -> Mapping[str, int]: ...

    async def batches(self, writer: str, *, after: int, upto: int, limit: int) -> Sequence[LoggedBatch]: ...

    def epoch(self) -> int: ...

    def follow_epoch(self, epoch: int) -> None: ...


class Applies(Protocol):
    """Takes commits of other nodes: `actorchat.chat.foreign_commits.ForeignCommits`."""

    def needs_others(self, commit: NodeCommit) -> bool: ...

    def apply(self, commits: Sequence[NodeCommit]) -> None: ...


@attrs.define(eq=False)
class _Waiter:
    """Waits for a look at the log that has not begun yet."""

    done: trio.Event = attrs.Factory(trio.Event)
    failed: bool = False


class Follower:
    """Follows all writers but `own`.

    `start_over` is called when commits were missed that can't be read any more, `went_back` when storage has lost
    commits, before any later one is applied. `lag` is for how many seconds the oldest known batch has not been applied,
    0 if all were.
    """

    def __init__(self, log: ReadableLog, own: str) -> None:
        self._log = log
        self._own = own
        self._reader = NodeCommitReader()
        self._applies: Applies | None = None
        self._start_over: Callable[[], object] = lambda: None
        self._went_back: Callable[[], object] = lambda: None
        # The epoch of what was applied last, see `NodeCommit`.
        self._epoch = 0
        self._seen: dict[str, int] = {}
        # By writer and number: batches that the bus told before one that precedes them.
        self._early: OrderedDict[tuple[str, int], Told] = OrderedDict()
        self._waiters: list[_Waiter] = []
        self._wake = trio.Event()
        self._behind_since: float | None = None
        self.looked_at: float = 0.0
        """When the log was last read without a failure, in Trio's clock."""

    @property
    def lag(self) -> float:
        return 0.0 if self._behind_since is None else trio.current_time() - self._behind_since

    async def begin(self) -> None:
        """Take note of what is committed. It has to be called before anything is read that commits can change.

        Raises `StorageUnavailable`.
        """
        self._epoch = self._log.epoch()
        self._seen = dict(await self._log.newest_batches())
        self.looked_at = trio.current_time()

    def apply_to(
        self, applies: Applies, start_over: Callable[[], object], went_back: Callable[[], object] = lambda: None
    ) -> None:
        """Give commits to `applies` from now on. No commit after `begin` is left out."""
        self._applies, self._start_over, self._went_back = applies, start_over, went_back
        self._wake.set()

    def compare_epochs(self) -> None:
        """Find out whether this node's store has noticed that storage went back."""
        self._enter(self._log.epoch())

    def _enter(self, epoch: int) -> None:
        if epoch > self._epoch and self._applies is not None:
            self._epoch = epoch
            self._log.follow_epoch(epoch)
            # What is still stored of it is in the log.
            self._early.clear()
            self._went_back()

    def heard(self, told: Told) -> None:
        """Apply a batch that the bus told, or read what is missing before it."""
        if told.writer == self._own or told.number <= self._seen.get(told.writer, 0):
            return
        self._early[told.writer, told.number] = told
        if len(self._early) > MOST_EARLY:
            self._early.popitem(last=False)
        if not self._apply_early(told.writer):
            if self._behind_since is None:
                self._behind_since = trio.current_time()
            self._wake.set()

    async def caught_up(self) -> None:
        """Return when everything was applied that other nodes had committed when this was called.

        Raises `StorageUnavailable`.
        """
        waiter = _Waiter()
        self._waiters.append(waiter)
        self._wake.set()
        await waiter.done.wait()
        if waiter.failed:
            raise StorageUnavailable("what other nodes have committed can't be read")

    async def run(self) -> None:
        """Read the log each second, and whenever a batch is missing, until cancelled."""
        while True:
            with trio.move_on_after(PERIOD):
                await self._wake.wait()
            self._wake = trio.Event()
            if self._applies is None:
                continue
            waiters, self._waiters = self._waiters, []
            try:
                await self._look(self._applies)
            except StorageUnavailable:
                for waiter in waiters:
                    waiter.failed = True
                    waiter.done.set()
                await trio.sleep(RETRY)
            else:
                for waiter in waiters:
                    waiter.done.set()

    async def _look(self, applies: Applies) -> None:
        """Read and apply everything that is committed now."""
        self.compare_epochs()
        told = set(self._early)
        # One read sees, with each batch, all that were committed before it.
        newest = await self._log.newest_batches()
        read: list[LoggedBatch] = []
        missed = False
        for writer, upto in newest.items():
            seen = self._seen.get(writer, 0)
            if writer == self._own or upto <= seen:
                continue
            rows = await self._read(writer, seen, upto, MOST_BEHIND - len(read))
            # The log is trimmed after a while.
            missed = missed or not rows or rows[0].previous > seen or rows[-1].number < upto
            read += rows
        self.looked_at = trio.current_time()
        commits: list[NodeCommit] = []
        for row in read:
            # The bus may have told it meanwhile.
            if row.number > self._seen.get(row.writer, 0):
                commit = self._decode(row.payload)
                missed = missed or commit is None
                if commit is not None:
                    self._enter(commit.epoch)
                    commits.append(commit)
        for writer, upto in newest.items():
            self._seen[writer] = max(upto, self._seen.get(writer, 0))
        if missed:
            _log.warning("commits of other nodes were missed: everything is read again")
            self._start_over()
        elif commits:
            applies.apply(commits)
        self._behind_since = None
        # A batch is told when it is committed. If it is not in the log then, storage has lost it.
        for key in [key for key in told if key[1] > newest.get(key[0], 0)]:
            self._early.pop(key, None)
        self._tidy(newest)

    async def _read(self, writer: str, seen: int, upto: int, most: int) -> list[LoggedBatch]:
        rows: list[LoggedBatch] = []
        while seen < upto and len(rows) < most:
            page = await self._log.batches(writer, after=seen, upto=upto, limit=PAGE)
            if not page:
                break
            rows += page
            seen = page[-1].number
        return rows

    def _tidy(self, newest: Mapping[str, int]) -> None:
        """Forget what has been applied, and apply what follows it."""
        for key in [key for key in self._early if key[1] <= self._seen.get(key[0], 0)]:
            del self._early[key]
        for writer in {writer for writer, _ in self._early}:
            if not self._apply_early(writer):
                self._behind_since = self._behind_since or trio.current_time()
                self._wake.set()
        for writer in self._seen.keys() - newest.keys():
            if not any(writer == each for each, _ in self._early):
                # Nothing of a node that has ended long ago is in the log any more.
                del self._seen[writer]

    def _apply_early(self, writer: str) -> bool:
        """Apply the batches of `writer` that the bus told and that are next. False if others are missing."""
        applies = self._applies
        if applies is None:
            return False
        while True:
            seen = self._seen.get(writer, 0)
            waiting = sorted(number for each, number in self._early if each == writer and number > seen)
            if not waiting:
                return True
            told = self._early[writer, waiting[0]]
            commit = None if told.payload is None or told.previous > seen else self._decode(told.payload)
            if commit is None:
                return False
            if commit.epoch > self._epoch:
                self._enter(commit.epoch)
                return False
            if commit.epoch < self._epoch or applies.needs_others(commit):
                # Of an earlier epoch, only the log knows what is still stored.
                return False
            del self._early[writer, waiting[0]]
            self._seen[writer] = told.number
            applies.apply((commit,))

    def _decode(self, payload: bytes) -> NodeCommit | None:
        try:
            return self._reader.read(payload)
        except ValueError as error:
            _log.warning("a commit of another node can't be read: %s", error)
            return None
