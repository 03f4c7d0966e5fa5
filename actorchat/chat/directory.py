"""Owns who the operators are, who of them is online, and the counters that consoles see.

Counters and people are decided in transactions; here the newest revision is kept and told, at most ten times a second.
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
from actorchat.chat.feed import Console
from actorchat.chat.model import OperatorCounters, PersonRecord, SourceCounters
from actorchat.chat.ports import ChatReader, OperatorRecord, StorageUnavailable
from actorchat.protocol import Event, Frames, GlobalUpdated, OperatorUpdated, Profile, encode_event

__all__ = [
    "ConsoleJoined",
    "ConsoleLeft",
    "Consoles",
    "Counted",
    "Directory",
    "DirectoryMessage",
    "PersonSeen",
    "operator_event",
]

_log = logging.getLogger(__name__)

INTERVAL = 0.1
"""Seconds between two tellings of counters."""

OFFLINE_GRACE = 30.0
"""Seconds for which an operator without a console is still online."""

RETRY = 1.0
"""Seconds after which a change of presence, or a return of chats, that storage could not take is tried again."""

KNOWN_SOURCES = 10_000
"""Sources whose counter is remembered, though no console may be there; any name can be a source."""

_ROUNDING = 0.001
"""Seconds by which a timer may end early: sums of floats are not exact."""


@attrs.frozen
class Counted:
    """Counters changed, and the events of the chats they count were shown."""

    counters: tuple[OperatorCounters | SourceCounters, ...]


@attrs.frozen
class PersonSeen:
    """An operator's record is new or changed."""

    person: PersonRecord


@attrs.frozen(eq=False)
class ConsoleJoined:
    """A console is live; its snapshot showed these operators and counters."""

    console: Console
    operators: tuple[OperatorRecord, ...]
    counters: tuple[SourceCounters, ...]


@attrs.frozen
class ConsoleLeft:
    """The operator's last console is gone."""

    operator_id: int


@attrs.frozen
class _Tell:
    pass


@attrs.frozen
class _GraceOver:
    operator_id: int


@attrs.frozen
class _StoreOnline:
    operator_id: int


@attrs.frozen
class _PresenceStored:
    person: PersonRecord


@attrs.frozen
class _PresenceFailed:
    operator_id: int
    error: Exception


@attrs.frozen
class _Return:
    """It is time to try again to return the chats of an operator that went offline."""

    operator_id: int


@attrs.frozen
class _ReturnTried:
    person: PersonRecord


@attrs.frozen
class _ReturnFailed:
    operator_id: int
    error: Exception


DirectoryMessage = (
    Counted
    | PersonSeen
    | ConsoleJoined
    | ConsoleLeft
    | _Tell
    | _GraceOver
    | _StoreOnline
    | _PresenceStored
    | _PresenceFailed
    | _Return
    | _ReturnTried
    | _ReturnFailed
)


@attrs.define(eq=False)
class _Operator:
    person: PersonRecord
    counters: OperatorCounters
    storing: bool = False
    returning: bool = False


@attrs.define(eq=False)
class _View:
    """What one console was told of its sources, and what it still has to be told.

    `ahead`: counters that its snapshot showed before the events of the chats they count were shown.
    """

    unread: dict[str, SourceCounters]
    ahead: dict[int, OperatorCounters]
    operators: set[int] = attrs.Factory(set)
    global_due: bool = False


