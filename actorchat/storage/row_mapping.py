"""Converts values of the domain to table rows and back.

A row is a plain tuple in the order of the table's columns, because conversions run for every message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import NoneType
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson

from actorchat.chat.accounts import Account, LoginSession, Rights
from actorchat.chat.blocks import Block, normal_network
from actorchat.chat.model import (
    ChatState,
    Identity,
    OperatorCounters,
    PersonRecord,
    Policy,
    ProfileToken,
    Stage,
    StoredAttachment,
    StoredMessage,
    Upload,
)
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.protocol import AttachmentType, MessageType, Role, User
from actorchat.storage.store import SearchableMessage

__all__ = [
    "DamagedRow",
    "account_of",
    "account_row",
    "audit_of",
    "audit_row",
    "block_of",
    "block_row",
    "changed_message_row",
    "chat_of",
    "chat_row",
    "counters_row",
    "edit_row",
    "files_of",
    "keys",
    "message_of",
    "message_row",
    "message_with_files_row",
    "person_of",
    "person_row",
    "progress_row",
    "read_row",
    "role_text",
    "searchable_of",
    "session_of",
    "session_row",
    "transition_row",
    "upload_of",
    "upload_row",
]

T = TypeVar("T")
Row = tuple[Any, ...]  # what a driver gives and takes


class DamagedRow(Exception):  # noqa: N818 - named as what it is about
    """A stored row has a content that this program never writes."""


def read_row(convert: Callable[[Row], T], row: Row) -> T:
    """Return `convert(row)`. Raises `DamagedRow` if the row cannot be converted."""
    try:
        return convert(row)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DamagedRow(f"{type(error).__name__}: {error}") from error


# Looked up here once, because access to enum members takes longer than the rest of a row.
ROLES: Final = {role.value: role for role in Role}
TYPES: Final = {type_.value: type_ for type_ in MessageType}
STAGES: Final = {stage.value: stage for stage in Stage}
_FILE_TYPES: Final = {type_.value: type_ for type_ in AttachmentType}
_USER, _OPERATOR = Role.USER.value, Role.OPERATOR.value
_STANDARD, _SYSTEM = MessageType.STANDARD.value, MessageType.SYSTEM.value


_INTEGERS: Final = frozenset({int, NoneType})


def role_text(role: Role) -> str:
    return _OPERATOR if role is Role.OPERATOR else _USER


def keys(values: Iterable[object]) -> str:
    """Encode the `keys` parameter of statements that read many rows."""
    return orjson.dumps(list(values)).decode()


def chat_row(number: int, chat: ChatState, policy: Policy) -> Row:
    """The row of a chat in `chats`."""
    return (
        number,
        chat.uuid.hex,
        chat.source,
        chat.owner.id,
        chat.stage.value,
        None if chat.operator is None else chat.operator.id,
        *_progress(chat),
        chat.assigned_at,
        chat.due_at(policy),
    )


def transition_row(number: int, chat: ChatState, policy: Policy) -> Row:
    """The columns that a transition may change, then the chat's number."""
    operator_id = None if chat.operator is None else chat.operator.id
    return (chat.stage.value, operator_id, *_progress(chat), chat.assigned_at, chat.due_at(policy), number)


def progress_row(number: int, chat: ChatState) -> Row:
    """The columns that messages and receipts change, then the chat's number."""
    return (*_progress(chat), number)


def _progress(chat: ChatState) -> Row:
    return (
        chat.rev,
        chat.next_index,
        chat.visitor_delivered,
        chat.visitor_read,
        chat.operators_delivered,
        chat.operators_read,
        chat.last_visitor_index,
        chat.last_activity,
        chat.awaiting_since,
        chat.place,
    )


def chat_of(row: Row) -> ChatState:
    """Convert the columns of `chats` without `due_at`, which the profiles of owner and operator may follow."""
    operator_id = row[5]
    owner, operator = (row[17:21], row[21:25]) if len(row) > 17 else ((), ())
    if not _INTEGERS.issuperset(map(type, row[6:17])):
        raise TypeError(f"some of these are not integers: {row[6:17]!r:.100}")
    return ChatState(
        UUID(hex=row[1]),
        row[2],
        _user(row[3], Role.USER, owner),
        STAGES[row[4]],
        None if operator_id is None else _user(operator_id, Role.OPERATOR, operator),
        *row[6:17],
    )


