"""The changes of a batch, and how they are applied to the cached rows after its commit."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import attrs
from msgspec.structs import replace

from actorchat.chat.accounts import Account, LoginSession
from actorchat.chat.blocks import Block
from actorchat.chat.documents import DocumentKey
from actorchat.chat.model import (
    ChatState,
    Contribution,
    OperatorCounters,
    PersonRecord,
    SourceCounters,
    StoredMessage,
    Upload,
)
from actorchat.chat.operations import ReplaceTag
from actorchat.chat.privacy import AuditEntry
from actorchat.protocol import User
from actorchat.storage.row_cache import KEY_HORIZON, ChatRow, PersonKey, RecentKeys, RowCache, person_key
from actorchat.storage.store import RemovedChat

__all__ = ["Changes", "Draft", "GivenChat", "NewKeys", "apply_changes"]


class NewKeys:
    """The idempotency keys that one author added to one chat in this batch, on top of the committed ones."""

    __slots__ = ("_committed", "added", "count")

    def __init__(self, committed: RecentKeys | None) -> None:
        self._committed: Mapping[str, tuple[int, int]] = {} if committed is None else committed.entries
        self.count: int = 0 if committed is None else committed.count
        self.added: dict[str, tuple[int, int]] = {}

    def find(self, client_id: str) -> int | None:
        """The index of the message with that key, if it is among the last `KEY_HORIZON`."""
        entry = self.added.get(client_id) or self._committed.get(client_id)
        if entry is None or entry[0] < self.count - KEY_HORIZON:
            return None
        return entry[1]

    def add(self, client_id: str, index: int) -> None:
        # Popped first, so that the newest keys come last.
        self.added.pop(client_id, None)
        self.added[client_id] = (self.count, index)
        self.count += 1


class Draft:
    """One chat during a batch: `before` is its state at the start, `state` the current one.

    A chat that the batch creates has no `row`; the store sets its `number` before storing it. `edited` has the changed
    messages by index, None for none. `given` is set if the batch gives the chat to another owner.
    """

    __slots__ = ("before", "edited", "given", "keys", "messages", "number", "row", "share", "state")

    def __init__(self, row: ChatRow | None, state: ChatState) -> None:
        self.row: ChatRow | None = row
        self.number: int = -1 if row is None else row.number
        self.before: ChatState = state
        self.state: ChatState = state
        self.share: Contribution | None = None
        self.messages: list[StoredMessage] = []
        self.edited: dict[int, StoredMessage] | None = None
        self.given: GivenChat | None = None
        self.keys: dict[PersonKey, NewKeys] = {}

    @property
    def changed(self) -> bool:
        """Whether the chat's row has to be stored. Using a reserved chat changes no revision."""
        return self.state.rev != self.before.rev or self.state.last_activity != self.before.last_activity


@attrs.frozen(eq=False)
class GivenChat:
    """A chat with all messages and `files` of the visitor `giver` belongs to `taker` now."""

    draft: Draft
    giver: int
    taker: User
    files: tuple[UUID, ...]