class Consoles:
    """Who is connected, and the counters whose chats' events were shown. Joining, leaving, counting are synchronous.

    It outlives the directory's incarnations. Storage may be ahead of these counters.
    """

    def __init__(self) -> None:
        self.views: dict[Console, _View] = {}
        self.operators: dict[int, OperatorCounters] = {}
        self.sources: dict[str, SourceCounters] = {}
        self._begun = False
        self._of_operator: Counter[int] = Counter()
        self._left_at: dict[int, float] = {}

    def begin(self, records: Iterable[OperatorRecord]) -> None:
        """Take what storage has, once: before anything happens all of it counts as shown."""
        if not self._begun:
            self._begun = True
            self.count(tuple(record.counters for record in records))

    def count(self, counters: Iterable[OperatorCounters | SourceCounters]) -> None:
        """The events of the chats that these count were shown."""
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

    def _forget_sources(self) -> None:
        """Forget sources without a console that have not changed for longest: whoever joins reads them from storage."""
        watched = frozenset().union(*(console.sources for console in self.views))
        for source in list(self.sources)[: len(self.sources) - KNOWN_SOURCES // 2]:
            if source not in watched:
                del self.sources[source]

    def counters(self, operator_id: int) -> OperatorCounters:
        return self.operators.get(operator_id) or OperatorCounters(operator_id)

    def join(
        self, console: Console, counters: Iterable[SourceCounters], operators: Iterable[OperatorRecord] = ()
    ) -> None:
        """The console is live; its snapshot showed `counters` and `operators`."""
        unread = {source: SourceCounters(source) for source in console.sources}
        unread.update({counter.source: counter for counter in counters})
        shown = (record.counters for record in operators)
        ahead = {each.operator_id: each for each in shown if each.rev > self.counters(each.operator_id).rev}
        self.views[console] = _View(unread, ahead)
        operator_id = console.session.user.id
        self._of_operator[operator_id] += 1
        self._left_at.pop(operator_id, None)

    def leave(self, console: Console) -> bool:
        """Whether it was its operator's last one. A console that never joined is nobody's."""
        if self.views.pop(console, None) is None:
            return False
        operator_id = console.session.user.id
        self._of_operator[operator_id] -= 1
        if self._of_operator[operator_id]:
            return False
        del self._of_operator[operator_id]
        self._left_at[operator_id] = trio.current_time()
        return True

    def connected(self, operator_id: int) -> bool:
        return operator_id in self._of_operator

    def grace_left(self, operator_id: int) -> float:
        """Seconds until the grace of an operator without a console is over; not above 0 if it is."""
        left_at = self._left_at.get(operator_id)
        return 0.0 if left_at is None else left_at + OFFLINE_GRACE - trio.current_time()


class Directory(Actor[DirectoryMessage]):
    """The one actor that knows all operators. It holds a record per operator, and none per visitor or chat.

    `store_presence(operator_id, online)` commits that the operator is online or offline. `return_chats(operator_id)`
    then gives the chats of an operator that is leaving back to the queue, as far as it can. Both return the operator's
    record; what they return or raise comes back as a message. Between the two the operator is stored as offline, so no
    chat reopens with it, and as leaving, so a restart completes the return.
    """

    def __init__(
        self,
        chat_reader: ChatReader,
        store_presence: Callable[[int, bool], Awaitable[PersonRecord]],
        return_chats: Callable[[int], Awaitable[PersonRecord]],
        consoles: Consoles,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._chat_reader, self._store_presence, self._return_chats = chat_reader, store_presence, return_chats
        self._consoles = consoles
        self._clock = clock
        self._operators: dict[int, _Operator] = {}
        self._told_at = -INTERVAL
        self._waiting = False

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
            connected = self._consoles.connected(operator_id)
            if connected and not record.person.online:
                self._store(operator_id, online=True)
            elif record.person.leaving:
                self._return(operator_id)
            elif record.person.online and not connected:
                self._start_grace(operator_id)
        if self._consoles.views:
            self._resume()

    def _resume(self) -> None:
        """An incarnation crashed: tell the consoles that are there what it may not have told."""
        for counter in self._consoles.sources.values():
            self._count_unread(counter)
        for operator in self._operators.values():
            self._operator_due(operator)
        self._tell()

    async def receive(self, message: DirectoryMessage) -> None:
        match message:
            case Counted(counters=counters):
                for counter in counters:
                    self._count(counter)
            case PersonSeen(person=person):
                self._seen(person)
            case ConsoleJoined():
                self._joined(message)
            case ConsoleLeft(operator_id=operator_id):
                if not self._consoles.connected(operator_id):
                    self._start_grace(operator_id)
            case _Tell():
                self._waiting = False
            case _GraceOver(operator_id=operator_id):
                self._grace_over(operator_id)
            case _StoreOnline(operator_id=operator_id):
                if self._consoles.connected(operator_id) and not self._operators[operator_id].person.online:
                    self._store(operator_id, online=True)
            case _PresenceStored(person=person):
                self._stored(person)
            case _PresenceFailed(operator_id=operator_id, error=error):
                self._retry(operator_id, error)
            case _Return(operator_id=operator_id):
                self._return(operator_id)
            case _ReturnTried(person=person):
                self._return_tried(person.user.id, again=person.leaving)
            case _ReturnFailed(operator_id=operator_id, error=error):
                if not isinstance(error, StorageUnavailable):
                    _log.error("the chats of operator %s could not be returned", operator_id, exc_info=error)
                self._return_tried(operator_id, again=True)
            case _:
                assert_never(message)
        self._tell()

    # Counters

    def _count(self, counter: OperatorCounters | SourceCounters) -> None:
        if isinstance(counter, SourceCounters):
            self._count_unread(counter)
            return
        operator = self._operators.get(counter.operator_id)
        if operator is not None and counter.rev > operator.counters.rev:
            operator.counters = counter
            self._operator_due(operator, counted=True)

    def _count_unread(self, counter: SourceCounters) -> None:
        for view in self._consoles.views.values():
            known = view.unread.get(counter.source)
            if known is not None and counter.rev > known.rev:
                view.unread[counter.source] = counter
                view.global_due = view.global_due or counter.unread_chats != known.unread_chats

    def _operator_due(self, operator: _Operator, *, but: frozenset[str] = frozenset(), counted: bool = False) -> None:
        """Due at every console that shares a source with the operator, but those that share one of `but`.

        `counted`: only its counters changed, which a console's snapshot may have shown.
        """
        sources, operator_id = operator.person.sources(self._clock()), operator.person.user.id
        for console, view in self._consoles.views.items():
            ahead = view.ahead.get(operator_id) if counted else None
            if ahead is not None and ahead.rev >= operator.counters.rev:
                continue
            if not console.sources.isdisjoint(sources) and console.sources.isdisjoint(but):
                view.operators.add(operator_id)

    def _tell(self) -> None:
        """Tell every console what is due, unless it was told a moment ago: then once, when the moment is over."""
        due = [(console, view) for console, view in self._consoles.views.items() if view.operators or view.global_due]
        if self._waiting or not due:
            return
        now = trio.current_time()
        wait = self._told_at + INTERVAL - now
        if wait > 0:
            self._waiting = True
            self.after(wait, _Tell(), key="tell")
            return
        self._told_at = now
        for console, view in due:
            events: list[Event] = [self._event(operator_id, view) for operator_id in sorted(view.operators)]
            if view.global_due:
                events.append(GlobalUpdated(sum(each.unread_chats for each in view.unread.values())))
            frames = Frames.of([encode_event(event, Profile.STRICT) for event in events])
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

    def _joined(self, message: ConsoleJoined) -> None:
        console = message.console
        view = self._consoles.views.get(console)
        if view is None:
            return
        # The snapshot may be behind what was told since it was read, or ahead of what rooms have announced.
        for source in console.sources & self._consoles.sources.keys():
            self._count_unread(self._consoles.sources[source])
        shown = {record.person.user.id: record for record in message.operators}
        now = self._clock()
        for operator_id, operator in self._operators.items():
            record = shown.get(operator_id)
            stale = record is None or operator_event(record) != self._event(operator_id, view)
            if stale and not console.sources.isdisjoint(operator.person.sources(now)):
                view.operators.add(operator_id)
        own = self._operators.get(console.session.user.id)
        if own is not None and not own.person.online:
            self._store(console.session.user.id, online=True)

    def _seen(self, person: PersonRecord) -> None:
        operator = self._operators.get(person.user.id)
        if operator is None:
            operator = self._operators[person.user.id] = _Operator(person, self._consoles.counters(person.user.id))
            self._operator_due(operator)
            return
        known = operator.person
        # Presence has its own message: this one may be older.
        operator.person = attrs.evolve(person, online=known.online, leaving=known.leaving)
        if person.user != known.user:
            self._operator_due(operator)
        else:
            # The operator may be new to a source.
            self._operator_due(operator, but=known.sources(self._clock()))

    def _start_grace(self, operator_id: int) -> None:
        self.after(OFFLINE_GRACE, _GraceOver(operator_id), key=("grace", operator_id))

    def _grace_over(self, operator_id: int) -> None:
        if self._consoles.connected(operator_id):
            return
        left = self._consoles.grace_left(operator_id)
        if left > _ROUNDING:
            # The operator came and went again, and the message of that is still on its way.
            self.after(left, _GraceOver(operator_id), key=("grace", operator_id))
        else:
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

    def _stored(self, person: PersonRecord) -> None:
        operator_id = person.user.id
        operator = self._operators[operator_id]
        operator.storing = False
        told = operator.person
        operator.person = attrs.evolve(told, online=person.online, leaving=person.leaving)
        if told.online is not person.online:
            self._operator_due(operator)
        # It may have come or gone while its presence was stored.
        connected = self._consoles.connected(operator_id)
        if person.online and not connected:
            self._start_grace(operator_id)
        elif connected and not person.online:
            # Ends the leaving: what was not returned yet stays with the operator.
            self._store(operator_id, online=True)
        elif person.leaving:
            self._return(operator_id)

    def _return(self, operator_id: int) -> None:
        operator = self._operators[operator_id]
        if operator.returning or self._consoles.connected(operator_id):
            return
        operator.returning = True
        self.pipe(
            partial(self._return_chats, operator_id),
            ok=_ReturnTried,
            err=lambda error: _ReturnFailed(operator_id, error),
        )

    def _return_tried(self, operator_id: int, *, again: bool) -> None:
        self._operators[operator_id].returning = False
        if again:
            self.after(RETRY, _Return(operator_id), key=("return", operator_id))

    def _retry(self, operator_id: int, error: Exception) -> None:
        if not isinstance(error, StorageUnavailable):
            _log.error("the presence of operator %s could not be stored", operator_id, exc_info=error)
        operator = self._operators[operator_id]
        operator.storing = False
        if not self._consoles.connected(operator_id):
            self.after(RETRY, _GraceOver(operator_id), key=("grace", operator_id))
        elif not operator.person.online:
            self.after(RETRY, _StoreOnline(operator_id), key=("online", operator_id))


def operator_event(record: OperatorRecord) -> OperatorUpdated:
    """What a console is told of an operator."""
    return OperatorUpdated(
        user=record.person.user,
        is_online=record.person.online,
        new_chats=record.counters.new_chats,
        open_chats=record.counters.open_chats,
    )
