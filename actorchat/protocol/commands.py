"""Defines the commands that a client sends in a room."""

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


Command = SendMessage | MarkMessageDelivered | MarkMessageRead | UpdateTyping
"""Any command of a client on a room's socket."""

COMMANDS: Final[Mapping[str, type[Command]]] = {
    cls.type: cls for cls in (SendMessage, MarkMessageDelivered, MarkMessageRead, UpdateTyping)
}
"""The class of each command by its type on the wire."""
