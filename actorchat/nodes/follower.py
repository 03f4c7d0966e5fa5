"""Applies what other nodes commit, from the bus and from the log: each batch once, those of one writer in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import attrs
import trio

from actorchat.chat.node_commits import NodeCommit, NodeCommitReader
from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes.early_batches import EarlyBatches
from actorchat.nodes.notes import Told
from actorchat.storage.store import LoggedBatch

__all__ = ["Follower", "ReadableLog"]

_log = logging.getLogger("actorchat.nodes")

PERIOD: Final = 1.0
"""Seconds after which the log is read although the bus told nothing."""

PAGE: Final = 200
"""Batches that are read at a time."""

MOST_BEHIND: Final = 20_000
"""Batches that are read and then applied in one step. A node that has missed more starts over."""

MOST_BYTES: Final = 16_777_216
"""Bytes of the payloads of these batches. A node that has missed more starts over."""

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


@attrs.frozen
class _Read:
    """A batch that was read from the log. `commit` is None if this version of the program can't read its payload."""

    writer: str
    number: int
    commit: NodeCommit | None


@attrs.define
class _Budget:
    """How much one look at the log may still read."""

    batches: int
    bytes: int


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
        self._early = EarlyBatches()
        self._waiters: list[_Waiter] = []
        self._ended = False
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
        seen = self._seen.get(told.writer, 0)
        if told.writer == self._own or told.number <= seen:
            return
        if told.previous > seen:
            self._early.add(told)
        elif self._apply_from(told):
            return
        self._read_soon()

    def _read_soon(self) -> None:
        if self._behind_since is None:
            self._behind_since = trio.current_time()
        self._wake.set()

    async def caught_up(self) -> None:
        """Return when everything was applied that other nodes had committed when this was called.

        Raises `StorageUnavailable`, also if `run` has ended.
        """
        waiter = _Waiter(failed=self._ended)
        if not self._ended:
            self._waiters.append(waiter)
            self._wake.set()
            await waiter.done.wait()
        if waiter.failed:
            raise StorageUnavailable("what other nodes have committed can't be read")

    async def run(self) -> None:
        """Read the log each second, and whenever a batch is missing, until cancelled."""
        try:
            while True:
                with trio.move_on_after(PERIOD):
                    await self._wake.wait()
                self._wake = trio.Event()
                if self._applies is not None:
                    await self._look_for_waiters(self._applies)
        finally:
            self._ended = True
            _answer(self._waiters, failed=True)

    async def _look_for_waiters(self, applies: Applies) -> None:
        waiters, self._waiters = self._waiters, []
        looked = False
        try:
            await self._look(applies)
            looked = True
        except StorageUnavailable:
            pass
        finally:
            _answer(waiters, failed=not looked)
        if not looked:
            await trio.sleep(RETRY)

    async def _look(self, applies: Applies) -> None:
        """Read and apply everything that is committed now."""
        self.compare_epochs()
        told = self._early.all()
        known = dict(self._seen)
        # One read sees, with each batch, all that were committed before it. So all are applied together.
        newest = await self._log.newest_batches()
        read: list[_Read] = []
        budget = _Budget(MOST_BEHIND, MOST_BYTES)
        missed = False
        for writer, upto in newest.items():
            if not missed and writer != self._own and upto > self._seen.get(writer, 0):
                missed = not await self._read(writer, upto, budget, read)
        self.looked_at = trio.current_time()
        commits: list[NodeCommit] = []
        for row in read:
            # The bus may have told it meanwhile.
            if row.number > self._seen.get(row.writer, 0):
                missed = missed or row.commit is None
                if row.commit is not None:
                    self._enter(row.commit.epoch)
                    commits.append(row.commit)
        for writer, upto in newest.items():
            self._seen[writer] = max(upto, self._seen.get(writer, 0))
        if missed:
            _log.warning("commits of other nodes were missed: everything is read again")
            self._start_over()
        elif commits:
            applies.apply(commits)
        self._behind_since = None
        for each in told:
            # A batch is told when it is committed. If it is not in the log then, storage has lost it.
            self._early.drop(each)
        self._apply_early()
        early = {each.writer for each in self._early.all()}
        for writer, number in known.items():
            # Nothing of a node that has ended long ago is in the log any more, and the bus has told nothing of it.
            if writer not in newest and writer not in early and self._seen[writer] == number:
                del self._seen[writer]

    async def _read(self, writer: str, upto: int, budget: _Budget, read: list[_Read]) -> bool:
        """Append the batches of `writer` up to `upto` to `read`. False if some are missing, or too many."""
        seen = self._seen.get(writer, 0)
        while seen < upto:
            page = await self._log.batches(writer, after=seen, upto=upto, limit=PAGE)
            # The log is trimmed after a while.
            if not page or page[0].previous > seen:
                return False
            budget.batches -= len(page)
            budget.bytes -= sum(len(row.payload) for row in page)
            if budget.batches < 0 or budget.bytes < 0:
                return False
            # Page by page, so that other tasks run between them.
            read += [_Read(row.writer, row.number, self._decode(row.payload)) for row in page]
            seen = page[-1].number
        return True

    def _apply_early(self) -> None:
        """Apply what the bus told during a look, and look again if something is missing."""
        for told in self._early.all():
            seen = self._seen.get(told.writer, 0)
            if told.number <= seen:
                self._early.drop(told)
            elif told.previous <= seen:
                self._early.drop(told)
                if not self._apply_from(told):
                    self._read_soon()
        if self._early:
            self._read_soon()

    def _apply_from(self, told: Told) -> bool:
        """Apply `told`, which is next, and those that follow it. False if the log has to be read instead."""
        following: Told | None = told
        while following is not None:
            if not self._apply_told(following):
                return False
            following = self._early.take(told.writer, following.number)
        return True

    def _apply_told(self, told: Told) -> bool:
        commit = None if self._applies is None or told.payload is None else self._decode(told.payload)
        if commit is None or self._applies is None:
            return False
        if commit.epoch > self._epoch:
            self._enter(commit.epoch)
            return False
        if commit.epoch < self._epoch or self._applies.needs_others(commit):
            # Of an earlier epoch, only the log knows what is still stored.
            return False
        self._seen[told.writer] = told.number
        self._applies.apply((commit,))
        return True

    def _decode(self, payload: bytes) -> NodeCommit | None:
        try:
            return self._reader.read(payload)
        except ValueError as error:
            _log.warning("a commit of another node can't be read: %s", error)
            return None


def _answer(waiters: Sequence[_Waiter], *, failed: bool) -> None:
    for waiter in waiters:
        waiter.failed = failed
        waiter.done.set()
