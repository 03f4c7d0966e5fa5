"""Owns the committed rows that a batch is decided on, as far as they are in memory.

Knows no SQL and decides nothing. For the memory store they are everything there is; for a SQL store a bounded
cache, filled before each batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol, TypeVar
from uuid import UUID

import attrs
from msgspec.structs import replace

from actorchat.chat.model import ChatState, OperatorCounters, PersonRecord, SourceCounters, StoredMessage, Upload
from actorchat.chat.rules import MarkedMessage
from actorchat.protocol import Role, User

__all__ = [
    "KEY_HORIZON",
    "ChatRow",
    "Messages",
    "PersonKey",
    "RecentKeys",
    "RowCache",
    "cut_page",
    "person_key",
    "with_known_people",
]

KEY_HORIZON: Final = 256
"""A `client_id` is remembered among this many of its author's newest in that chat."""

# About 20 MB of chats with their people, and 30 MB of keys.
_MAX_CACHED: Final = 16_384
_MAX_CACHED_KEYS: Final = 200_000

T = TypeVar("T")
V = TypeVar("V")


def cut_page(messages: Iterable[StoredMessage], limit: int, size: float) -> tuple[list[StoredMessage], bool]:
    """The first `limit` messages, or as few as have `size` bytes of text, one at least; and whether more follow.

    At most one message more than that is looked at.
    """
    taken: list[StoredMessage] = []
    for message in messages:
        if len(taken) >= limit or (taken and size <= 0):
            return taken, True
        taken.append(message)
        size -= len(message.text) if message.text.isascii() else len(message.text.encode())
    return taken, False


PersonKey = tuple[bool, int]
"""(is an operator, id): an `Identity` that hashes without Python code, looked up several times a message."""


def person_key(user: User) -> PersonKey:
    return user.role is Role.OPERATOR, user.id


class RecentKeys:
    """One author's newest idempotency keys in one chat, each with the index of its message."""

    __slots__ = ("_entries", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._entries: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, client_id: str) -> int | None:
        """The index of the message with that key, if it is among the last `KEY_HORIZON`."""
        entry = self._entries.get(client_id)
        return None if entry is None or entry[0] < self.count - KEY_HORIZON else entry[1]

    def get(self, client_id: str) -> tuple[int, int] | None:
        """(place among all keys ever added, message index)."""
        return self._entries.get(client_id)

    def add(self, added: Mapping[str, tuple[int, int]], count: int) -> None:
        """Add keys, the oldest first, as `get` tells them; `count` is the place that the next one would
        get.
        """
        entries = self._entries
        for client_id, entry in added.items():
            entries.pop(client_id, None)
            entries[client_id] = entry
        self.count = count
        while entries[oldest := next(iter(entries))][0] < count - KEY_HORIZON:
            del entries[oldest]


class ChatRow:
    """One chat as committed. `number` is its key inside the store; `keys` holds those authors' that are
    known.
    """

    __slots__ = ("keys", "number", "state")

    def __init__(self, number: int, state: ChatState) -> None:
        self.number: int = number
        self.state: ChatState = state
        self.keys: dict[PersonKey, RecentKeys] = {}


class Messages(Protocol):
    """The committed messages that a decision may ask for."""

    def at(self, row: ChatRow, index: int) -> StoredMessage:
        """The chat's message with that index, which exists."""

    def find(self, row: ChatRow, message_id: int) -> MarkedMessage | None:
        """The chat's message with that id, None if it is not this chat's or does not exist."""


@attrs.define(eq=False)
class RowCache:
    """Committed rows. What is missing here is missing in storage, or was not loaded because no operation
    needs it.

    `owned` lists chats by (owner id, source); closed ones may be among them. The users inside `chats` may
    have older profiles than `people`: see `with_known_people`.
    """

    chats: dict[UUID, ChatRow] = attrs.Factory(dict)
    people: dict[PersonKey, PersonRecord] = attrs.Factory(dict)
    operators: dict[int, OperatorCounters] = attrs.Factory(dict)
    sources: dict[str, SourceCounters] = attrs.Factory(dict)
    owned: dict[tuple[int, str], list[UUID]] = attrs.Factory(dict)
    uploads: dict[UUID, Upload] = attrs.Factory(dict)
    next_message_id: int = 1
    key_count: int = 0

    def is_new_key(self, chat: UUID, author: PersonKey, client_id: str) -> bool:
        """Whether these rows alone tell that the author has no message with that `client_id` in `chat`."""
        row = self.chats.get(chat)
        if row is None:
            return False
        if not row.state.next_index:
            return True
        known = row.keys.get(author)
        return known is not None and known.find(client_id) is None

    def clear(self) -> None:
        for table in (self.chats, self.people, self.operators, self.sources, self.owned, self.uploads):
            table.clear()
        self.key_count = 0

    def trim(self) -> None:
        """Forget the rows that were loaded first, so far as there are more than a cache should hold."""
        _trim(self.people, _MAX_CACHED)
        _trim(self.operators, _MAX_CACHED)
        _trim(self.sources, _MAX_CACHED)
        while len(self.chats) > _MAX_CACHED or self.key_count > _MAX_CACHED_KEYS:
            row = self.chats.pop(next(iter(self.chats)))
            self.key_count -= sum(map(len, row.keys.values()))


def _trim(table: dict[T, V], limit: int) -> None:
    while len(table) > limit:
        del table[next(iter(table))]


def with_known_people(chat: ChatState, owner: PersonRecord | None, operator: PersonRecord | None) -> ChatState:
    """`chat` with its people as they are stored now."""
    stale_owner = owner is not None and owner.user is not chat.owner
    stale_operator = operator is not None and operator.user is not chat.operator
    if not stale_owner and not stale_operator:
        return chat
    return replace(
        chat,
        owner=owner.user if owner is not None else chat.owner,
        operator=operator.user if operator is not None else chat.operator,
    )
