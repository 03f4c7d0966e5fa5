"""Owns one unbroken story of a room over many sockets: what is new, what was told before, what is missing.

Refuses to know sockets, and what becomes of the events.
"""

from collections import OrderedDict
from typing import Final, TypeVar

import attrs

from actorchat.protocol.entities import Chat, Message, Role, User
from actorchat.protocol.events import (
    ChatUpdated,
    Event,
    MessageAdded,
    MessageUpdated,
    Receipts,
    ResyncRequired,
    TypingUpdated,
    UserConnected,
    UserDisconnected,
)

REMEMBERED: Final = 1024
"""Messages whose index or last edit is kept; older ones may be told again after a reconnect."""

T = TypeVar("T")
_Person = tuple[Role, int]


@attrs.define(eq=False)
class EventDeduplicator:
    """What a reader of the room has been told; ``last_index`` is the newest message's, None for none.

    A resumed socket begins with a replay that ends with the chat's state; until then nothing is live.
    """

    last_index: int | None
    _replaying: bool = attrs.field(default=False, init=False)
    _chat: Chat | None = attrs.field(default=None, init=False)
    _receipts: dict[Role, Receipts] = attrs.field(factory=dict, init=False)
    _present: dict[_Person, User] = attrs.field(factory=dict, init=False)
    _confirmed: set[_Person] = attrs.field(factory=set, init=False)
    _typing: dict[_Person, TypingUpdated] = attrs.field(factory=dict, init=False)
    _edits: OrderedDict[int, Message] = attrs.field(factory=OrderedDict, init=False)
    _indexes: OrderedDict[int, int] = attrs.field(factory=OrderedDict, init=False)

    @property
    def replaying(self) -> bool:
        """Whether what comes is still the past."""
        return self._replaying

    def index_of(self, message_id: int) -> int | None:
        """The index of a message seen lately, else None."""
        return self._indexes.get(message_id)

    def opened(self, *, resumed: bool) -> None:
        """A socket opened; ``resumed`` says that it asked for what comes after ``last_index``."""
        self._replaying = resumed
        self._confirmed.clear()

    def lost(self) -> tuple[Event, ...]:
        """The socket is gone: whoever was typing is taken to have stopped."""
        stops = tuple(attrs.evolve(typing, text="", stopped=True) for typing in self._typing.values())
        self._typing.clear()
        return stops

    def leaves_a_hole(self, index: int) -> bool:
        """Whether a message of that index may not directly follow what was told; at the start nobody knows."""
        return self.last_index is None or index > self.last_index + 1

    def take(self, event: Event) -> tuple[Event, ...]:
        """What the reader is told of an event: nothing when it knows it, more when others follow from it."""
        match event:
            case MessageAdded(message):
                return self._added(event, message)
            case MessageUpdated(message):
                return self._updated(event, message)
            case UserConnected(user):
                self._confirmed.add(_person(user))
                known = self._present.get(_person(user))
                self._present[_person(user)] = user
                return () if known == user else (event,)
            case UserDisconnected(user):
                return (event,) if self._present.pop(_person(user), None) else ()
            case TypingUpdated(user=user, stopped=stopped):
                if stopped:
                    self._typing.pop(_person(user), None)
                else:
                    self._typing[_person(user)] = event
                return (event,)
            case Receipts(role=role):
                told = self._receipts.get(role) == event
                self._receipts[role] = event
                return () if told else (event,)
            case ResyncRequired():
                self._forget()
                return (event,)
            case ChatUpdated(chat):
                return self._chat_is(event, chat)
            case _:
                return (event,)

    def _added(self, event: MessageAdded, message: Message) -> tuple[Event, ...]:
        if self.last_index is not None and message.message_index <= self.last_index:
            return ()
        self.last_index = message.message_index
        _remember(self._indexes, message.id, message.message_index)
        return (event,)

    def _updated(self, event: MessageUpdated, message: Message) -> tuple[Event, ...]:
        if self._edits.get(message.id) == message:
            return ()
        _remember(self._edits, message.id, message)
        return (event,)

    def _forget(self) -> None:
        """Another history follows. Who is present has nothing to do with it."""
        self.last_index, self._chat = -1, None
        self._receipts.clear()
        self._edits.clear()
        self._indexes.clear()

    def _chat_is(self, event: ChatUpdated, chat: Chat) -> tuple[Event, ...]:
        told = self._chat == chat
        self._chat = chat
        news: tuple[Event, ...] = () if told else (event,)
        if not self._replaying:
            return news
        self._replaying = False
        gone = [person for person in self._present if person not in self._confirmed]
        return (*(UserDisconnected(self._present.pop(person)) for person in gone), *news)


def _person(user: User) -> _Person:
    return user.role, user.id


def _remember(memory: OrderedDict[int, T], key: int, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)
