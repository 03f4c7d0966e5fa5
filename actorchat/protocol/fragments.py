"""Encodes message events fast, from cached JSON fragments of the chat and the user.

The results are byte for byte those of ``encode_event``.
"""

from itertools import product
from typing import Final
from uuid import UUID

import msgspec

from actorchat.protocol.entities import Attachment, Chat, MessageStatus, MessageType, Role, User

_encode: Final = msgspec.json.Encoder().encode

_MESSAGE: Final = b'{"id":%d,%b,"text":%b,"send_time":"%b","message_index":%d,"chat":%b,"user":%b,"attachments":%b}'
_ADDED: Final = b'{"type":"message_added","data":{"message":' + _MESSAGE + b"}}"
_ADDED_HEAD: Final = b'{"type":"message_added",'
_NOTE_HEAD: Final = b'{"type":"note_added",'
_UPDATED: Final = b'{"type":"message_updated","data":{"message":' + _MESSAGE + b"}}"
_NOT_ADDED: Final = (
    b'{"type":"message_not_added","data":{"code":%b,"detail":%b,"retryable":%b,"retry_after":%b,"text":%b,'
    b'"client_id":%b,"chat_id":%b,"attachments":%b}}'
)

# The three enums of a message have twelve combinations. One lookup replaces the formatting of three fields.
_kinds: Final = {
    (type, role, status): f'"type":"{type}","type_role":"{role}","status":"{status}"'.encode()
    for type, role, status in product(MessageType, Role, MessageStatus)
}


def chat_fragment(chat: Chat) -> bytes:
    """Return the JSON of a chat. It can be cached until the chat changes."""
    return _encode(chat)


def user_fragment(user: User | None) -> bytes:
    """Return the JSON of a user, ``null`` for None. It can be cached until the user changes."""
    return _encode(user)


def attachments_fragment(attachments: tuple[Attachment, ...]) -> bytes:
    """Return the JSON of a message's attachments."""
    return _encode(attachments)


def message_added_payload(
    *,
    id: int,
    type: MessageType,
    type_role: Role,
    status: MessageStatus,
    text: str,
    send_time: str,
    message_index: int,
    chat_fragment: bytes,
    user_fragment: bytes,
    attachments_fragment: bytes = b"[]",
    client_id: str | None = None,
) -> bytes:
    """Encode ``message_added``. Pass ``client_id`` only for extended sockets of the author."""
    payload = _ADDED % (
        id,
        _kinds[type, type_role, status],
        _encode(text),
        send_time.encode(),
        message_index,
        chat_fragment,
        user_fragment,
        attachments_fragment,
    )
    return payload if client_id is None else to_sender(payload, client_id)


def to_sender(payload: bytes, client_id: str) -> bytes:
    """Add a ``client_id`` to an encoded ``message_added``, for the extended sockets of its author."""
    return payload[:-2] + b',"client_id":' + _encode(client_id) + b"}}"


def with_edit(payload: bytes, edited_at: str, redacted: bool) -> bytes:
    """Add ``edited_at`` and ``redacted`` to an encoded message event, for extended sockets."""
    return b'%b,"edited_at":"%b"%b}}' % (payload[:-2], edited_at.encode(), b',"redacted":true' if redacted else b"")


def note_added_payload(payload: bytes) -> bytes:
    """Turn an encoded ``message_added`` without a ``client_id`` into a ``note_added``."""
    return _NOTE_HEAD + payload.removeprefix(_ADDED_HEAD)


def message_updated_payload(
    *,
    id: int,
    type: MessageType,
    type_role: Role,
    status: MessageStatus,
    text: str,
    send_time: str,
    message_index: int,
    chat_fragment: bytes,
    user_fragment: bytes,
    attachments_fragment: bytes = b"[]",
) -> bytes:
    """Encode ``message_updated``."""
    return _UPDATED % (
        id,
        _kinds[type, type_role, status],
        _encode(text),
        send_time.encode(),
        message_index,
        chat_fragment,
        user_fragment,
        attachments_fragment,
    )


def message_not_added_payload(
    *,
    code: str,
    detail: str,
    retryable: bool,
    retry_after: float | None,
    text: str,
    client_id: str | None,
    chat_id: UUID,
    attachments: tuple[UUID, ...] = (),
) -> bytes:
    """Encode ``message_not_added``. It must be fast, because a client over its rate limit gets one for each message."""
    return _NOT_ADDED % (
        _encode(code),
        _encode(detail),
        b"true" if retryable else b"false",
        _encode(retry_after),
        _encode(text),
        _encode(client_id),
        _encode(chat_id),
        _encode(attachments),
    )
