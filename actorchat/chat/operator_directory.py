"""Tracks the operators, their presence and the counters, and sends changes to the consoles that show them.

Counters and people change in transactions. This module keeps their newest revisions and sends them at most ten times a
second.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import assert_never

import attrs
import trio

from actorchat.actors import Actor
from actorchat.chat.model import OperatorCounters, PersonRecord, SourceCounters
from actorchat.chat.operator_feed import Console
from actorchat.chat.ports import ChatReader, OperatorRecord, StorageUnavailable
from actorchat.protocol import Event, Frames, GlobalUpdated, OperatorUpdated, User, encode_event

__all__ = [
    "ConsoleJoined",
    "ConsoleLeft",
    "Consoles",
    "Counted",
    "CountersRead",
    "Directory",
    "DirectoryMessage",
    "NodesChanged",
    "PersonRead",
    "PersonSeen",
    "operator_event",
]

_log = logging.getLogger(__name__)

INTERVAL = 0.1
"""Seconds between two updates to consoles."""

OFFLINE_GRACE = 30.0
"""Seconds for which an operator without a console still counts as online."""

RETRY = 1.0
"""Seconds before storing a change of presence, or returning chats to the queue, is tried again after a failure."""

KNOWN_SOURCES = 10_000
"""How many sources' counters are remembered. A limit is needed, because any valid name can be a source."""

_ROUNDING = 0.001
"""Seconds by which a timer may expire early, because sums of floats are not exact."""


@attrs.frozen
class Counted:
    """Counters changed, and the events of the chats behind the change were sent."""

    counters: tuple[OperatorCounters | SourceCounters, ...]


@attrs.frozen
class PersonSeen:
    """An operator's record is new or changed."""

    person: PersonRecord


@attrs.frozen
class PersonRead:
    """Another node has changed an operator's record. This is the newest one."""

    person: PersonRecord


@attrs.frozen
class CountersRead:
    """Storage has lost commits. These are all counters of operators, as they are stored."""

    counters: tuple[OperatorCounters, ...]


@attrs.frozen
class NodesChanged:
    """Consoles on other nodes are gone without a word, because their node is."""


@attrs.frozen(eq=False)
class ConsoleJoined:
    """A console is live; its snapshot contained these operators and counters."""

    console: Console
    operators: tuple[OperatorRecord, ...]
    counters: tuple[SourceCounters, ...]


@attrs.frozen
class ConsoleLeft:
    """The operator's last console has disconnected."""

    operator_id: int


@attrs.frozen
class _SendUpdates:
    """Timer: the interval since the last update is over."""


@attrs.frozen
class _GraceOver:
    """Timer: the operator may be offline for good."""

    operator_id: int


@attrs.frozen
class _StoreOnline:
    """Timer: try again to store that the operator is online."""

    operator_id: int


@attrs.frozen
class _PresenceStored:
    person: PersonRecord


@attrs.frozen
class _PresenceFailed:
    operator_id: int
    error: Exception


@attrs.frozen
class _ReturnChats:
    """Timer: try again to return the chats of an operator who went offline."""

    operator_id: int


@attrs.frozen
class _ChatsReturned:
    """The attempt is over; some chats may be left."""

    person: PersonRecord


@attrs.frozen
class _ReturnFailed:
    operator_id: int
    error: Exception


DirectoryMessage = (
    Counted
    | PersonSeen
    | PersonRead
    | CountersRead
    | NodesChanged
    | ConsoleJoined
    | ConsoleLeft
    | _SendUpdates
    | _GraceOver
    | _StoreOnline
    | _PresenceStored
    | _PresenceFailed
    | _ReturnChats
    | _ChatsReturned
    | _ReturnFailed
)


@attrs.define(eq=False)
class _Operator:
    person: PersonRecord
    counters: OperatorCounters
    storing: bool = False
    returning: bool = False
    # Another node has changed the record while this node's presence was being stored.
    stale: bool = False


@attrs.define(eq=False)
class _View:
    """The state of one console: the counters it shows of its sources, and the updates that are due to it.

    `ahead` has counters of its snapshot that were newer than the chat events it had been sent by then. `operators` are
    the ids of operators whose update is due.
    """

    unread: dict[str, SourceCounters]
    ahead: dict[int, OperatorCounters]
    operators: set[int] = attrs.Factory(set)
    global_due: bool = False


