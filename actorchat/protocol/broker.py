"""Encodes and decodes the bodies of the four broker channels, operations 8 to 11 of the contract."""

from enum import StrEnum
from typing import Any, Final

import attrs

from actorchat.protocol.codec import decode_entity, encode_entity
from actorchat.protocol.entities import Chat, GlobalData, Message, Operator

WIDGET_SOURCE_HEADER: Final = "Widget-Source"
"""The header that names the source of a body."""

ACTORCHAT_ID_HEADER: Final = "Actorchat-Id"
"""The header with a unique id of the body. A body that is published again has the same id."""


class BrokerChannel(StrEnum):
    """The channels, by their names in the contract."""

    CHAT = "chat"
    OPERATORS = "operators"
    MESSAGE = "message"
    GLOBAL = "global"


BrokerBody = Chat | list[Operator] | Message | GlobalData
"""The body of a message on a broker channel."""

# Any: mypy has no type for "the type of a list of Operator" beside that of a class.
BODIES: Final[dict[BrokerChannel, Any]] = {
    BrokerChannel.CHAT: Chat,
    BrokerChannel.OPERATORS: list[Operator],
    BrokerChannel.MESSAGE: Message,
    BrokerChannel.GLOBAL: GlobalData,
}
"""The type of the body of each channel."""


def encode_broker_body(body: BrokerBody) -> bytes:
    """Encode a body without an envelope, with the keys in the contract's order."""
    return encode_entity(body)


def decode_broker_body(channel: BrokerChannel, payload: bytes | str) -> BrokerBody:
    """Decode the body of a channel. Raises NotUtf8, and Malformed with all faults."""
    body: BrokerBody = decode_entity(payload, BODIES[channel])
    return body


@attrs.frozen
class BrokerMessage:
    """A message on a broker channel: the body as JSON, and the values of its headers.

    ``source`` is the widget source. ``id`` is unique in the channel. A message that is published again has the same id.
    """

    channel: BrokerChannel
    source: str
    id: str
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """The headers by their names."""
        return {WIDGET_SOURCE_HEADER: self.source, ACTORCHAT_ID_HEADER: self.id}

    def decode(self) -> BrokerBody:
        """Decode the body. Raises NotUtf8, and Malformed with all faults."""
        return decode_broker_body(self.channel, self.body)
