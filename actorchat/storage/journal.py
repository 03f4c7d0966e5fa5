"""Commits operations in batches and reports the outcomes to their recipients, in commit order.

One task commits. While storage is away, a second task tries to recover.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from math import inf
from operator import itemgetter
from typing import Final, Protocol
from uuid import UUID, uuid4

import attrs
import trio

from actorchat.chat.operations import Operation, Outcome, Refused, RefuseMessage, ReplyTo, refusal_of
from actorchat.chat.ports import Recipient, StorageUnavailable
from actorchat.histogram import Histogram, HistogramSnapshot
from actorchat.protocol import RefusalCode
from actorchat.storage.row_cache import PersonKey, person_key
from actorchat.storage.store import Batch, CommitInDoubt, DecisionAndCounters, Store
from actorchat.storage.worker_threads import Runner

__all__ = ["CommitObserver", "Journal", "JournalStatistics", "open_journal"]

_log = logging.getLogger("actorchat.storage")

MAX_BATCH: Final = 1_000
_FIRST_PROBE, _LAST_PROBE = 0.05, 1.0
_STABLE_SECONDS: Final = 10.0
"""Storage that was back for this long starts its next outage with the shortest delay between probes."""
_TIDY_PERIOD: Final = 1.0

_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, MAX_BATCH)
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Bounds of the histograms of batch sizes and of commit times."""

_REFUSED: Final = Refused(RefusalCode.STORAGE_UNAVAILABLE, "messages can't be stored now; try again", _LAST_PROBE)
_UNAVAILABLE: Final[DecisionAndCounters] = (_REFUSED, ())

_Entry = tuple[Operation, Recipient, ReplyTo | None]
_OPERATION: Final[Callable[[_Entry], Operation]] = itemgetter(0)
_Refusal = tuple[RefuseMessage, Recipient, ReplyTo | None]
_Key = tuple[UUID, PersonKey, str | None]


@attrs.frozen(kw_only=True)
class JournalStatistics:
    """Counted since the journal was opened. As of now: `waiting`, and `away`: storage can't be written."""

    batches: int
    operations: int
    largest_batch: int
    waiting: int
    away: bool
    outages: int
    in_doubt: int
    batch_sizes: HistogramSnapshot
    """Operations per commit."""
    commit_seconds: HistogramSnapshot
    """How long commits took, failed ones included."""


class CommitObserver(Protocol):
    """Is told of each batch."""

    def __call__(self, operations: int, seconds: float, failure: str | None = None) -> AbstractContextManager[object]:
        """Observe a batch of `operations` whose commit has ended after `seconds`. Never raises.

        Its outcomes are reported within the block. `failure` is what kept the batch from being stored, or left it in
        doubt; then the block is empty.
        """


