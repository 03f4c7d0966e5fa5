"""Defines the commands that a client sends."""

from collections.abc import Mapping
from typing import ClassVar, Final
from uuid import UUID

import attrs

from actorchat.protocol.entities import ClientId, SafeInt


@attrs.frozen(slots=False)
class SendMessage:
    """Add a standard message to the room."""

    type: ClassVar[str] = "send_message"

    text: str
    attachments: tuple[UUID, ...] = ()
    client_id: ClientId | None = None


@attrs.frozen(slots=False)
class MarkMessageDelivered:
    """All messages of the other side up to this one have been delivered."""

    type: ClassVar[str] = "mark_message_delivered"

    message_id: SafeInt


@attrs.frozen(slots=False)
class MarkMessageRead:
    """All messages of the other side up to this one have been read."""

    type: ClassVar[str] = "mark_message_read"

    message_id: SafeInt


@attrs.frozen(slots=False)
class UpdateTyping:
    """The current text of the input field; ``stopped`` says that the user stopped typing."""

    type: ClassVar[str] = "update_typing"

    text: str
    stopped: bool


@attrs.frozen(slots=False)
class Ping:
    """Asks for a ``pong`` with the same ``n``, in a room or on the feed. *(ext)*"""

    type: ClassVar[str] = "ping"

    n: SafeInt


@attrs.frozen(slots=False)
class PageViewed:
    """A visitor views this page of the site. In a room, and for operators only to see. *(ext)*"""

    type: ClassVar[str] = "page_viewed"

    url: str
    title: str = ""
    referrer: str = ""


Command = SendMessage | MarkMessageDelivered | MarkMessageRead | UpdateTyping | Ping | PageViewed
"""Any command of a client. The feed takes `Ping` only."""

COMMANDS: Final[Mapping[str, type[Command]]] = {
    cls.type: cls for cls in (SendMessage, MarkMessageDelivered, MarkMessageRead, UpdateTyping, Ping, PageViewed)
}
"""The class of each command by its type on the wire."""

EXTENDED_COMMANDS: Final[frozenset[type[Command]]] = frozenset({Ping, PageViewed})
"""Commands of extended sockets only. On strict sockets they are unknown types."""
