"""Finds out which rows have to be loaded before a batch can be decided. Pure functions without SQL."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import attrs

from actorchat.chat.model import ChatState
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    CloseChat,
    EndLeaving,
    ExpireUploads,
    MarkMessage,
    Operation,
    RecordPerson,
    RecordUpload,
    RefuseMessage,
    ReopenChat,
    ReserveChat,
    ReturnChat,
    SetOnline,
    TransferChat,
)
from actorchat.protocol import User
from actorchat.storage.row_cache import PersonKey, RowCache, person_key

__all__ = ["Preload", "missing_chats", "missing_rest", "reservations"]


@attrs.define(eq=False)
class Preload:
    """The keys of rows that are not in the cache. `keys` has the authors and chats of idempotency keys."""

    people: set[PersonKey] = attrs.Factory(set)
    operators: set[int] = attrs.Factory(set)
    sources: set[str] = attrs.Factory(set)
    keys: set[tuple[UUID, PersonKey]] = attrs.Factory(set)
    marked: set[int] = attrs.Factory(set)
    uploads: set[UUID] = attrs.Factory(set)


def missing_chats(operations: Iterable[Operation], rows: RowCache) -> set[UUID]:
    """The chats of `operations` that are not in `rows`, whether or not they exist."""
    chats = rows.chats
    return {
        operation.chat
        for operation in operations
        if not isinstance(operation, (RecordPerson, SetOnline, EndLeaving, RecordUpload, ExpireUploads))
        and operation.chat not in chats
    }


def reservations(operations: Iterable[Operation]) -> set[tuple[int, str]]:
    """The pairs (owner id, source) whose chats have to be loaded, unless they are closed."""
    return {(operation.owner.id, operation.source) for operation in operations if isinstance(operation, ReserveChat)}


def missing_rest(operations: Iterable[Operation], rows: RowCache) -> Preload:
    """The other rows that decisions need and `rows` lacks. The chats have to be loaded before."""
    needs = Preload()
    people, chats = rows.people, rows.chats
    for operation in operations:
        message = operation.message if isinstance(operation, RefuseMessage) else operation
        if isinstance(message, AddMessage):
            _add_for_message(needs, rows, message, refused=message is not operation)
            continue
        user = _acting(operation)
        if user is not None:
            person = person_key(user)
            if person not in people:
                needs.people.add(person)
            if person[0] and user.id not in rows.operators:
                needs.operators.add(user.id)
        if isinstance(operation, RecordPerson):
            continue
        if isinstance(operation, RecordUpload):
            needs.uploads.add(operation.upload.file.uuid)
            continue
        if isinstance(operation, ExpireUploads):
            needs.uploads.update(operation.files)
            continue
        if isinstance(operation, SetOnline | EndLeaving):
            if (True, operation.operator_id) not in people:
                needs.people.add((True, operation.operator_id))
            if operation.operator_id not in rows.operators:
                needs.operators.add(operation.operator_id)
            continue
        if isinstance(operation, ReserveChat):
            if operation.source not in rows.sources:
                needs.sources.add(operation.source)
            for uuid in rows.owned.get((operation.owner.id, operation.source), ()):
                _add_for_chat(needs, rows, chats[uuid].state)
        row = chats.get(operation.chat)
        if row is None:
            continue
        _add_for_chat(needs, rows, row.state)
        if isinstance(operation, MarkMessage):
            needs.marked.add(operation.message_id)
        elif isinstance(operation, TransferChat):
            needs.people.add((True, operation.to))
            needs.operators.add(operation.to)
    return needs


def _add_for_message(needs: Preload, rows: RowCache, message: AddMessage, *, refused: bool) -> None:
    author, row = person_key(message.author), rows.chats.get(message.chat)
    if message.attachments:
        needs.uploads.update(message.attachments)
    # A refused message stores no author.
    if not refused:
        if author not in rows.people:
            needs.people.add(author)
        if author[0] and author[1] not in rows.operators:
            needs.operators.add(author[1])
    if row is not None:
        _add_for_chat(needs, rows, row.state)
        if message.client_id is not None and row.state.next_index and author not in row.keys:
            needs.keys.add((message.chat, author))


def _add_for_chat(needs: Preload, rows: RowCache, chat: ChatState) -> None:
    owner = person_key(chat.owner)
    if owner not in rows.people:
        needs.people.add(owner)
    if chat.source not in rows.sources:
        needs.sources.add(chat.source)
    if chat.operator is not None:
        operator = person_key(chat.operator)
        if operator not in rows.people:
            needs.people.add(operator)
        if chat.operator.id not in rows.operators:
            needs.operators.add(chat.operator.id)


def _acting(operation: Operation) -> User | None:
    """The user whose profile the operation may store; None for marks, and for messages, which are handled apart."""
    match operation:
        case RecordPerson(user=user) | ReserveChat(owner=user) | AcceptChat(by=user) | CloseChat(by=user):
            return user
        case ReopenChat(by=user) | TransferChat(by=user) | ReturnChat(by=user):
            return user
        case _:
            return None
