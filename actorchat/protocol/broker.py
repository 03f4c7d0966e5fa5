"""Encodes and decodes the bodies of the four broker channels, operations 8 to 11 of the contract."""

from enum import StrEnum
from typing import Any, Final

from actorchat.protocol.codec import decode_entity, encode_entity
from actorchat.protocol.entities import Chat, GlobalData, Message, Operator

WIDGET_SOURCE_HEADER: Final = "Widget-Source"
"""The header that names the source of a body; the ``chat`` channel has none."""


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
