"""Has the reads of stores whose rows a SQL cursor reads: each one in a transaction of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from uuid import UUID

from actorchat.chat.accounts import Account
from actorchat.chat.blocks import Block
from actorchat.chat.documents import DocumentKind
from actorchat.chat.model import ChatState, Identity, PersonRecord, Retention, StoredMessage, Upload
from actorchat.chat.ports import PAGE_BYTES, ChatFilter, ChatPage, FeedSnapshot, OperatorRecord, Page, SummaryRecord
from actorchat.chat.privacy import AuditEntry
from actorchat.protocol import Role
from actorchat.storage.sql_reads import SqlReads
from actorchat.storage.store import RemovedChat, SearchableMessage, SearchablePerson

__all__ = ["StoredReads"]


class StoredReads(ABC):
    """`actorchat.storage.store.Reads` without `probe`."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[SqlReads]:
        """A snapshot, which no other thread uses during the block."""

    def chat(self, chat: UUID) -> ChatState | None:
        with self._reading() as reads:
            return reads.chat(chat)

    def newest(self, chat: UUID, role: Role, *, before: int | None, limit: int, size: int = PAGE_BYTES) -> Page | None:
        with self._reading() as reads:
            return reads.newest(chat, role, before=before, limit=limit, size=size)

    def after(self, chat: UUID, role: Role, *, after: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        with self._reading() as reads:
            return reads.after(chat, role, after=after, limit=limit, size=size)

    def since(self, chat: UUID, *, rev: int, limit: int) -> Page | None:
        with self._reading() as reads:
            return reads.since(chat, rev=rev, limit=limit)

    def authored(
        self, chat: UUID, author_role: Role, *, after: int, upto: int, limit: int, size: int = PAGE_BYTES
    ) -> Page | None:
        with self._reading() as reads:
            return reads.authored(chat, author_role, after=after, upto=upto, limit=limit, size=size)

    def edited(self, chat: UUID, *, rev: int, limit: int, size: int = PAGE_BYTES) -> Page | None:
        with self._reading() as reads:
            return reads.edited(chat, rev=rev, limit=limit, size=size)

    def located(self, message_id: int) -> tuple[UUID, int] | None:
        with self._reading() as reads:
            return reads.located(message_id)

    def chats(self, which: ChatFilter) -> ChatPage:
        with self._reading() as reads:
            return reads.chats(which)

    def summaries(self, chats: Collection[UUID]) -> tuple[SummaryRecord, ...]:
        with self._reading() as reads:
            return reads.summaries(chats)

    def person(self, identity: Identity) -> PersonRecord | None:
        with self._reading() as reads:
            return reads.person(identity)

    def people(self, identities: Collection[Identity]) -> tuple[PersonRecord, ...]:
        with self._reading() as reads:
            return reads.people(identities)

    def operators(self, sources: Collection[str] | None) -> tuple[OperatorRecord, ...]:
        with self._reading() as reads:
            return reads.operators(sources)

    def accounts(self) -> tuple[Account, ...]:
        with self._reading() as reads:
            return reads.accounts()

    def blocks(self) -> tuple[Block, ...]:
        with self._reading() as reads:
            return reads.blocks()

    def sources(self, limit: int) -> tuple[str, ...]:
        with self._reading() as reads:
            return reads.sources(limit)

    def tag_counts(self, sources: Collection[str], limit: int) -> tuple[tuple[str, int], ...]:
        with self._reading() as reads:
            return reads.tag_counts(sources, limit)

    def documents(self, kind: DocumentKind, scope: str) -> tuple[tuple[str, str], ...]:
        with self._reading() as reads:
            return reads.documents(kind, scope)

    def uploads(self, files: Collection[UUID]) -> tuple[Upload, ...]:
        with self._reading() as reads:
            return reads.uploads(files)

    def unbound_uploads(self, before: float, limit: int) -> tuple[UUID, ...]:
        with self._reading() as reads:
            return reads.unbound_uploads(before, limit)

    def past_retention(self, retention: Retention, now: float, limit: int) -> tuple[tuple[UUID, float], ...]:
        with self._reading() as reads:
            return reads.past_retention(retention, now, limit)

    def searchable(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        with self._reading() as reads:
            return reads.searchable(after, limit)

    def searchable_edits(self, after: int, limit: int) -> tuple[SearchableMessage, ...]:
        with self._reading() as reads:
            return reads.searchable_edits(after, limit)

    def removed_chats(self, after: int, limit: int) -> tuple[RemovedChat, ...]:
        with self._reading() as reads:
            return reads.removed_chats(after, limit)

    def people_after(self, after: Identity, limit: int) -> tuple[SearchablePerson, ...]:
        with self._reading() as reads:
            return reads.people_after(after, limit)

    def searchable_people(self, people: Collection[Identity]) -> tuple[SearchablePerson, ...]:
        with self._reading() as reads:
            return reads.searchable_people(people)

    def audits(self, before: int, limit: int) -> tuple[AuditEntry, ...]:
        with self._reading() as reads:
            return reads.audits(before, limit)

    def written_by(self, author: Identity, after: int, limit: int) -> tuple[tuple[UUID, int], ...]:
        with self._reading() as reads:
            return reads.written_by(author, after, limit)

    def uploads_of(self, uploader: Identity) -> tuple[UUID, ...]:
        with self._reading() as reads:
            return reads.uploads_of(uploader)

    def newest_number(self) -> int:
        with self._reading() as reads:
            return reads.newest_number()

    def found(self, messages: Sequence[int]) -> tuple[tuple[ChatState, StoredMessage], ...]:
        with self._reading() as reads:
            return reads.found(messages)

    def feed_snapshot(self, sources: Collection[str], limit: int) -> FeedSnapshot:
        with self._reading() as reads:
            return reads.feed_snapshot(sources, limit)

    def unused(self, before: float, limit: int) -> tuple[UUID, ...]:
        with self._reading() as reads:
            return reads.unused(before, limit)

    def due(self, now: float, limit: int) -> tuple[UUID, ...]:
        with self._reading() as reads:
            return reads.due(now, limit)