class Journal:
    """`actorchat.chat.ports.Journal`, made by `open_journal`."""

    def __init__(
        self,
        store: Store,
        runner: Runner,
        nursery: trio.Nursery,
        capacity: int,
        clock: Callable[[], float],
        writer: str,
        tidy: Callable[[], object] | None,
        committed: Callable[[], object] | None = None,
        observe: CommitObserver | None = None,
    ) -> None:
        self._store = store
        self._runner = runner
        self._nursery = nursery
        self._capacity = capacity
        self._clock = clock
        self._writer = writer
        self._tidy = tidy
        self._committed = committed
        self._observe = observe
        self._tidy_due = False
        # How many operations may wait besides those that are held.
        self._room = capacity
        self._waiting: list[_Entry] = []
        self._wake = trio.Event()
        self._closed = False
        self._away = False
        self._probe_delay = _FIRST_PROBE
        self._back_at = -inf
        self._taken = self._reported = 0
        # Committed outcomes. They are reported while the next batch is committed, or at once if nothing waits.
        # With them, how many seconds the commit took.
        self._unreported: tuple[list[_Entry], list[DecisionAndCounters], float] | None = None
        # While storage is away: the refusals of messages that may be stored, the keys of these and of the commit in
        # doubt, and the number of outcomes reported before the first of them.
        self._held: list[_Refusal] = []
        self._open_keys: set[_Key] = set()
        self._open_from: int | None = None
        self._progress = trio.lowlevel.ParkingLot()
        self._batches = self._operations = self._largest = self._outages = self._in_doubt = 0
        self._sizes, self._seconds = Histogram(_SIZES), Histogram(_SECONDS)

    def submit(self, operation: Operation, recipient: Recipient, reply_to: ReplyTo | None = None) -> bool:
        """Queue `operation`. Exactly one `Outcome` with `reply_to` reaches `recipient` later.

        False if it was not accepted: `capacity` operations wait (for refusals, twice as many), or the journal drains.
        """
        waiting = self._waiting
        if self._closed or (len(waiting) >= self._room and not self._has_room_to_refuse(operation)):
            return False
        waiting.append((operation, recipient, reply_to))
        if len(waiting) == 1:
            self._wake.set()
        return True

    async def barrier(self) -> None:
        """Return when the outcomes of everything submitted before this call were reported."""
        end = self._taken + len(self._waiting)
        await trio.lowlevel.checkpoint()
        while self._reported_upto() < end:
            await self._progress.park()

    async def drain(self) -> None:
        """Accept nothing more. Returns when everything accepted is decided.

        That waits for storage while a commit is in doubt, or it is unknown whether a repeated message is stored.
        """
        self._closed = True
        await self.barrier()

    def statistics(self) -> JournalStatistics:
        return JournalStatistics(
            batches=self._batches,
            operations=self._operations,
            largest_batch=self._largest,
            waiting=len(self._waiting) + len(self._held),
            away=self._away,
            outages=self._outages,
            in_doubt=self._in_doubt,
            batch_sizes=self._sizes.snapshot(),
            commit_seconds=self._seconds.snapshot(),
        )

    async def run(self) -> None:
        """Commit what is submitted, until cancelled."""
        try:
            while True:
                # This yields even if something waits. Otherwise recipients that submit again at once would keep this
                # task running for ever.
                await self._wake.wait()
                if self._tidy_due:
                    self._tidy_due = False
                    await self._look_after_storage()
                    if not self._waiting:
                        self._wake = trio.Event()
                        continue
                while True:
                    entries, self._waiting = self._waiting, []
                    if len(entries) > MAX_BATCH:
                        self._waiting = entries[MAX_BATCH:]
                        del entries[MAX_BATCH:]
                    else:
                        self._wake = trio.Event()
                    self._taken += len(entries)
                    if self._away:
                        await self._refuse(entries)
                    else:
                        await self._commit(entries)
                    # While this task waits, it must not keep rooms alive, which recipients hold.
                    del entries
                    if self._unreported is None:
                        break
        finally:
            self._report_pending()

    async def tick(self) -> None:
        """Let `run` look after storage in each second in which nothing was committed, until cancelled."""
        while True:
            batches = self._batches
            await trio.sleep(_TIDY_PERIOD)
            if self._batches == batches:
                self._tidy_due = True
                self._wake.set()

    async def _look_after_storage(self) -> None:
        if self._tidy is None or self._away:
            return
        try:
            await self._runner.run(self._tidy)
        except StorageUnavailable as error:
            _log.error("storage is away: %s", str(error))
            self._go_away(Batch(self._writer, self._batches, self._clock()), None)

    async def _commit(self, entries: list[_Entry]) -> None:
        self._batches += 1
        self._operations += len(entries)
        self._largest = max(self._largest, len(entries))
        batch = Batch(self._writer, self._batches, self._clock())
        operations = list(map(_OPERATION, entries))
        self._sizes.observe(len(entries))
        begun, seconds = trio.current_time(), 0.0
        try:
            meanwhile = None if self._unreported is None else self._report_pending
            try:
                decided = await self._runner.run(partial(self._store.commit, operations, batch), meanwhile)
            finally:
                seconds = trio.current_time() - begun
                self._seconds.observe(seconds)
        except StorageUnavailable as error:
            # Logged as text: a kept log record must not keep the error, and with it cursors of a closed connection.
            _log.error("storage is away, nothing of the batch was stored: %s", str(error))
            # In commit order, before the outcomes of this batch. The runner may have failed before it did so.
            self._report_pending()
            self._observe_failure(entries, seconds, "unavailable")
            self._go_away(batch, None)
            await self._refuse(entries)
        except CommitInDoubt as doubt:
            _log.error("storage is away, a commit of %d operations is in doubt", len(entries))
            self._report_pending()
            self._observe_failure(entries, seconds, "in doubt")
            self._in_doubt += 1
            self._open_from = self._reported
            self._open_keys.update(_keys(entries))
            self._go_away(batch, (entries, doubt.decided))
        else:
            if self._probe_delay > _FIRST_PROBE and trio.current_time() - self._back_at >= _STABLE_SECONDS:
                self._probe_delay = _FIRST_PROBE
            self._unreported = entries, decided, seconds
            if self._committed is not None:
                self._committed()
            if not self._waiting:
                self._report_pending()

    def _go_away(self, batch: Batch, doubt: tuple[list[_Entry], list[DecisionAndCounters]] | None) -> None:
        self._away = True
        self._outages += 1
        self._nursery.start_soon(self._recover, batch, doubt)

    async def _recover(self, batch: Batch, doubt: tuple[list[_Entry], list[DecisionAndCounters]] | None) -> None:
        while True:
            # A probe that succeeds does not reset the delay, nor does the next batch: with a nearly full disk, or a
            # page that cannot be read, probes and other batches succeed between one failure and the next.
            await trio.sleep(self._probe_delay)
            self._probe_delay = min(self._probe_delay * 2, _LAST_PROBE)
            try:
                stored = await self._runner.run(partial(self._store.recover, batch))
            except StorageUnavailable:
                continue
            break
        _log.warning("storage is back")
        self._back_at = trio.current_time()
        if doubt is not None:
            entries, decided = doubt
            if stored:
                if self._committed is not None:
                    self._committed()
                self._report(entries, decided)
            else:
                self._open_keys.difference_update(_keys(entries))
                await self._refuse(entries)
        again, self._held = self._held, []
        self._room, self._open_from = self._capacity, None
        self._open_keys.clear()
        self._away = False
        self._put_first(again)

    async def _refuse(self, entries: list[_Entry]) -> None:
        """Refuse what is certainly not stored while storage is away, and hold what may be until that is known."""
        reported_before = self._reported
        refused: list[_Entry] = []
        decided: list[DecisionAndCounters] = []
        unsure: list[_Refusal] = []
        held: list[_Refusal] = []
        for entry in entries:
            operation, recipient, reply_to = entry
            refusal = refusal_of(operation, _REFUSED)
            if refusal is not None and _key(refusal) in self._open_keys:
                held.append((refusal, recipient, reply_to))
            elif refusal is not None and not self._store.is_new(refusal):
                unsure.append((refusal, recipient, reply_to))
            else:
                refused.append(entry)
                decided.append(_UNAVAILABLE if refusal is None else (refusal.refusal, ()))
        self._report(refused, decided)
        if unsure:
            try:
                found = await self._runner.run(partial(self._store.look_up, [refusal for refusal, _, _ in unsure]))
            except StorageUnavailable:
                held += unsure
            else:
                self._report(unsure, found)
        if held and self._away:
            self._held += held
            self._room = max(0, self._room - len(held))
            self._open_keys.update(_keys(held))
            self._open_from = reported_before if self._open_from is None else self._open_from
        else:
            self._put_first(held)

    def _put_first(self, entries: Sequence[_Refusal]) -> None:
        """Put `entries` back, in front of everything that waits."""
        self._taken -= len(entries)
        self._waiting[:0] = entries
        if entries:
            self._wake.set()

    def _has_room_to_refuse(self, operation: Operation) -> bool:
        return isinstance(operation, RefuseMessage) and len(self._waiting) < self._room + self._capacity

    def _report_pending(self) -> None:
        untold, self._unreported = self._unreported, None
        if untold is None:
            return
        entries, decided, seconds = untold
        if self._observe is None:
            self._report(entries, decided)
        else:
            with self._observe(len(entries), seconds):
                self._report(entries, decided)

    def _observe_failure(self, entries: Sequence[_Entry], seconds: float, failure: str) -> None:
        if self._observe is not None:
            with self._observe(len(entries), seconds, failure):
                pass

    def _report(self, entries: Sequence[_Entry], decided: Iterable[DecisionAndCounters]) -> None:
        groups: dict[int, tuple[Recipient, list[Outcome]]] = {}
        for (operation, recipient, reply_to), (decision, counters) in zip(entries, decided, strict=True):
            group = groups.get(id(recipient))
            if group is None:
                group = groups[id(recipient)] = (recipient, [])
            group[1].append(Outcome(operation, reply_to, decision, counters))
        for recipient, outcomes in groups.values():
            try:
                recipient.decided(outcomes)
            except Exception:
                _log.exception("%r failed to take %d outcomes", recipient, len(outcomes))
        self._reported += len(entries)
        if self._progress:
            self._progress.unpark_all()

    def _reported_upto(self) -> int:
        return self._reported if self._open_from is None else self._open_from