def message_row(chat_number: int, message: StoredMessage) -> Row:
    """The row of a message in `messages`, without `attachments`."""
    author = message.author
    return (
        message.id,
        chat_number,
        message.index,
        message.rev,
        _STANDARD if message.type is MessageType.STANDARD else _SYSTEM,
        role_text(message.type_role),
        None if author is None else role_text(author.role),
        None if author is None else author.id,
        message.text,
        message.time,
        message.client_id,
    )


def message_with_files_row(chat_number: int, message: StoredMessage) -> Row:
    """A row of `messages`."""
    return (*message_row(chat_number, message), _files_text(message))


def changed_message_row(chat_number: int, message: StoredMessage) -> Row:
    """The columns that an edit or a redaction changes, then the chat's number and the index."""
    files = _files_text(message) if message.attachments else None
    return (message.text, files, chat_number, message.index)


def edit_row(chat_number: int, message: StoredMessage, place: int) -> Row:
    """The row of a changed message in `edits`."""
    return (chat_number, message.index, message.edit_rev, message.edited_at, message.redacted, place)


def audit_row(entry: AuditEntry) -> Row:
    """The row of an audit record in `audit`, without its number."""
    subject = entry.subject
    counts = orjson.dumps(dict(entry.counts)).decode()
    role, id_ = ("", 0) if subject is None else (role_text(subject.role), subject.id)
    return (entry.at, entry.by, entry.action.value, role, id_, counts, entry.detail)


def audit_of(row: Row) -> AuditEntry:
    """Convert a row of `audit`."""
    number, at, by, action, role, id_, counts, detail = row
    subject = Identity(ROLES[role], id_) if role else None
    return AuditEntry(at, by, AuditAction(action), subject, orjson.loads(counts), number, detail)


def files_of(row: Row) -> tuple[UUID, ...]:
    """Convert the column of `files_of_chat`."""
    return tuple(file.uuid for file in _files(row[0]))


def searchable_of(row: Row) -> SearchableMessage:
    """Convert the columns of the statements `searchable` and `searchable_edits`."""
    number, id_, uuid, source, owner_id, type_, type_role, text, attachments = row
    files = () if attachments is None else tuple(file.filename for file in _files(attachments))
    hidden = None
    if TYPES[type_] is MessageType.SYSTEM:
        hidden = Role.USER if ROLES[type_role] is Role.OPERATOR else Role.OPERATOR
    # PostgreSQL writes it with hyphens, SQLite without.
    return SearchableMessage(number, id_, uuid.replace("-", ""), source, owner_id, hidden, text, files)


def _files_text(message: StoredMessage) -> str:
    files = [
        (file.uuid.hex, file.type.value, file.filename, file.extension, file.size, file.preview_size)
        for file in message.attachments
    ]
    return orjson.dumps(files).decode()


def message_of(row: Row) -> StoredMessage:
    """Convert the columns of `messages` without `chat`, those of its row in `edits`, and the author's profile."""
    id_, index, rev, type_, type_role, author_role, author_id, text, time, client_id, attachments = row[:11]
    author = None if author_id is None else _user(author_id, ROLES[author_role], row[14:])
    files = () if attachments is None else _files(attachments)
    kind, recipients = TYPES[type_], ROLES[type_role]
    edited_at = row[11]
    if edited_at is None:
        return StoredMessage(id_, index, rev, kind, recipients, text, author, time, client_id, files)
    redacted = bool(row[12])
    return StoredMessage(
        id_, index, rev, kind, recipients, text, author, time, client_id, files, edited_at, redacted, row[13]
    )


def _files(attachments: str) -> tuple[StoredAttachment, ...]:
    return tuple(
        StoredAttachment(UUID(hex=uuid), _FILE_TYPES[type_], *rest) for uuid, type_, *rest in orjson.loads(attachments)
    )


