"""Searches a store with the full-text index, which a background task keeps up to date in small steps.

The index proposes messages and people. Only what the store confirms, as it is now, is found.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final, TypeVar

import trio

from actorchat.chat.model import ChatState, Identity, StoredMessage, identity_of, visible_to
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.search import FoundMessages, FoundPeople, SearchFilter, SearchKind, are_found, names_of, words_of
from actorchat.protocol import MAX_SAFE_INTEGER, Role, User
from actorchat.storage.search_index import SearchIndex, SearchPosition, SearchTooSlow
from actorchat.storage.store import Reads, SearchablePerson
from actorchat.storage.worker_threads import Runner

__all__ = ["StoreSearch"]

_log = logging.getLogger("actorchat.storage")

STEP: Final = 1_000
"""Messages that one step reads. The more, the less each one costs: a step takes about 30 ms."""

PEOPLE: Final = 100
"""People that one step reads."""

REMOVALS: Final = 20
"""Deleted chats whose messages one step removes."""

QUIET_SECONDS: Final = 1.0
"""The time between a commit and the first step, so that one step reads many messages."""

BUSY_SHARE: Final = 0.1
"""The share of the time in which steps run while operations are committed. The index then lags as far as it must: a
search reads what is missing.
"""

RETRY_SECONDS: Final = 5.0
LONGEST_RETRY_SECONDS: Final = 60.0
"""A step that fails is tried again after `RETRY_SECONDS`, then ever later."""

FRESH_SECONDS: Final = 1.0
"""How long a search waits for the index to read what was committed before."""

MOST_WAITING: Final = 32
"""Searches and steps that wait for the thread of the index. Further ones are refused."""

MOST_CANDIDATES: Final = 2_000
"""Proposals of the index that one search looks at before it returns an incomplete page."""

MOST_RENAMED: Final = 10_000
"""New names that wait for the index. If there are more, all people are read again."""

T = TypeVar("T")


class StoreSearch:
    """`actorchat.chat.search.Search` over `store`. `runner` is used by one call at a time.

    `database` returns the identity of the store's database; if it changes, the index is built again. With
    `in_background`, `run` must be running. Otherwise the index is brought up to date by each search. `look_again` is
    how many seconds `run` waits at most for a change.
    """

    def __init__(
        self,
        store: Reads,
        index: SearchIndex,
        runner: Runner,
        *,
        in_background: bool,
        database: Callable[[], str] = lambda: "",
        look_again: float = inf,
    ) -> None:
        self.in_background: bool = in_background
        self._database = database
        self._look_again = look_again
        self._store = store
        self._index = index
        self._runner = runner
        self._lock = trio.Lock()
        self._position: SearchPosition | None = None
        self._opened_for = ""
        self._changed = trio.Event()
        self._changed.set()
        self._renamed: dict[Identity, None] = {}
        self._takers: dict[Identity, None] = {}
        # The last person that was read of all people, None once all were.
        self._scan: Identity | None = Identity(Role.USER, -1)
        self._failed_at = -inf
        self._retry = RETRY_SECONDS

    def changed(self) -> None:
        self._changed.set()

    def person_changed(self, users: Sequence[User]) -> None:
        self._renamed.update((identity_of(user), None) for user in users)
        if len(self._renamed) > MOST_RENAMED:
            self._renamed.clear()
            self._scan = Identity(Role.USER, -1)
        self._changed.set()

    def owners_changed(self, owners: Sequence[Identity]) -> None:
        self._takers.update(dict.fromkeys(owners))
        if len(self._takers) > MOST_RENAMED:
            self._takers.clear()
            self._scan = Identity(Role.USER, -1)
        self._changed.set()

    async def messages(self, which: SearchFilter) -> FoundMessages:
        if which.chats is not None and not which.chats:
            return FoundMessages(())
        return await self._call(partial(self._fresh, self._find_messages, which))

    async def people(self, which: SearchFilter) -> FoundPeople:
        return await self._call(partial(self._fresh, self._find_people, which))

    async def run(self, committed: Callable[[], int]) -> None:
        """Keep the index up to date, until cancelled. `committed` is how many operations the journal has committed."""
        while True:
            with trio.move_on_after(self._look_again):
                await self._changed.wait()
            before = committed()
            await trio.sleep(QUIET_SECONDS)
            self._changed = trio.Event()
            while True:
                begun = trio.current_time()
                if not await self._step_safely():
                    break
                now = committed()
                pause = (trio.current_time() - begun) * (1 / BUSY_SHARE - 1)
                await trio.sleep(0 if now == before else pause)
                before = now

    async def _step_safely(self) -> bool:
        try:
            more = await self._call(self.step)
        except StorageUnavailable as error:
            _log.warning("the search index can't be updated now: %s", error)
            await trio.sleep(self._retry)
            self._retry = min(2 * self._retry, LONGEST_RETRY_SECONDS)
            self._changed.set()
            return False
        self._retry = RETRY_SECONDS
        return more

    async def _call(self, call: Callable[[], T]) -> T:
        """Run `call` in the thread of the index. An index that fails is built again.

        Raises `StorageUnavailable` if that does not help.
        """
        if self._lock.statistics().tasks_waiting >= MOST_WAITING:
            raise StorageUnavailable("too many searches wait")
        async with self._lock:
            try:
                return await self._runner.run(call)
            except SearchTooSlow:
                raise StorageUnavailable("this search takes too long; use more or longer words") from None
            except sqlite3.Error as error:
                _log.error("the search index is built again: %s", error)
                self._position = None
                # A disk that keeps failing is not asked all the time.
                again = trio.current_time() - self._failed_at < RETRY_SECONDS
                self._failed_at = trio.current_time()
                try:
                    await self._runner.run(self._index.reset)
                except OSError as failure:
                    raise StorageUnavailable(f"the search index can't be deleted: {failure}") from failure
                self._changed.set()
                raise StorageUnavailable(
                    "the search index can't be used" if again else "the search index is being built again"
                ) from error
            finally:
                await trio.lowlevel.cancel_shielded_checkpoint()

    # In the thread of the index

    def _fresh(self, find: Callable[[SearchFilter], T], which: SearchFilter) -> T:
        """Let the index read what was committed before, for a limited time, and then find."""
        until = time.monotonic() + FRESH_SECONDS
        while self.step(thorough=not self.in_background) and time.monotonic() < until:
            pass
        return find(which)

    def _opened(self) -> SearchPosition:
        database = self._database()
        if self._position is None or database != self._opened_for:
            self._position, self._opened_for = self._index.open(self._store.newest_number(), database), database
            self._scan = Identity(Role.USER, -1)
        return self._position

    def step(self, thorough: bool = True) -> bool:
        """Read some of what was committed. Returns whether there may be more to do.

        Only a `thorough` step reads all people and rewrites the index without what was removed.
        """
        position = self._opened()
        added = self._store.searchable(position.messages, STEP)
        # Only once no message is missing, because an edit of a message is newer than the message.
        edited = self._store.searchable_edits(position.edits, STEP) if len(added) < STEP else ()
        removed = self._store.removed_chats(position.removals, REMOVALS)
        names, takers = list(self._renamed)[:PEOPLE], list(self._takers)[:PEOPLE]
        people = [*self._index.unknown_owners(added), *filter(self._index.is_known, names), *takers]
        people += [identity for identity in names if identity.role is Role.OPERATOR]
        people += [Identity(Role.USER, chat.owner_id) for chat in removed]
        scanned = () if self._scan is None or added or not thorough else self._store.people_after(self._scan, PEOPLE)
        found: list[SearchablePerson] = [*self._store.searchable_people(people), *scanned]
        if added or edited or found or removed:
            position = SearchPosition(
                added[-1].number if added else position.messages,
                edited[-1].number if edited else position.edits,
                removed[-1].place if removed else position.removals,
            )
            self._index.put(position, (*added, *edited), found, [chat.chat for chat in removed])
            self._position = position
        self._index.remove_people(set(people) - {identity_of(person.user) for person in found})
        for identity in names:
            self._renamed.pop(identity, None)
        for identity in takers:
            self._takers.pop(identity, None)
        if self._scan is not None and not added and thorough:
            self._scan_on(scanned)
            return True
        if len(added) == STEP or len(edited) == STEP or len(removed) == REMOVALS or self._renamed or self._takers:
            return True
        return thorough and self._index.merge()

    def _scan_on(self, scanned: Sequence[SearchablePerson]) -> None:
        if scanned:
            self._scan = identity_of(scanned[-1].user)
        elif self._scan is not None:
            self._scan = Identity(Role.OPERATOR, -1) if self._scan.role is Role.USER else None

    def _find_messages(self, which: SearchFilter) -> FoundMessages:
        self._opened()
        before = MAX_SAFE_INTEGER if which.before is None else which.before
        found: list[tuple[ChatState, StoredMessage]] = []
        for _ in range(max(1, MOST_CANDIDATES // which.limit)):
            ids = self._index.messages(which, before, which.limit + 1)
            for chat, message in self._store.found(ids[: which.limit]):
                if _confirms(which, chat, message):
                    found.append((chat, message))
                    if len(found) == which.limit:
                        more = message.id != ids[-1]
                        return FoundMessages(tuple(found), message.id if more else None)
            if len(ids) <= which.limit:
                return FoundMessages(tuple(found))
            before = ids[which.limit - 1]
        return FoundMessages(tuple(found), before)

    def _find_people(self, which: SearchFilter) -> FoundPeople:
        self._opened()
        before = 0 if which.before is None else which.before
        found: list[User] = []
        for _ in range(max(1, MOST_CANDIDATES // which.limit)):
            proposed = self._index.people(which, before, which.limit + 1)
            numbers = {identity: number for number, identity in proposed[: which.limit]}
            for person in self._store.searchable_people(list(numbers)):
                number = numbers[identity_of(person.user)]
                if (which.sources is None or which.sources & person.sources) and are_found(
                    which.words, names_of(person.user)
                ):
                    found.append(person.user)
                    if len(found) == which.limit:
                        return FoundPeople(tuple(found), number if number != proposed[-1][0] else None)
            if len(proposed) <= which.limit:
                return FoundPeople(tuple(found))
            before = proposed[which.limit - 1][0]
        return FoundPeople(tuple(found), before)


def _confirms(which: SearchFilter, chat: ChatState, message: StoredMessage) -> bool:
    """Whether a message that the index proposes is to be found, as it is now."""
    if which.kind is SearchKind.FILES:
        words = {word for file in message.attachments for word in words_of(file.filename)}
    else:
        words = set(words_of(message.text))
    return (
        visible_to(message, which.role)
        and (which.sources is None or chat.source in which.sources)
        and (which.chats is None or chat.uuid in which.chats)
        and are_found(which.words, words)
    )