def _keys(entries: Iterable[_Entry]) -> list[_Key]:
    made = (refusal_of(operation, _REFUSED) for operation, _, _ in entries)
    return [_key(refusal) for refusal in made if refusal is not None]


def _key(refusal: RefuseMessage) -> _Key:
    message = refusal.message
    return message.chat, person_key(message.author), message.client_id


@asynccontextmanager
async def open_journal(
    store: Store,
    runner: Runner,
    *,
    capacity: int = 10_000,
    clock: Callable[[], float] = time.time,
    writer: str | None = None,
    tidy: Callable[[], object] | None = None,
    committed: Callable[[], object] | None = None,
    observe: CommitObserver | None = None,
) -> AsyncIterator[Journal]:
    """A journal that commits to `store`, whose `commit` and `recover` run in `runner`.

    At most `capacity` operations wait; more are not accepted. `clock` returns epoch seconds. `writer` is this journal's
    name, unique among all that ever wrote to the store, None for a random one. `tidy` runs in `runner` after each
    second without a commit; if it raises `StorageUnavailable`, storage is away. `committed` is called after each
    commit, and must neither block nor raise. `observe` is told of each batch. Leaving the block decides everything
    that was accepted. If the caller's scope is cancelled, undecided operations get no outcome.
    """
    async with trio.open_nursery() as nursery:
        journal = Journal(store, runner, nursery, capacity, clock, writer or uuid4().hex, tidy, committed, observe)
        nursery.start_soon(journal.run)
        if tidy is not None:
            nursery.start_soon(journal.tick)
        try:
            yield journal
        finally:
            await journal.drain()
        nursery.cancel_scope.cancel()