@attrs.define(eq=False)
class Changes:
    """The changes of a batch that have to be stored.

    `messages` are in commit order with ascending ids, as they were sent. `edits` are changes to these and to older ones
    in commit order, each with its place in the sequence of message ids. `moves` are places that chats got without a
    message. With each chat of `deleted` goes the record of its owner, if that is an anonymous visitor without another
    chat. `removed` has those that were closed; their messages, edits, moves and tags are deleted with them. `drafts`
    has the integers of UUIDs as keys, because a UUID hashes in Python code, for each message. `gone` has the integers
    of the chats in `deleted`, which may have been created anew. `uploads` has new and bound uploads, and None for
    deleted ones; `taken` has the chat and the message index of each bound one. `given` are chats with another owner,
    for after their messages are stored; `givers` maps visitors to those who get their files that no message has. `tags`
    has all tags of a chat, and is stored after `replaced_tags`. `sessions` and `blocks` have None for those that have
    ended.
    """

    drafts: dict[int, Draft] = attrs.Factory(dict)
    created: list[Draft] = attrs.Factory(list)
    deleted: list[Draft] = attrs.Factory(list)
    removed: list[RemovedChat] = attrs.Factory(list)
    gone: set[int] = attrs.Factory(set)
    messages: list[tuple[Draft, StoredMessage]] = attrs.Factory(list)
    edits: list[tuple[Draft, StoredMessage, int]] = attrs.Factory(list)
    moves: list[tuple[Draft, int]] = attrs.Factory(list)
    tags: list[tuple[Draft, tuple[str, ...]]] = attrs.Factory(list)
    replaced_tags: list[tuple[Draft, ReplaceTag]] = attrs.Factory(list)
    people: dict[PersonKey, PersonRecord] = attrs.Factory(dict)
    operators: dict[int, OperatorCounters] = attrs.Factory(dict)
    sources: dict[str, SourceCounters] = attrs.Factory(dict)
    uploads: dict[UUID, Upload | None] = attrs.Factory(dict)
    documents: dict[DocumentKey, str | None] = attrs.Factory(dict)
    taken: dict[UUID, tuple[Draft, int]] = attrs.Factory(dict)
    given: list[GivenChat] = attrs.Factory(list)
    givers: dict[int, User] = attrs.Factory(dict)
    accounts: dict[int, Account] = attrs.Factory(dict)
    audits: list[AuditEntry] = attrs.Factory(list)
    sessions: dict[str, LoginSession | None] = attrs.Factory(dict)
    blocks: dict[int, Block | None] = attrs.Factory(dict)
    next_message_id: int = 1

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to store."""
        if self.created or self.deleted or self.messages or self.people or self.operators or self.sources:
            return False
        if (
            self.uploads
            or self.givers
            or self.accounts
            or self.sessions
            or self.documents
            or self.audits
            or self.blocks
        ):
            return False
        return not any(draft.changed for draft in self.drafts.values())

    def put_person(self, key: PersonKey, person: PersonRecord, stored: PersonRecord | None) -> bool:
        """Store `person` in place of `stored`. Returns whether a known user has a new profile."""
        self.people[key] = person
        if stored is None or stored.user == person.user:
            return False
        for draft in self.drafts.values():
            state = draft.state
            if person_key(state.owner) == key:
                draft.state = replace(state, owner=person.user)
            elif state.operator is not None and person_key(state.operator) == key:
                draft.state = replace(state, operator=person.user)
        return True


def apply_changes(rows: RowCache, changes: Changes) -> None:
    """Apply committed changes to `rows`, except the deletion of owners' records."""
    for draft in changes.deleted:
        state = draft.before
        rows.forget_chat(state.uuid)
        pair = (state.owner.id, state.source)
        owned = rows.owned.get(pair, [])
        if state.uuid in owned:
            owned.remove(state.uuid)
        if not owned:
            rows.owned.pop(pair, None)
    for draft in changes.created:
        state = draft.state
        draft.row = rows.chats[state.uuid] = ChatRow(draft.number, state)
        rows.owned.setdefault((state.owner.id, state.source), []).append(state.uuid)
    for given in changes.given:
        _apply_gift(rows, given, created=given.draft in changes.created)
    for draft in changes.drafts.values():
        row = draft.row
        if row is None:
            raise AssertionError(f"chat {draft.state.uuid} is neither loaded nor created")
        row.state = draft.state
        for person, new in draft.keys.items():
            if new.added:
                known = row.keys.get(person)
                if known is None:
                    known = row.keys[person] = RecentKeys()
                before = len(known.entries)
                known.add(new.added, new.count)
                rows.key_count += len(known.entries) - before
    for key, text in changes.documents.items():
        if text is None:
            rows.documents.pop(key, None)
        else:
            rows.documents[key] = text
    rows.accounts.update(changes.accounts)
    for id_, session in changes.sessions.items():
        if session is None:
            rows.sessions.pop(id_, None)
        else:
            rows.sessions[id_] = session
    for block_id, block in changes.blocks.items():
        if block is None:
            rows.blocks.pop(block_id, None)
        else:
            rows.blocks[block_id] = block
    for uuid, upload in changes.uploads.items():
        if upload is None:
            rows.uploads.pop(uuid, None)
        else:
            rows.uploads[uuid] = upload
    rows.people.update(changes.people)
    rows.operators.update(changes.operators)
    rows.sources.update(changes.sources)
    rows.next_message_id = changes.next_message_id


def _apply_gift(rows: RowCache, given: GivenChat, *, created: bool) -> None:
    state, row = given.draft.state, given.draft.row
    if not created:
        giver, taker = (given.giver, state.source), (given.taker.id, state.source)
        owned = rows.owned.get(giver, [])
        if state.uuid in owned:
            owned.remove(state.uuid)
        if not owned:
            rows.owned.pop(giver, None)
        rows.owned.setdefault(taker, []).append(state.uuid)
    keys = None if row is None else row.keys.pop((False, given.giver), None)
    if row is not None and keys is not None:
        # Nobody but the owner of a chat has keys in it.
        row.keys[person_key(given.taker)] = keys
