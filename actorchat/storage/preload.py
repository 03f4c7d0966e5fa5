"""Owns what rows a batch must have loaded before it can be decided. Pure; knows no SQL."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import attrs

from actorchat.chat.model import ChatState
from actorchat.chat.operations import (
    AddMessage,
    EndLeaving,
    ExpireChat,
    ExpireUploads,
    MarkMessage,
    Operation,
    RecordPerson,
    RecordUpload,
    RefreshPeople,
    RefuseMessage,
    ReleaseChat,
    ReserveChat,
    SetOnline,
    SweepChat,
    TransferChat,
)
from actorchat.protocol import User
from actorchat.storage.row_cache import PersonKey, RowCache, person_key

__all__ = ["Preload", "missing_chats", "missing_rest", "reservations"]


@attrs.define(eq=False)
class Preload:
    """Rows that are not known yet, by key; `keys` asks for an author's recent idempotency keys in a chat."""

    people: set[PersonKey] = attrs.Factory(set)
    operators: set[int] = attrs.Factory(set)
    sources: set[str] = attrs.Factory(set)
    keys: set[tuple[UUID, PersonKey]] = attrs.Factory(set)
    marked: set[int] = attrs.Factory(set)
    uploads: set[UUID] = attrs.Factory(set)


def missing_chats(operations: Iterable[Operation], rows: RowCache) -> set[UUID]:
    """The chats that `operations` name and `rows` lacks, existing or not."""
    chats = rows.chats
    return {
        operation.chat
        for operation in operations
        if not isinstance(operation, RecordPerson | SetOnline | EndLeaving | RecordUpload | ExpireUploads)
        and operation.chat not in chats
    }


def reservations(operations: Iterable[Operation]) -> set[tuple[int, str]]:
    """(owner id, source) whose chats that are not closed must be known, all of them."""
    return {(operation.owner.id, operation.source) for operation in operations if isinstance(operation, ReserveChat)}


def missing_rest(operations: Iterable[Operation], rows: RowCache) -> Preload:
    """What else is missing, once the chats are there. Only rows that a decision may look at are asked for."""
    needs = Preload()
    people, chats = rows.people, rows.chats
    for operation in operations:
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
            if isinstance(operation, AddMessage):
                needs.uploads.update(operation.attachments)
            continue
        _add_for_chat(needs, rows, row.state)
        message = operation.message if isinstance(operation, RefuseMessage) else operation
        if isinstance(message, AddMessage):
            if message.client_id is not None and row.state.next_index:
                author = person_key(message.author)
                if author not in row.keys:
                    needs.keys.add((message.chat, author))
            if message.attachments:
                needs.uploads.update(message.attachments)
        elif isinstance(operation, MarkMessage):
            needs.marked.add(operation.message_id)
        elif isinstance(operation, TransferChat):
            needs.people.add((True, operation.to))
            needs.operators.add(operation.to)
    return needs


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
    """Who may end up in a chat, a message or a profile by it. Marks and refusals leave no trace of who made them."""
    match operation:
        case AddMessage(author=user) | RecordPerson(user=user) | ReserveChat(owner=user):
            return user
        case (
            RefuseMessage()
            | MarkMessage()
            | ReleaseChat()
            | SweepChat()
            | ExpireChat()
            | RefreshPeople()
            | SetOnline()
            | EndLeaving()
            | RecordUpload()
            | ExpireUploads()
        ):
            return None
        case _:
            return operation.by
