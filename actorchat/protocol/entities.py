"""Owns the contract's entities: what a user, a chat, a message and an operator are on the wire.

Refuses to know events, JSON, and every rule about how entities change.

The classes carry a ``__dict__`` on purpose: msgspec writes slotted attrs classes with their keys in
alphabetical order, and the contract's order is the order of the fields here.
"""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import attrs
from msgspec import Meta

from actorchat.protocol.limits import MAX_CLIENT_ID_CHARS, MAX_SAFE_INTEGER
from actorchat.protocol.times import WIRE_TIME_PATTERN

SafeInt = Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
"""An integer every JSON reader keeps exactly."""

WireTime = Annotated[str, Meta(pattern=WIRE_TIME_PATTERN, extra_json_schema={"format": "date-time"})]
"""``YYYY-MM-DDTHH:MM:SS±HH:MM``; text, because msgspec would write ``Z`` for a UTC datetime."""

ClientId = Annotated[str, Meta(max_length=MAX_CLIENT_ID_CHARS)]
"""The sender's own name for a message: an idempotency key per chat and user. *(ext)*"""


# The hash of an Enum is Python code, and these are looked up by several times a message: theirs is that of their text.


class Role(StrEnum):
    """Who somebody is; with ``User.id`` it is their identity."""

    __hash__ = str.__hash__

    USER = "user"
    OPERATOR = "operator"


class ChatStatus(StrEnum):
    """Where a chat stands."""

    __hash__ = str.__hash__

    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


class MessageType(StrEnum):
    """Standard messages go to all; system messages to one role of the room."""

    __hash__ = str.__hash__

    STANDARD = "standard"
    SYSTEM = "system"


class MessageStatus(StrEnum):
    """How far a message got with its counterpart."""

    __hash__ = str.__hash__

    NEW = "new"
    DELIVERED = "delivered"
    READ = "read"


class AttachmentType(StrEnum):
    """What a client may show an attachment as."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    FILE = "file"


@attrs.frozen(slots=False)
class User:
    """A visitor, a customer or an operator; an absent name or avatar is ``""``."""

    id: SafeInt
    role: Role
    avatar: str = ""
    lastname: str = ""
    firstname: str = ""
    patronymic: str = ""


@attrs.frozen(slots=False)
class Widget:
    """The site's widget a chat came from."""

    source: str


@attrs.frozen(slots=False)
class Chat:
    """One conversation; ``operator_user`` is None while nobody has it."""

    uuid: UUID
    widget: Widget
    status: ChatStatus
    owner_user: User
    operator_user: User | None


@attrs.frozen(slots=False)
class Attachment:
    """A stored file of a message; ``size`` in bytes."""

    uuid: UUID
    type: AttachmentType
    url: str
    url_preview: str
    filename: str
    extension: str
    size: SafeInt


@attrs.frozen(slots=False)
class Message:
    """What somebody wrote, or a system notice.

    ``type_role`` is the author's role of a standard message and the recipients' role of a system one;
    ``user`` is None only on a system message that nobody caused.
    """

    id: SafeInt
    type: MessageType
    type_role: Role
    status: MessageStatus
    text: str
    send_time: WireTime
    message_index: SafeInt
    chat: Chat
    user: User | None
    attachments: tuple[Attachment, ...]


@attrs.frozen(slots=False)
class Operator:
    """An operator with their load."""

    user: User
    is_online: bool
    new_chats: SafeInt
    open_chats: SafeInt


@attrs.frozen(slots=False)
class GlobalData:
    """What is counted over a whole widget source."""

    unread_chats: SafeInt