class Consoles:
    """The connected consoles, and the counters that match the chat events sent so far; storage may be ahead of them.

    All methods are synchronous. The object survives crashes and restarts of the directory. `elsewhere(operator_id)`
    says whether another node that lives has a console of that operator, or had one until a moment ago. `on_here(user)`
    and `on_gone(operator_id)` are called when an operator gets a console here, and when the grace after the last one is
    over.
    """

    def __init__(self) -> None:
        self.elsewhere: Callable[[int], bool] = lambda _: False
        self.on_here: Callable[[User], object] = lambda _: None
        self.on_gone: Callable[[int], object] = lambda _: None
        # The operators that `on_here` was called for.
        self._here: set[int] = set()
        self.views: dict[Console, _View] = {}
        self.operators: dict[int, OperatorCounters] = {}
        self.sources: dict[str, SourceCounters] = {}
        self._begun = False
        self._console_counts: Counter[int] = Counter()
        self._left_at: dict[int, float] = {}

    def begin(self, records: Iterable[OperatorRecord]) -> None:
        """Start with the stored counters. Only the first call has an effect."""
        if not self._begun:
            self._begun = True
            self.count(tuple(record.counters for record in records))

    def count(self, counters: Iterable[OperatorCounters | SourceCounters]) -> None:
        """Apply new counters. Call it after the events of the chats that changed them were sent."""
        for counter in counters:
            if isinstance(counter, SourceCounters):
                known = self.sources.get(counter.source)
                if known is None or counter.rev > known.rev:
                    self.sources.pop(counter.source, None)
                    self.sources[counter.source] = counter
                    if len(self.sources) > KNOWN_SOURCES:
                        self._forget_sources()
            elif counter.rev >= self.counters(counter.operator_id).rev:
                self.operators[counter.operator_id] = counter

    def forget_counters(self) -> None:
        """Storage has lost commits: the counters that are known may be newer than the stored ones."""
        self.operators.clear()
        self.sources.clear()

    def _forget_sources(self) -> None:
        """Forget the half that has not changed for longest, except sources with a console; storage has them all."""
        watched = frozenset().union(*(console.sources for console in self.views))
        for source in list(self.sources)[: len(self.sources) - KNOWN_SOURCES // 2]:
            if source not in watched:
                del self.sources[source]

    def counters(self, operator_id: int) -> OperatorCounters:
        return self.operators.get(operator_id) or OperatorCounters(operator_id)

    def join(
        self, console: Console, counters: Iterable[SourceCounters], operators: Iterable[OperatorRecord] = ()
    ) -> None:
        """Add a console that is live; its snapshot contained `counters` and `operators`."""
        unread = {source: SourceCounters(source) for source in console.sources}
        unread.update({counter.source: counter for counter in counters})
        in_snapshot = (record.counters for record in operators)
        ahead = {each.operator_id: each for each in in_snapshot if each.rev > self.counters(each.operator_id).rev}
        self.views[console] = _View(unread, ahead)
        operator_id = console.session.user.id
        self._console_counts[operator_id] += 1
        if operator_id not in self._here:
            self._here.add(operator_id)
            self.on_here(console.session.user)
        self._left_at.pop(operator_id, None)

    def leave(self, console: Console) -> bool:
        """Remove a console. Returns whether it was its operator's last; False if it never joined."""
        if self.views.pop(console, None) is None:
            return False
        operator_id = console.session.user.id
        self._console_counts[operator_id] -= 1
        if self._console_counts[operator_id]:
            return False
        del self._console_counts[operator_id]
        self._left_at[operator_id] = trio.current_time()
        return True

    def gone(self, operator_id: int) -> None:
        """The grace of an operator without a console is over."""
        if operator_id in self._here and operator_id not in self._console_counts:
            self._here.discard(operator_id)
            self.on_gone(operator_id)

    def connected(self, operator_id: int) -> bool:
        return operator_id in self._console_counts

    def grace_left(self, operator_id: int) -> float:
        """Seconds until an operator without a console counts as offline; 0 or less if the grace is over."""
        left_at = self._left_at.get(operator_id)
        return 0.0 if left_at is None else left_at + OFFLINE_GRACE - trio.current_time()


class Directory(Actor[DirectoryMessage]):
    """The actor that knows all operators. It keeps a record for each operator, and none for visitors or chats.

    `store_presence(operator_id, online)` commits that the operator is online or offline. After an operator went
    offline, `return_chats(operator_id)` returns their chats to the queue, as many as it can. Both return the operator's
    record. Between the two calls the operator is stored as offline, so that no chat reopens with them, and as
    `leaving`, so that a restarted server continues to return the chats. `read_again(operator_id)` makes somebody send a
    `PersonRead` with the newest record.
    """

    def __init__(
        self,
        chat_reader: ChatReader,
        store_presence: Callable[[int, bool], Awaitable[PersonRecord]],
        return_chats: Callable[[int], Awaitable[PersonRecord]],
        consoles: Consoles,
        clock: Callable[[], float] = time.time,
        read_again: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._chat_reader, self._store_presence, self._return_chats = chat_reader, store_presence, return_chats
        self._consoles = consoles
        self._clock = clock
        self._read_again = read_again
        self._operators: dict[int, _Operator] = {}
        self._updated_at = -INTERVAL
        self._timer_set = False

    async def on_start(self) -> None:
        while True:
            try:
                await self._load()
            except StorageUnavailable:
                await trio.sleep(RETRY)
            else:
                return

    async def _load(self) -> None:
        records = await self._chat_reader.operators(None)
        self._consoles.begin(records)
        for record in records:
            operator_id = record.person.user.id
            self._operators[operator_id] = _Operator(record.person, self._consoles.counters(operator_id))
            self._look_after(operator_id)
            if record.person.away and record.counters.new_chats:
                self._start_return(operator_id)
        if self._consoles.views:
            self._update_all()

    def _look_after(self, operator_id: int) -> None:
        """Do what is left to do for the operator's presence."""
        person = self._operators[operator_id].person
        connected = self._consoles.connected(operator_id)
        if connected and not person.online:
            self._store(operator_id, online=True)
        elif person.leaving:
            self._start_return(operator_id)
        elif person.online and not connected:
            self._start_grace(operator_id)

    def _update_all(self) -> None:
        """Send everything to the connected consoles, because updates may be lost when the actor crashes."""
        for counter in self._consoles.sources.values():
            self._count_unread(counter)
        for operator in self._operators.values():
            self._mark_due(operator)
        self._send_updates()

    async def receive(self, message: DirectoryMessage) -> None:
        match message:
            case Counted(counters=counters):
                for counter in counters:
                    self._count(counter)
            case PersonSeen(person=person):
                self._person_seen(person)
            case PersonRead(person=person):
                self._person_read(person)
            case CountersRead(counters=stored):
                self._consoles.count(stored)
                for operator_id, operator in self._operators.items():
                    operator.counters = self._consoles.counters(operator_id)
                    self._mark_due(operator)
            case NodesChanged():
                for operator_id in self._operators:
                    self._look_after(operator_id)
            case ConsoleJoined():
                self._console_joined(message)
            case ConsoleLeft(operator_id=operator_id):
                if not self._consoles.connected(operator_id):
                    self._start_grace(operator_id)
            case _SendUpdates():
                self._timer_set = False
            case _GraceOver(operator_id=operator_id):
                self._grace_over(operator_id)
            case _StoreOnline(operator_id=operator_id):
                if self._consoles.connected(operator_id) and not self._operators[operator_id].person.online:
                    self._store(operator_id, online=True)
            case _PresenceStored(person=person):
                self._presence_stored(person)
            case _PresenceFailed(operator_id=operator_id, error=error):
                self._presence_failed(operator_id, error)
            case _ReturnChats(operator_id=operator_id):
                self._start_return(operator_id)
            case _ChatsReturned(person=person):
                self._return_finished(person.user.id, retry=person.leaving)
            case _ReturnFailed(operator_id=operator_id, error=error):
                if not isinstance(error, StorageUnavailable):
                    _log.error("returning the chats of operator %s to the queue failed", operator_id, exc_info=error)
                self._return_finished(operator_id, retry=True)
            case _:
                assert_never(message)
        self._send_updates()

    # Counters

    def _count(self, counter: OperatorCounters | SourceCounters) -> None:
        if isinstance(counter, SourceCounters):
            self._count_unread(counter)
            return
        operator = self._operators.get(counter.operator_id)
        if operator is not None and counter.rev > operator.counters.rev:
            operator.counters = counter
            self._mark_due(operator, counters_only=True)

    def _count_unread(self, counter: SourceCounters) -> None:
        for view in self._consoles.views.values():
            known = view.unread.get(counter.source)
            if known is not None and counter.rev > known.rev:
                view.unread[counter.source] = counter
                view.global_due = view.global_due or counter.unread_chats != known.unread_chats

    def _mark_due(
        self, operator: _Operator, *, excluded: frozenset[str] = frozenset(), counters_only: bool = False
    ) -> None:
        """Make an update due at the consoles that have a source of the operator and none of the `excluded` sources.

        `counters_only` means that only counters changed; a console whose snapshot contained them is left out.
        """
        sources, operator_id = operator.person.sources(self._clock()), operator.person.user.id
        for console, view in self._consoles.views.items():
            ahead = view.ahead.get(operator_id) if counters_only else None
            if ahead is not None and ahead.rev >= operator.counters.rev:
                continue
            if not console.sources.isdisjoint(sources) and console.sources.isdisjoint(excluded):
                view.operators.add(operator_id)

    def _send_updates(self) -> None:
        """Send all due updates, or set a timer if the last ones were sent less than `INTERVAL` ago."""
        due = [(console, view) for console, view in self._consoles.views.items() if view.operators or view.global_due]
        if self._timer_set or not due:
            return
        now = trio.current_time()
        wait = self._updated_at + INTERVAL - now
        if wait > 0:
            self._timer_set = True
            self.after(wait, _SendUpdates(), key="send-updates")
            return
        self._updated_at = now
        for console, view in due:
            events: list[Event] = [self._event(operator_id, view) for operator_id in sorted(view.operators)]
            if view.global_due:
                events.append(GlobalUpdated(sum(each.unread_chats for each in view.unread.values())))
            frames = Frames.of([encode_event(event, console.session.profile) for event in events])
            view.operators.clear()
            view.global_due = False
            console.session.push(frames)

    def _event(self, operator_id: int, view: _View) -> OperatorUpdated:
        operator = self._operators[operator_id]
        counters, ahead = operator.counters, view.ahead.get(operator_id)
        if ahead is not None and ahead.rev > counters.rev:
            counters = ahead
        elif ahead is not None:
            del view.ahead[operator_id]
        return operator_event(OperatorRecord(operator.person, counters))

    # Consoles and people

    def _console_joined(self, message: ConsoleJoined) -> None:
        console = message.console
        view = self._consoles.views.get(console)
        if view is None:
            return
        # The snapshot may be older than updates that were sent since it was read, or newer than the rooms' events.
        for source in console.sources & self._consoles.sources.keys():
            self._count_unread(self._consoles.sources[source])
        in_snapshot = {record.person.user.id: record for record in message.operators}
        now = self._clock()
        for operator_id, operator in self._operators.items():
            record = in_snapshot.get(operator_id)
            is_stale = record is None or operator_event(record) != self._event(operator_id, view)
            if is_stale and not console.sources.isdisjoint(operator.person.sources(now)):
                view.operators.add(operator_id)
        own = self._operators.get(console.session.user.id)
        if own is not None and not own.person.online:
            self._store(console.session.user.id, online=True)

    def _person_seen(self, person: PersonRecord) -> None:
        operator = self._operators.get(person.user.id)
        if operator is None:
            operator = self._operators[person.user.id] = _Operator(person, self._consoles.counters(person.user.id))
            self._mark_due(operator)
            return
        known = operator.person
        # Keep the presence: it has its own messages, and this record may have an older one.
        operator.person = attrs.evolve(person, online=known.online, leaving=known.leaving)
        if person.away and not known.away:
            self._start_return(person.user.id)
        if person.user != known.user or person.away is not known.away:
            self._mark_due(operator)
        else:
            # The operator may have been added to a source.
            self._mark_due(operator, excluded=known.sources(self._clock()))

    def _person_read(self, person: PersonRecord) -> None:
        operator_id = person.user.id
        operator = self._operators.get(operator_id)
        if operator is None:
            operator = self._operators[operator_id] = _Operator(person, self._consoles.counters(operator_id))
            self._mark_due(operator)
        elif operator.storing:
            # What is being stored may be older or newer than this record.
            operator.stale = True
        else:
            known, operator.person = operator.person, person
            shown = (known.user, known.online, known.away) != (person.user, person.online, person.away)
            self._mark_due(operator, excluded=frozenset() if shown else known.sources(self._clock()))
            if self._consoles.connected(operator_id) and not person.online:
                self._store(operator_id, online=True)

    def _stored(self, operator: _Operator) -> None:
        operator.storing = False
        if operator.stale:
            operator.stale = False
            self._read_again(operator.person.user.id)

    def _start_grace(self, operator_id: int) -> None:
        # A grace that has begun here goes on when another node's ends.
        left = self._consoles.grace_left(operator_id)
        seconds = left if left > _ROUNDING else OFFLINE_GRACE
        self.after(seconds, _GraceOver(operator_id), key=("grace", operator_id))

    def _grace_over(self, operator_id: int) -> None:
        if self._consoles.connected(operator_id):
            return
        left = self._consoles.grace_left(operator_id)
        if left > _ROUNDING:
            # The operator connected and left again; the message about that is still in the inbox.
            self.after(left, _GraceOver(operator_id), key=("grace", operator_id))
            return
        self._consoles.gone(operator_id)
        # Otherwise the node that has the console looks after the operator.
        operator = self._operators.get(operator_id)
        if operator is not None and operator.person.online and not self._consoles.elsewhere(operator_id):
            self._store(operator_id, online=False)

    def _store(self, operator_id: int, *, online: bool) -> None:
        operator = self._operators[operator_id]
        if operator.storing:
            return
        operator.storing = True
        self.pipe(
            partial(self._store_presence, operator_id, online),
            ok=_PresenceStored,
            err=lambda error: _PresenceFailed(operator_id, error),
        )

    def _presence_stored(self, person: PersonRecord) -> None:
        operator_id = person.user.id
        operator = self._operators[operator_id]
        self._stored(operator)
        before = operator.person
        operator.person = attrs.evolve(before, online=person.online, leaving=person.leaving)
        if before.online is not person.online:
            self._mark_due(operator)
        # The operator may have connected or left while the presence was being stored.
        connected = self._consoles.connected(operator_id)
        if person.online and not connected:
            self._start_grace(operator_id)
        elif connected and not person.online:
            # This also clears `leaving`: chats that were not returned yet stay with the operator.
            self._store(operator_id, online=True)
        elif person.leaving:
            self._start_return(operator_id)

    def _start_return(self, operator_id: int) -> None:
        operator = self._operators[operator_id]
        present = self._consoles.connected(operator_id) or self._consoles.elsewhere(operator_id)
        stays = present and not operator.person.away
        if operator.returning or stays:
            return
        operator.returning = True
        self.pipe(
            partial(self._return_chats, operator_id),
            ok=_ChatsReturned,
            err=lambda error: _ReturnFailed(operator_id, error),
        )

    def _return_finished(self, operator_id: int, *, retry: bool) -> None:
        self._operators[operator_id].returning = False
        if retry:
            self.after(RETRY, _ReturnChats(operator_id), key=("return", operator_id))

    def _presence_failed(self, operator_id: int, error: Exception) -> None:
        if not isinstance(error, StorageUnavailable):
            _log.error("storing the presence of operator %s failed", operator_id, exc_info=error)
        operator = self._operators[operator_id]
        self._stored(operator)
        if not self._consoles.connected(operator_id):
            self.after(RETRY, _GraceOver(operator_id), key=("grace", operator_id))
        elif not operator.person.online:
            self.after(RETRY, _StoreOnline(operator_id), key=("online", operator_id))


def operator_event(record: OperatorRecord) -> OperatorUpdated:
    """The event that shows an operator on a console."""
    return OperatorUpdated(
        user=record.person.user,
        is_online=record.person.is_online,
        new_chats=record.counters.new_chats,
        open_chats=record.counters.open_chats,
        away=record.person.away,
    )
