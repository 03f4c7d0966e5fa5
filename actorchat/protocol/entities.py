"""Defines the entities of the contract: users, chats, messages, operators and their parts.

The fields are in the contract's order. The classes have no slots, because msgspec writes the keys of slotted attrs
classes in alphabetical order.
"""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import attrs
from msgspec import Meta

from actorchat.protocol.limits import MAX_CLIENT_ID_CHARS, MAX_SAFE_INTEGER
from actorchat.protocol.times import WIRE_TIME_PATTERN

SafeInt = Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
"""An integer that every JSON parser reads exactly."""

WireTime = Annotated[str, Meta(pattern=WIRE_TIME_PATTERN, extra_json_schema={"format": "date-time"})]
"""``YYYY-MM-DDTHH:MM:SS±HH:MM`` as a string, because msgspec would write a UTC datetime with ``Z``."""

ClientId = Annotated[str, Meta(max_length=MAX_CLIENT_ID_CHARS)]
"""An idempotency key that the sender gives a message, unique per chat and user. *(ext)*"""


# The hash of an Enum is computed in Python. These enums are dict keys several times per message, so they use the faster
# hash of str.


class Role(StrEnum):
    """Whether a person is a visitor or an operator. Role and ``User.id`` together identify a person."""

    __hash__ = str.__hash__

    USER = "user"
    OPERATOR = "operator"


class ChatStatus(StrEnum):
    """The status of a chat."""

    __hash__ = str.__hash__

    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


class MessageType(StrEnum):
    """Standard messages go to all users in the room, system messages to those with one role."""

    __hash__ = str.__hash__

    STANDARD = "standard"
    SYSTEM = "system"


class MessageStatus(StrEnum):
    """Whether the other side has received or read a message."""

    __hash__ = str.__hash__

    NEW = "new"
    DELIVERED = "delivered"
    READ = "read"


class AttachmentType(StrEnum):
    """The kind of a file, which tells a client how to show it."""

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
    """The widget of the site that a chat came from."""

    source: str


@attrs.frozen(slots=False)
class Chat:
    """One chat. ``operator_user`` is None while the chat is unassigned."""

    uuid: UUID
    widget: Widget
    status: ChatStatus
    owner_user: User
    operator_user: User | None


@attrs.frozen(slots=False)
class Attachment:
    """A file of a message. ``size`` is in bytes.

    ``url`` and ``url_preview`` are signed for the reader and expire within minutes. A link that begins with ``/`` is on
    the server that the message came from. ``url_preview`` is ``""`` if there is no preview.
    """

    uuid: UUID
    type: AttachmentType
    url: str
    url_preview: str
    filename: str
    extension: str
    size: SafeInt


@attrs.frozen(slots=False)
class Message:
    """A standard message or a system message.

    ``type_role`` is the author's role for a standard message and the recipients' role for a system message. ``user`` is
    the author, or for a system message the user that caused it, None if the server itself did.
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
class LastMessage:
    """The newest message of a chat that operators may see, its text cut to 160 characters. *(ext)*

    ``role`` and ``name`` are the author's, null and ``""`` for system messages of the server.
    """

    text: str
    role: Role | None
    name: str
    type: MessageType
    send_time: WireTime


@attrs.frozen(slots=False)
class Closing:
    """How a chat was closed. ``user`` is null if the server did it, because nobody wrote for a while. *(ext)*"""

    user: User | None
    time: WireTime


@attrs.frozen(slots=False)
class Operator:
    """An operator with presence and the numbers of assigned chats."""

    user: User
    is_online: bool
    new_chats: SafeInt
    open_chats: SafeInt


@attrs.frozen(slots=False)
class GlobalData:
    """The counters of a widget source."""

    unread_chats: SafeInt
