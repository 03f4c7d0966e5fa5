"""Finds out which rows have to be loaded before a batch can be decided. Pure functions without SQL."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import attrs

from actorchat.chat.accounts import AccountOperation, AddAccount, ChangeAccount, OpenSession, SetAway, SignOut
from actorchat.chat.documents import ChangeDocument, DocumentKey, visit_of
from actorchat.chat.model import ChatState
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    CloseChat,
    EditMessage,
    EndLeaving,
    ExpireUploads,
    HandOver,
    MarkMessage,
    Operation,
    RecordPerson,
    RecordUpload,
    RedactMessage,
    RefuseMessage,
    ReopenChat,
    ReserveChat,
    ReturnChat,
    SetOnline,
    TransferChat,
)
from actorchat.chat.privacy import ErasePerson, RecordAudit
from actorchat.protocol import Role, User
from actorchat.storage.row_cache import PersonKey, RowCache, person_key

__all__ = ["Preload", "acting_user", "missing_chats", "missing_rest", "owners", "people_of"]


@attrs.define(eq=False)
class Preload:
    """The keys of rows that are not in the cache. `keys` has the authors and chats of idempotency keys."""

    people: set[PersonKey] = attrs.Factory(set)
    operators: set[int] = attrs.Factory(set)
    sources: set[str] = attrs.Factory(set)
    keys: set[tuple[UUID, PersonKey]] = attrs.Factory(set)
    marked: set[int] = attrs.Factory(set)
    uploads: set[UUID] = attrs.Factory(set)
    documents: set[DocumentKey] = attrs.Factory(set)


def missing_chats(operations: Iterable[Operation], rows: RowCache) -> set[UUID]:
    """The chats of `operations` that are not in `rows`, whether or not they exist."""
    chats = rows.chats
    return {
        operation.chat
        for operation in operations
        # Most are messages, so that question comes first.
        if (
            isinstance(operation, AddMessage)
            or not isinstance(
                operation,
                (
                    RecordPerson,
                    SetOnline,
                    EndLeaving,
                    HandOver,
                    RecordUpload,
                    ExpireUploads,
                    AccountOperation,
                    ErasePerson,
                    RecordAudit,
                    ChangeDocument,
                ),
            )
        )
        and operation.chat not in chats
    }


def owners(operations: Iterable[Operation]) -> tuple[set[tuple[int, str]], set[tuple[int, int]]]:
    """The owners whose chats have to be loaded: pairs (owner id, source), and pairs (owner id, 1 or 0) at all sources.

    Closed chats are loaded only for pairs with 1.
    """
    at_source: set[tuple[int, str]] = set()
    everywhere: set[tuple[int, int]] = set()
    for operation in operations:
        if isinstance(operation, AddMessage):
            continue
        if isinstance(operation, ReserveChat):
            at_source.add((operation.owner.id, operation.source))
        elif isinstance(operation, HandOver):
            everywhere |= {(operation.anonymous, 1), (operation.to.id, 0)}
    return at_source, everywhere


def missing_rest(operations: Iterable[Operation], rows: RowCache) -> Preload:
    """The other rows that decisions need and `rows` lacks. The chats have to be loaded before."""
    needs = Preload()
    people, chats = rows.people, rows.chats
    for operation in operations:
        message = operation.message if isinstance(operation, RefuseMessage) else operation
        if isinstance(message, AddMessage):
            _add_for_message(needs, rows, message, refused=message is not operation)
            continue
        user = acting_user(operation)
        if user is not None:
            person = person_key(user)
            if person not in people:
                needs.people.add(person)
            if person[0] and user.id not in rows.operators:
                needs.operators.add(user.id)
        if isinstance(operation, RecordPerson):
            continue
        if isinstance(operation, HandOver):
            _add_for_hand_over(needs, rows, operation)
            continue
        if isinstance(operation, ChangeDocument):
            needs.documents.add(operation.key)
            continue
        if isinstance(operation, ErasePerson | RecordAudit):
            subject = operation.audit.subject
            if subject is not None:
                needs.people.add((subject.role is Role.OPERATOR, subject.id))
            continue
        if isinstance(operation, AccountOperation):
            needs.people.update(people_of(operation) - people.keys())
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
        if isinstance(operation, MarkMessage | EditMessage | RedactMessage):
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


def _add_for_hand_over(needs: Preload, rows: RowCache, operation: HandOver) -> None:
    giver = (False, operation.anonymous)
    if giver not in rows.people:
        needs.people.add(giver)
    needs.documents |= {visit_of(operation.anonymous), visit_of(operation.to.id)}
    for (owner, _), uuids in rows.owned.items():
        if owner not in (operation.anonymous, operation.to.id):
            continue
        for uuid in uuids:
            row = rows.chats[uuid]
            _add_for_chat(needs, rows, row.state)
            if owner == operation.anonymous and row.state.next_index and giver not in row.keys:
                needs.keys.add((uuid, giver))


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


def people_of(operation: AccountOperation) -> set[PersonKey]:
    """The people whose records an operation on accounts reads or changes."""
    match operation:
        case AddAccount(account=account):
            return {(True, account.id)}
        case ChangeAccount(id=id_) | SetAway(operator_id=id_):
            return {(True, id_)}
        case OpenSession(session=session):
            return {(True, session.operator_id)}
        case SignOut(user=user):
            return {person_key(user)}
        case _:
            return set()


def acting_user(operation: Operation) -> User | None:
    """The user whose profile the operation may store; None for marks, and for messages, which are handled apart."""
    match operation:
        case HandOver(to=user):
            return user
        case RecordPerson(user=user) | ReserveChat(owner=user) | AcceptChat(by=user) | CloseChat(by=user):
            return user
        case ReopenChat(by=user) | TransferChat(by=user) | ReturnChat(by=user):
            return user
        case _:
            return None
