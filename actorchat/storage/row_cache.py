"""Keeps in memory the committed rows that batches are decided on.

The memory store has all its rows here. For a SQL store this is a bounded cache, filled before each batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, Protocol, TypeVar
from uuid import UUID

import attrs
from msgspec.structs import replace

from actorchat.chat.accounts import Account, LoginSession
from actorchat.chat.blocks import Block
from actorchat.chat.documents import DocumentKey
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
    "trim_table",
    "with_known_people",
]

KEY_HORIZON: Final = 256
"""The number of an author's newest `client_id`s in a chat that are remembered."""

# About 20 MB of chats with their people, and 30 MB of keys.
_MAX_CACHED: Final = 16_384
_MAX_CACHED_KEYS: Final = 200_000

T = TypeVar("T")
V = TypeVar("V")


def cut_page(messages: Iterable[StoredMessage], limit: int, size: float) -> tuple[list[StoredMessage], bool]:
    """The first messages, and whether more follow.

    At most `limit` messages are returned, and none after the one that makes up `size` bytes of text. At most one more
    message is read.
    """
    taken: list[StoredMessage] = []
    for message in messages:
        if len(taken) >= limit or (taken and size <= 0):
            return taken, True
        taken.append(message)
        size -= len(message.text) if message.text.isascii() else len(message.text.encode())
    return taken, False


PersonKey = tuple[bool, int]
"""(is an operator, id). Used instead of `Identity` for look-ups on each message, because making it is cheaper."""


def person_key(user: User) -> PersonKey:
    return user.role is Role.OPERATOR, user.id


class RecentKeys:
    """One author's newest idempotency keys in one chat.

    `entries` has, for each key, its number among all keys of the author and the index of its message. `count` is the
    number of the next key.
    """

    __slots__ = ("count", "entries")

    def __init__(self) -> None:
        self.count: int = 0
        self.entries: dict[str, tuple[int, int]] = {}

    def find(self, client_id: str) -> int | None:
        """The index of the message with that key, if it is among the last `KEY_HORIZON`."""
        entry = self.entries.get(client_id)
        return None if entry is None or entry[0] < self.count - KEY_HORIZON else entry[1]

    def add(self, added: Mapping[str, tuple[int, int]], count: int) -> None:
        """Add entries, the oldest first. `count` is the number of the next key."""
        entries = self.entries
        for client_id, entry in added.items():
            entries.pop(client_id, None)
            entries[client_id] = entry
        self.count = count
        while entries[oldest := next(iter(entries))][0] < count - KEY_HORIZON:
            del entries[oldest]


class ChatRow:
    """One chat as committed. `number` is its key in the store; `keys` has the authors whose keys are loaded."""

    __slots__ = ("keys", "number", "state")

    def __init__(self, number: int, state: ChatState) -> None:
        self.number: int = number
        self.state: ChatState = state
        self.keys: dict[PersonKey, RecentKeys] = {}


class Messages(Protocol):
    """Reads the committed messages that a decision needs."""

    def at(self, row: ChatRow, index: int) -> StoredMessage:
        """The chat's message with that index, which exists."""

    def find(self, row: ChatRow, message_id: int) -> MarkedMessage | None:
        """The chat's message with that id, None if this chat has none."""

    def files(self, row: ChatRow) -> tuple[UUID, ...]:
        """The files of all messages of the chat."""


@attrs.define(eq=False)
class RowCache:
    """Committed rows. A row that is missing here is missing in storage, or no operation needed it yet.

    All accounts, sign-in sessions and blocks are here. `owned` lists chats by (owner id, source), possibly with closed
    ones. The users in `chats` may have older profiles than those in `people`: see `with_known_people`.
    """

    chats: dict[UUID, ChatRow] = attrs.Factory(dict)
    people: dict[PersonKey, PersonRecord] = attrs.Factory(dict)
    operators: dict[int, OperatorCounters] = attrs.Factory(dict)
    sources: dict[str, SourceCounters] = attrs.Factory(dict)
    owned: dict[tuple[int, str], list[UUID]] = attrs.Factory(dict)
    uploads: dict[UUID, Upload] = attrs.Factory(dict)
    documents: dict[DocumentKey, str] = attrs.Factory(dict)
    accounts: dict[int, Account] = attrs.Factory(dict)
    sessions: dict[str, LoginSession] = attrs.Factory(dict)
    blocks: dict[int, Block] = attrs.Factory(dict)
    next_message_id: int = 1
    key_count: int = 0

    def is_new_key(self, chat: UUID, author: PersonKey, client_id: str) -> bool:
        """Whether these rows alone prove that the author has no message with that `client_id` in `chat`."""
        row = self.chats.get(chat)
        if row is None:
            return False
        if not row.state.next_index:
            return True
        known = row.keys.get(author)
        return known is not None and known.find(client_id) is None

    def forget_chat(self, chat: UUID) -> None:
        """Forget the row of a chat, with its keys."""
        row = self.chats.pop(chat, None)
        if row is not None:
            self.key_count -= sum(len(known.entries) for known in row.keys.values())

    def clear(self) -> None:
        for table in (self.chats, self.people, self.operators, self.sources, self.owned, self.uploads, self.documents):
            table.clear()
        self.accounts.clear()
        self.sessions.clear()
        self.blocks.clear()
        self.key_count = 0

    def trim(self) -> None:
        """Forget the rows that were loaded first until the cache is within its bounds."""
        trim_table(self.people, _MAX_CACHED)
        trim_table(self.operators, _MAX_CACHED)
        trim_table(self.sources, _MAX_CACHED)
        while len(self.chats) > _MAX_CACHED or self.key_count > _MAX_CACHED_KEYS:
            self.forget_chat(next(iter(self.chats)))


def trim_table(table: dict[T, V], limit: int) -> None:
    """Delete the entries that were added first until `limit` are left."""
    surplus = len(table) - limit
    if surplus > 0:
        for key in list(islice(table, surplus)):
            del table[key]


def with_known_people(chat: ChatState, owner: PersonRecord | None, operator: PersonRecord | None) -> ChatState:
    """`chat` with the current profiles of its owner and operator."""
    stale_owner = owner is not None and owner.user is not chat.owner
    stale_operator = operator is not None and operator.user is not chat.operator
    if not stale_owner and not stale_operator:
        return chat
    return replace(
        chat,
        owner=owner.user if owner is not None else chat.owner,
        operator=operator.user if operator is not None else chat.operator,
    )
