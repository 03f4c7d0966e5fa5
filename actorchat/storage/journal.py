"""Owns the group commit: takes all that waits, has it committed as one batch, tells everyone what came of it.

Knows neither rooms nor SQL: recipients and a store. One task commits; a second one lives only while storage
is away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Final
from uuid import UUID, uuid4

import attrs
import trio

from actorchat.chat.operations import Operation, Outcome, Refused, RefuseMessage, ReplyTo, refusal_of
from actorchat.chat.ports import Recipient, StorageUnavailable
from actorchat.protocol import RefusalCode
from actorchat.storage.row_cache import PersonKey, person_key
from actorchat.storage.store import Batch, CommitInDoubt, DecisionAndCounters, Store
from actorchat.storage.worker_threads import Runner

__all__ = ["Journal", "JournalStatistics", "open_journal"]

_log = logging.getLogger("actorchat.storage")

MAX_BATCH: Final = 1_000
_FIRST_PROBE, _LAST_PROBE = 0.05, 1.0
_STABLE_SECONDS: Final = 10.0
"""Storage that was back for this long starts its next outage with the shortest delay between probes."""
_TIDY_PERIOD: Final = 1.0

_REFUSED: Final = Refused(RefusalCode.STORAGE_UNAVAILABLE, "messages can't be stored now; try again", _LAST_PROBE)
_UNAVAILABLE: Final[DecisionAndCounters] = (_REFUSED, ())

_Entry = tuple[Operation, Recipient, ReplyTo | None]
_Refusal = tuple[RefuseMessage, Recipient, ReplyTo | None]
_Key = tuple[UUID, PersonKey, str | None]


@attrs.frozen(kw_only=True)
class JournalStatistics:
    """Since the journal was opened; `waiting` and `away` (storage can't be written) as of now."""

    batches: int
    operations: int
    largest_batch: int
    waiting: int
    away: bool
    outages: int
    in_doubt: int


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
    ) -> None:
        self._store = store
        self._runner = runner
        self._nursery = nursery
        self._capacity = capacity
        self._clock = clock
        self._writer = writer
        self._tidy = tidy
        self._committed = committed
        self._tidy_due = False
        # What may wait besides what is held.
        self._room = capacity
        self._waiting: list[_Entry] = []
        self._wake = trio.Event()
        self._closed = False
        self._away = False
        self._probe_delay = _FIRST_PROBE
        self._back_at = -inf
        self._taken = self._told = 0
        # Committed; told when the next batch is on its way, or at once if nothing waits.
        self._untold: tuple[list[_Entry], list[DecisionAndCounters]] | None = None
        # While storage is away: refusals of messages that may be stored, the keys of those and of the commit in doubt,
        # and how many outcomes were told before the first of them.
        self._held: list[_Refusal] = []
        self._open_keys: set[_Key] = set()
        self._open_from: int | None = None
        self._progress = trio.lowlevel.ParkingLot()
        self._batches = self._operations = self._largest = self._outages = self._in_doubt = 0

    def submit(self, operation: Operation, recipient: Recipient, reply_to: ReplyTo | None = None) -> bool:
        """Take `operation`; exactly one `Outcome` with `reply_to` reaches `recipient` later. False: not taken.

        Not taken are operations beyond `capacity` waiting ones, refusals beyond twice as many, and all after the
        journal began to drain.
        """
        waiting = self._waiting
        if self._closed or (len(waiting) >= self._room and not self._has_room_to_refuse(operation)):
            return False
        waiting.append((operation, recipient, reply_to))
        if len(waiting) == 1:
            self._wake.set()
        return True

    async def barrier(self) -> None:
        """Return when everything submitted before this call is decided and its recipients were told."""
        end = self._taken + len(self._waiting)
        await trio.lowlevel.checkpoint()
        while self._told_upto() < end:
            await self._progress.park()

    async def drain(self) -> None:
        """Take nothing more; return when everything taken is decided. While a commit is in doubt, or it is not known
        whether a repeated message is stored, that waits for storage.
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
        )

    async def run(self) -> None:
        """Commit what is submitted, until cancelled."""
        try:
            while True:
                # Yields though something waits: whoever answers an outcome with another operation, or with another try,
                # can't keep this task going.
                await self._wake.wait()
                if self._tidy_due:
                    self._tidy_due = False
                    await self._look_after_storage()
                    if not self._waiting:
                        self._wake = trio.Event()
                        continue
                await self._decide(self._take())
                while self._untold is not None:
                    await self._decide(self._take())
        finally:
            self._tell_untold()

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

    async def _decide(self, entries: list[_Entry]) -> None:
        if self._away:
            await self._refuse(entries)
        else:
            await self._commit(entries)

    def _take(self) -> list[_Entry]:
        if len(self._waiting) <= MAX_BATCH:
            entries, self._waiting = self._waiting, []
            self._wake = trio.Event()
        else:
            entries = self._waiting[:MAX_BATCH]
            del self._waiting[:MAX_BATCH]
        self._taken += len(entries)
        return entries

    async def _commit(self, entries: list[_Entry]) -> None:
        self._batches += 1
        self._operations += len(entries)
        self._largest = max(self._largest, len(entries))
        batch = Batch(self._writer, self._batches, self._clock())
        operations = [operation for operation, _, _ in entries]
        try:
            meanwhile = None if self._untold is None else self._tell_untold
            decided = await self._runner.run(partial(self._store.commit, operations, batch), meanwhile)
        except StorageUnavailable as error:
            # As text: whoever keeps the record must not keep the error, and with it cursors of a closed connection.
            _log.error("storage is away, nothing of the batch was stored: %s", str(error))
            # Before what comes of this batch, though the runner may have failed without a word to it.
            self._tell_untold()
            self._go_away(batch, None)
            await self._refuse(entries)
        except CommitInDoubt as doubt:
            _log.error("storage is away, a commit of %d operations is in doubt", len(entries))
            self._tell_untold()
            self._in_doubt += 1
            self._open_from = self._told
            self._open_keys.update(_keys(entries))
            self._go_away(batch, (entries, doubt.decided))
        else:
            if self._probe_delay > _FIRST_PROBE and trio.current_time() - self._back_at >= _STABLE_SECONDS:
                self._probe_delay = _FIRST_PROBE
            self._untold = entries, decided
            if self._committed is not None:
                self._committed()
            if not self._waiting:
                self._tell_untold()

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
                self._tell(entries, decided)
            else:
                self._open_keys.difference_update(_keys(entries))
                await self._refuse(entries)
        again, self._held = self._held, []
        self._room, self._open_from = self._capacity, None
        self._open_keys.clear()
        self._away = False
        self._put_first(again)

    async def _refuse(self, entries: list[_Entry]) -> None:
        """Storage is away: refuse what is certainly not stored, and hold what may be until that is known."""
        told_before = self._told
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
        self._tell(refused, decided)
        if unsure:
            try:
                found = await self._runner.run(partial(self._store.look_up, [refusal for refusal, _, _ in unsure]))
            except StorageUnavailable:
                held += unsure
            else:
                self._tell(unsure, found)
        if held and self._away:
            self._held += held
            self._room = max(0, self._room - len(held))
            self._open_keys.update(_keys(held))
            self._open_from = told_before if self._open_from is None else self._open_from
        else:
            self._put_first(held)

    def _put_first(self, entries: Sequence[_Refusal]) -> None:
        """Decide `entries`, which were taken once, before all that waits."""
        self._taken -= len(entries)
        self._waiting[:0] = entries
        if entries:
            self._wake.set()

    def _has_room_to_refuse(self, operation: Operation) -> bool:
        return isinstance(operation, RefuseMessage) and len(self._waiting) < self._room + self._capacity

    def _tell_untold(self) -> None:
        untold, self._untold = self._untold, None
        if untold is not None:
            self._tell(*untold)

    def _tell(self, entries: Sequence[_Entry], decided: Iterable[DecisionAndCounters]) -> None:
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
        self._told += len(entries)
        if self._progress:
            self._progress.unpark_all()

    def _told_upto(self) -> int:
        return self._told if self._open_from is None else self._open_from


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
) -> AsyncIterator[Journal]:
    """A journal that commits to `store`, whose `commit` and `recover` run in `runner`.

    At most `capacity` operations wait; more are not taken. `clock` tells epoch seconds. `writer` names this
    journal among all that ever wrote to the store; None: a random name. `tidy` runs in `runner` after each second in
    which nothing was committed; if it raises `StorageUnavailable`, storage is away. `committed` is called after
    each commit, and must neither block nor raise. Leaving the block
    takes no more and decides everything that was taken, unless the caller's scope is cancelled: then what is
    undecided gets no answer.
    """
    async with trio.open_nursery() as nursery:
        journal = Journal(store, runner, nursery, capacity, clock, writer or uuid4().hex, tidy, committed)
        nursery.start_soon(journal.run)
        if tidy is not None:
            nursery.start_soon(journal.tick)
        try:
            yield journal
        finally:
            await journal.drain()
        nursery.cancel_scope.cancel()
