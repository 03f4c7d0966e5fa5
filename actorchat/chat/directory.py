"""Owns who the operators are, who of them is online, and the counters that consoles see.

Counters and people are decided in transactions; here the newest revision is kept and told, at most ten times a second.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import assert_never

import attrs
import trio

from actorchat.actors import Actor
from actorchat.chat.feed import Console
from actorchat.chat.model import OperatorCounters, PersonRecord, SourceCounters
from actorchat.chat.ports import Archive, OperatorRecord, StorageUnavailable
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
"""Seconds after which a change of presence that storage could not take is tried again."""


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
    """A console is live; its snapshot showed these counters."""

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
)


@attrs.define(eq=False)
class _Operator:
    person: PersonRecord
    counters: OperatorCounters
    storing: bool = False


@attrs.define(eq=False)
class _View:
    """What one console was told of its sources, and what it still has to be told."""

    unread: dict[str, SourceCounters]
    operators: set[int] = attrs.Factory(set)
    global_due: bool = False


class Consoles:
    """Who is connected. It outlives the directory's incarnations; joining and leaving are synchronous."""

    def __init__(self) -> None:
        self.views: dict[Console, _View] = {}
        self._of_operator: Counter[int] = Counter()

    def join(self, console: Console, counters: Iterable[SourceCounters]) -> None:
        """The console is live; its snapshot showed `counters`."""
        unread = {source: SourceCounters(source) for source in console.sources}
        unread.update({counter.source: counter for counter in counters})
        self.views[console] = _View(unread)
        self._of_operator[console.session.user.id] += 1

    def leave(self, console: Console) -> bool:
        """Whether it was its operator's last one. A console that never joined is nobody's."""
        if self.views.pop(console, None) is None:
            return False
        operator_id = console.session.user.id
        self._of_operator[operator_id] -= 1
        if self._of_operator[operator_id]:
            return False
        del self._of_operator[operator_id]
        return True

    def connected(self, operator_id: int) -> bool:
        return operator_id in self._of_operator


class Directory(Actor[DirectoryMessage]):
    """The one actor that knows all operators. It holds a record per operator, and none per visitor or chat.

    `store_presence(operator_id, online)` commits the passage, and before `online=False` returns the operator's chats
    to the queue; what it returns or raises comes back as a message.
    """

    def __init__(
        self,
        archive: Archive,
        store_presence: Callable[[int, bool], Awaitable[PersonRecord]],
        consoles: Consoles,
    ) -> None:
        self._archive, self._store_presence = archive, store_presence
        self._consoles = consoles
        self._operators: dict[int, _Operator] = {}
        self._sources: dict[str, SourceCounters] = {}
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
        for record in await self._archive.operators(None):
            operator_id = record.person.user.id
            self._operators[operator_id] = _Operator(record.person, record.counters)
            connected = self._consoles.connected(operator_id)
            if connected and not record.person.online:
                self._store(operator_id, online=True)
            elif record.person.online and not connected:
                self._start_grace(operator_id)
        if self._consoles.views:
            await self._resume()

    async def _resume(self) -> None:
        """An incarnation crashed: tell the consoles that are there what it may not have told."""
        sources = frozenset().union(*(console.sources for console in self._consoles.views))
        snapshot = await self._archive.feed_snapshot(sources, 0)
        for counter in snapshot.counters:
            self._count(counter)
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
                if not self._consoles.connected(operator_id):
                    self._store(operator_id, online=False)
            case _StoreOnline(operator_id=operator_id):
                if self._consoles.connected(operator_id) and not self._operators[operator_id].person.online:
                    self._store(operator_id, online=True)
            case _PresenceStored(person=person):
                self._stored(person)
            case _PresenceFailed(operator_id=operator_id, error=error):
                self._retry(operator_id, error)
            case _:
                assert_never(message)
        self._tell()

    # Counters

    def _count(self, counter: OperatorCounters | SourceCounters) -> None:
        if isinstance(counter, SourceCounters):
            known = self._sources.get(counter.source)
            if known is None or counter.rev > known.rev:
                self._sources[counter.source] = counter
                for view in self._consoles.views.values():
                    if counter.source in view.unread:
                        self._count_unread(view, counter)
            return
        operator = self._operators.get(counter.operator_id)
        if operator is not None and counter.rev > operator.counters.rev:
            operator.counters = counter
            self._operator_due(operator)

    def _count_unread(self, view: _View, counter: SourceCounters) -> None:
        known = view.unread[counter.source]
        if counter.rev > known.rev:
            view.unread[counter.source] = counter
            view.global_due = view.global_due or counter.unread_chats != known.unread_chats

    def _operator_due(self, operator: _Operator) -> None:
        for console, view in self._consoles.views.items():
            if not console.sources.isdisjoint(operator.person.sources):
                view.operators.add(operator.person.user.id)

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
            events: list[Event] = [self._event(operator_id) for operator_id in sorted(view.operators)]
            if view.global_due:
                events.append(GlobalUpdated(sum(each.unread_chats for each in view.unread.values())))
            view.operators.clear()
            view.global_due = False
            console.session.push(Frames.of([encode_event(event, Profile.STRICT) for event in events]))

    def _event(self, operator_id: int) -> OperatorUpdated:
        operator = self._operators[operator_id]
        return operator_event(OperatorRecord(operator.person, operator.counters))

    # Consoles and people

    def _joined(self, message: ConsoleJoined) -> None:
        console = message.console
        # The snapshot may be ahead of what rooms have announced.
        for counter in message.counters:
            self._count(counter)
        for each in message.operators:
            self._count(each.counters)
        view = self._consoles.views.get(console)
        if view is None:
            return
        for source in console.sources:
            known = self._sources.get(source)
            if known is not None:
                self._count_unread(view, known)
        shown = {record.person.user.id: record for record in message.operators}
        for operator_id, operator in self._operators.items():
            record = shown.get(operator_id)
            stale = record is None or (record.person, record.counters) != (operator.person, operator.counters)
            if stale and not console.sources.isdisjoint(operator.person.sources):
                view.operators.add(operator_id)
        own = self._operators.get(console.session.user.id)
        if own is not None and not own.person.online:
            self._store(console.session.user.id, online=True)

    def _seen(self, person: PersonRecord) -> None:
        operator = self._operators.get(person.user.id)
        if operator is None:
            operator = self._operators[person.user.id] = _Operator(person, OperatorCounters(person.user.id))
        else:
            # Presence has its own message: this one may be older.
            operator.person = attrs.evolve(person, online=operator.person.online)
        self._operator_due(operator)

    def _start_grace(self, operator_id: int) -> None:
        self.after(OFFLINE_GRACE, _GraceOver(operator_id), key=("grace", operator_id))

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
        if operator.person.online is not person.online:
            operator.person = attrs.evolve(operator.person, online=person.online)
            self._operator_due(operator)
        # It may have come or gone while its presence was stored.
        connected = self._consoles.connected(operator_id)
        if person.online and not connected:
            self._start_grace(operator_id)
        elif connected and not person.online:
            self._store(operator_id, online=True)

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