def upload_row(upload: Upload) -> Row:
    """The row of an upload in `uploads`, without a message."""
    file = upload.file
    return (
        file.uuid.hex,
        role_text(upload.uploader.role),
        upload.uploader.id,
        upload.source,
        file.type.value,
        upload.media_type,
        file.filename,
        file.extension,
        file.size,
        file.preview_size,
        upload.created,
        None,
        None,
    )


def upload_of(row: Row) -> Upload:
    """Convert a row of `uploads`."""
    uuid, role, id_, source, type_, media_type, filename, extension, size, preview_size, created, chat, _ = row
    file = StoredAttachment(UUID(hex=uuid), _FILE_TYPES[type_], filename, extension, size, preview_size)
    return Upload(file, Identity(ROLES[role], id_), source, media_type, created, chat is not None)


def person_row(person: PersonRecord) -> Row:
    """The row of a person in `people`."""
    user = person.user
    return (
        role_text(user.role),
        user.id,
        user.avatar,
        user.lastname,
        user.firstname,
        user.patronymic,
        orjson.dumps(dict(person.memberships), option=orjson.OPT_SORT_KEYS).decode(),
        person.online,
        person.leaving,
        _profile_text(person),
        person.away,
        person.signed_out_at,
    )


def _profile_text(person: PersonRecord) -> str:
    profile = person.profile
    if profile is None:
        return ""
    # The order of `superseded` matters: the oldest entries, which come first, are forgotten first.
    parts = (profile.token, profile.at, profile.until, profile.dated, dict(person.superseded))
    return orjson.dumps(parts).decode()


def person_of(row: Row) -> PersonRecord:
    user = _user(row[1], ROLES[row[0]], row[2:6])
    memberships, online, leaving = orjson.loads(row[6]), bool(row[7]), bool(row[8])
    away, signed_out_at = bool(row[10]), float(row[11])
    if not row[9]:
        return PersonRecord(user, memberships, online, leaving, away=away, signed_out_at=signed_out_at)
    *profile, superseded = orjson.loads(row[9])
    token = ProfileToken(*profile)
    return PersonRecord(user, memberships, online, leaving, token, superseded, away, signed_out_at)


def account_row(account: Account) -> Row:
    """A row of `accounts`."""
    sources = orjson.dumps(list(account.sources)).decode()
    return (
        account.id,
        account.login,
        account.rights.value,
        sources,
        account.password,
        account.disabled,
        account.created,
        account.one_time,
        account.last_sign_in,
    )


def account_of(row: Row) -> Account:
    """Convert a row of `accounts`."""
    id_, login, rights, sources, password, disabled, created, one_time, last_sign_in = row
    return Account(
        id=id_,
        login=login,
        rights=Rights(rights),
        sources=tuple(orjson.loads(sources)),
        password=password,
        disabled=bool(disabled),
        created=created,
        one_time=bool(one_time),
        last_sign_in=last_sign_in,
    )


def block_row(block: Block) -> Row:
    """A row of `blocks`."""
    return (block.id, block.user, block.network, block.reason, block.by, block.created, block.until)


def block_of(row: Row) -> Block:
    """Convert a row of `blocks`."""
    id_, user, network, reason, by, created, until = row
    if network is not None and normal_network(network) != network:
        raise ValueError(network)
    return Block(id=id_, user=user, network=network, reason=reason, by=by, created=created, until=until)


def session_row(session: LoginSession) -> Row:
    """A row of `sessions`."""
    return (
        session.id,
        session.operator_id,
        session.opened,
        session.expires,
        session.generation,
        session.rotated,
    )


def session_of(row: Row) -> LoginSession:
    """Convert a row of `sessions`."""
    id_, operator_id, opened, expires, generation, rotated = row
    return LoginSession(
        id=id_,
        operator_id=operator_id,
        opened=float(opened),
        expires=float(expires),
        generation=int(generation),
        rotated=float(rotated),
    )


def counters_row(counters: OperatorCounters) -> Row:
    return (counters.operator_id, counters.new_chats, counters.open_chats, counters.rev)


def _user(id_: int, role: Role, profile: Row) -> User:
    return User(id_, role, *(part or "" for part in profile))
