"""Removes events of a room that are repeated after a reconnect, and adds those that were missed."""

from typing import Final

import attrs
from cachetools import LRUCache

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
"""How many messages' indexes and edits are remembered. An older edit may be reported again after a reconnect."""

_UserKey = tuple[Role, int]


@attrs.define(eq=False)
class EventDeduplicator:
    """Filters the events of all sockets of one room connection.

    ``last_index`` is the index of the newest message reported, None before the first. A resumed socket starts with a
    replay, whose last event is `ChatUpdated`; the events after it are live.
    """

    last_index: int | None
    _replaying: bool = attrs.field(default=False, init=False)
    _chat: Chat | None = attrs.field(default=None, init=False)
    _receipts: dict[Role, Receipts] = attrs.field(factory=dict, init=False)
    _present: dict[_UserKey, User] = attrs.field(factory=dict, init=False)
    _confirmed: set[_UserKey] = attrs.field(factory=set, init=False)
    """Users whom the current socket has reported as connected."""
    _typing: dict[_UserKey, TypingUpdated] = attrs.field(factory=dict, init=False)
    _edits: LRUCache[int, Message] = attrs.field(factory=lambda: LRUCache(REMEMBERED), init=False)
    _indexes: LRUCache[int, int] = attrs.field(factory=lambda: LRUCache(REMEMBERED), init=False)

    @property
    def replaying(self) -> bool:
        """Whether the socket's replay has not ended yet."""
        return self._replaying

    def index_of(self, message_id: int) -> int | None:
        """The index of a recently seen message, else None."""
        return self._indexes.get(message_id)

    def socket_opened(self, *, resumed: bool) -> None:
        """Start filtering a new socket; ``resumed`` says that it starts with a replay from ``last_index``."""
        self._replaying = resumed
        self._confirmed.clear()

    def socket_lost(self) -> tuple[Event, ...]:
        """Return an event for each user who was typing that says that they stopped."""
        stops = tuple(attrs.evolve(typing, text="", stopped=True) for typing in self._typing.values())
        self._typing.clear()
        return stops

    def has_reported(self, index: int) -> bool:
        """Whether the message with this index has come before."""
        return self.last_index is not None and index <= self.last_index

    def would_leave_gap(self, index: int) -> bool:
        """Whether messages before this index may not have been reported yet."""
        return self.last_index is None or index > self.last_index + 1

    def filter(self, event: Event) -> tuple[Event, ...]:
        """Return the events to report: none if this one is a repeat, several if it implies others."""
        match event:
            case MessageAdded(message):
                return self._message_added(event, message)
            case MessageUpdated(message):
                return self._message_updated(event, message)
            case UserConnected(user):
                self._confirmed.add(_user_key(user))
                known = self._present.get(_user_key(user))
                self._present[_user_key(user)] = user
                return () if known == user else (event,)
            case UserDisconnected(user):
                return (event,) if self._present.pop(_user_key(user), None) else ()
            case TypingUpdated(user=user, stopped=stopped):
                if stopped:
                    self._typing.pop(_user_key(user), None)
                else:
                    self._typing[_user_key(user)] = event
                return (event,)
            case Receipts(role=role):
                is_repeat = self._receipts.get(role) == event
                self._receipts[role] = event
                return () if is_repeat else (event,)
            case ResyncRequired():
                self._forget_history()
                return (event,)
            case ChatUpdated(chat):
                return self._chat_updated(event, chat)
            case _:
                return (event,)

    def _message_added(self, event: MessageAdded, message: Message) -> tuple[Event, ...]:
        if self.has_reported(message.message_index):
            return ()
        self.last_index = message.message_index
        self._indexes[message.id] = message.message_index
        return (event,)

    def _message_updated(self, event: MessageUpdated, message: Message) -> tuple[Event, ...]:
        if self._edits.get(message.id) == message:
            return ()
        self._edits[message.id] = message
        return (event,)

    def _forget_history(self) -> None:
        """Forget messages and receipts, because a different history follows; presence does not change."""
        self.last_index, self._chat = -1, None
        self._receipts.clear()
        self._edits.clear()
        self._indexes.clear()

    def _chat_updated(self, event: ChatUpdated, chat: Chat) -> tuple[Event, ...]:
        is_repeat = self._chat == chat
        self._chat = chat
        events: tuple[Event, ...] = () if is_repeat else (event,)
        if not self._replaying:
            return events
        self._replaying = False
        # The replay has reported everyone who is present; the others left between the two sockets.
        gone = [key for key in self._present if key not in self._confirmed]
        return (*(UserDisconnected(self._present.pop(key)) for key in gone), *events)


def _user_key(user: User) -> _UserKey:
    return user.role, user.id
