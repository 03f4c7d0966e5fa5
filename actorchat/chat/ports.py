"""Owns what the chat needs from others: a journal to decide, an archive to read, sessions to speak to.

Each is a few Protocols; `actorchat.testing` has the conformance check that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Protocol
from uuid import UUID

import attrs

from actorchat.chat.model import (
    ChatState,
    Identity,
    OperatorCounters,
    PersonRecord,
    SourceCounters,
    Stage,
    StoredMessage,
)
from actorchat.chat.operations import Operation, Outcome, ReplyTo
from actorchat.protocol import Frames, Operator, Profile, Role, User

__all__ = [
    "PAGE_BYTES",
    "ChatFilter",
    "ChatPage",
    "ChatReader",
    "FeedSnapshot",
    "Journal",
    "ListPlace",
    "OperatorRecord",
    "Page",
    "Recipient",
    "Session",
    "StorageUnavailable",
]


PAGE_BYTES: Final = 65_536
"""Bytes of text after which a page ends: 200 messages of ordinary length, but not 200 of 4,000 characters."""


class StorageUnavailable(Exception):  # noqa: N818 - a state of the storage, named as its wire code
    """Storage can't be read now. Nothing is lost; try again later."""


class Recipient(Protocol):
    """Who is told what became of submitted operations."""

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        """Takes outcomes in commit order: once per batch, each outcome exactly once. Never blocks, never raises."""


class Journal(Protocol):
    """Decides operations in the order of their submission, many in one transaction."""

    def submit(self, operation: Operation, recipient: Recipient, reply_to: ReplyTo | None = None) -> bool:
        """Queue `operation`. One `Outcome` with `reply_to` reaches `recipient` later, never within this call.

        False: too many operations are waiting, and this one was not taken. Never blocks. While storage is away the
        outcome is `Refused` with `storage_unavailable`; while a commit is in doubt there is none until it is known.
        """


@attrs.frozen
class Page:
    """Messages in ascending index order with the chat as it is now; `has_more` in the direction that was asked.

    A page has fewer messages than its limit, and `has_more`, if their texts reach the bytes that were asked for: it
    ends with the message that does, and so never is empty.
    """

    chat: ChatState
    messages: tuple[StoredMessage, ...]
    has_more: bool


@attrs.frozen
class ListPlace:
    """Where a list of chats goes on: after the chat that stood at `place` when the newest number was `start`."""

    start: int
    place: int


@attrs.frozen(kw_only=True)
class ChatFilter:
    """Which chats a list shows: newest activity first, reserved ones never. None = any.

    `before` continues a list. A `ListPlace` goes on in the order that the list had when the walk began, so moves in
    between hide no chat and show none twice. A chat's uuid goes on after that chat in the order of now; nothing comes
    after an unknown one.
    """

    sources: frozenset[str] | None = None
    stages: frozenset[Stage] | None = None
    operator_id: int | None = None
    owner_id: int | None = None
    before: UUID | ListPlace | None = None
    limit: int = 50


@attrs.frozen
class ChatPage:
    """A page of a list of chats; `next` is the `before` of the page that follows, None if this is the last one."""

    chats: tuple[ChatState, ...]
    next: ListPlace | None = None


@attrs.frozen
class OperatorRecord:
    person: PersonRecord
    counters: OperatorCounters

    def wire(self) -> Operator:
        return Operator(self.person.user, self.person.online, self.counters.new_chats, self.counters.open_chats)


@attrs.frozen
class FeedSnapshot:
    """One consistent reading: every operator of the sources, the counters, the chats not closed (newest last)."""

    operators: tuple[OperatorRecord, ...]
    counters: tuple[SourceCounters, ...]
    chats: tuple[ChatState, ...]


class ChatReader(Protocol):
    """Reads what was committed. Every method is one consistent reading and raises `StorageUnavailable` if it can't.

    `role` filters what that role may see, `size` bounds a page in bytes of UTF-8 text. Unknown chats: None or empty.
    """

    async def chat(self, chat: UUID) -> ChatState | None: ...

    async def newest(
        self, chat: UUID, role: Role, *, before: int | None, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        """The newest `limit` messages with an index below `before` (None: of all); `has_more` = older ones exist."""

    async def after(self, chat: UUID, role: Role, *, after: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        """The oldest `limit` messages with an index above `after`; `has_more` = newer ones exist."""

    async def since(self, chat: UUID, *, rev: int, limit: int) -> Page | None:
        """The oldest `limit` messages, for both roles, committed after revision `rev`."""

    async def authored(
        self, chat: UUID, author_role: Role, *, after: int, upto: int, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        """The oldest `limit` standard messages of that side with `after < index <= upto`."""

    async def chats(self, which: ChatFilter) -> ChatPage:
        """A page of a list. A walk from page to page by `next` shows each chat that matches throughout exactly once."""

    async def person(self, identity: Identity) -> PersonRecord | None: ...

    async def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        """Every operator who has at least one of these sources (None: all), by id."""

    async def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot: ...

    async def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        """Reserved chats that nothing was done with after `before` (epoch seconds), the longest unused first."""

    async def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        """Chats whose `due_at` has passed, the longest overdue first."""


class Session(Protocol):
    """One connected socket, as rooms and feeds see it. Its methods never block and never raise."""

    @property
    def user(self) -> User: ...

    @property
    def profile(self) -> Profile: ...

    def push(self, frames: Frames) -> None:
        """Send `frames` after everything pushed before. Who can't keep up loses typing first, then the socket."""

    def close(self, code: int, reason: str = "") -> None:
        """Send what was pushed, then close with `code`. Nothing follows; a second close does nothing."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes pushed that the peer's socket has not taken yet: replay is paced by it."""

    async def wait_drained(self) -> bool:
        """Return True when the backlog is small, False when the session is closed: nothing more reaches the peer.

        It does not wait for ever: a peer that takes nothing for long is closed.
        """

    def operation_done(self, flooding: bool = False) -> None:
        """An operation of this session was answered: it may have one more in flight.

        `flooding`: it sends more than it may, and a transport may let it wait, as it may whoever is refused at once.
        """
