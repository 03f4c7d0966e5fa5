"""Generates the AsyncAPI 3.0 document of the protocol from its classes."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from actorchat.protocol.broker import ACTORCHAT_ID_HEADER, WIDGET_SOURCE_HEADER, BrokerChannel
from actorchat.protocol.codec import encode_command, encode_entity, encode_event
from actorchat.protocol.commands import EXTENDED_COMMANDS
from actorchat.protocol.entities import Chat, GlobalData, Message, Operator
from actorchat.protocol.events import EXTENDED_EVENTS
from actorchat.protocol.examples import BROKER_EXAMPLES, COMMAND_EXAMPLES, EVENT_EXAMPLES, EXAMPLE_SOURCE
from actorchat.protocol.profiles import Profile
from actorchat.protocol.schemas import Schema, component_schemas, reference

_MESSAGE_SUMMARIES: Final = {
    "send_message": "Event emitted when user sends new message to the chat room",
    "mark_message_delivered": "Event emitted when user receives new message",
    "mark_message_read": "Event emitted when user reads a message",
    "update_typing": "Event emitted when user starts/stops typing",
    "message_added": "Event emitted when server adds new message to the room",
    "message_not_added": "Event emitted when server could not add new message to the room",
    "message_updated": "Event emitted when server modifies existing message in the room",
    "user_connected": "Event emitted by server when user connects to the room",
    "user_disconnected": "Event emitted by server when user disconnects from the room",
    "chat_updated": "Event emitted by server on chat updates",
    "operator_updated": "Event emitted by server on operator updates",
    "typing_updated": "Event emitted by server when user starts/stops typing",
    "global_updated": "Event emitted by server on global data updates",
    "error": "Event emitted by server when a frame had no effect",
    "receipts": "Event emitted by server when one side received or read more of the chat",
    "resync_required": "Event emitted by server when a client resumes from another history than the chat's",
    "page_viewed": "Event emitted when a visitor views a page of the site",
    "ping": "Event emitted when a client asks whether the connection works",
    "pong": "Event emitted by server as the answer to a ping",
    "feed_ready": "Event emitted by server after the snapshot of a feed",
    "note_added": "Event emitted by server when it adds a system message for operators to a room",
    "chat_summary": "Event emitted by server with what a list shows of a chat",
}
_BROKER_SUMMARIES: Final = {
    BrokerChannel.CHAT: "Json encoded chat",
    BrokerChannel.OPERATORS: "Json encoded operators data",
    BrokerChannel.MESSAGE: "Json encoded message data",
    BrokerChannel.GLOBAL: "Json encoded global data",
}
_BROKER_PAYLOADS: Final[dict[BrokerChannel, Schema]] = {
    BrokerChannel.CHAT: reference(Chat),
    BrokerChannel.OPERATORS: {
        "type": "array",
        "description": "List of updated operators data",
        "items": reference(Operator),
    },
    BrokerChannel.MESSAGE: reference(Message),
    BrokerChannel.GLOBAL: reference(GlobalData),
}
_EXAMPLE_IDS: Final = {
    BrokerChannel.CHAT: "d599cb9b-a451-4bb3-ac0c-1465b9a1c4de/1796000000/2/0",
    BrokerChannel.OPERATORS: f"operators/{EXAMPLE_SOURCE}/1796000000/17",
    BrokerChannel.MESSAGE: "d599cb9b-a451-4bb3-ac0c-1465b9a1c4de/1796000000/2/1",
    BrokerChannel.GLOBAL: f"global/{EXAMPLE_SOURCE}/1796000000/5",
}
_EXTENDED: Final = {"x-profile": "extended"}

_ROOM_MESSAGES: Final = (
    "send_message",
    "mark_message_delivered",
    "mark_message_read",
    "update_typing",
    "message_added",
    "message_not_added",
    "message_updated",
    "user_connected",
    "user_disconnected",
    "chat_updated_in_room",
    "typing_updated_in_room",
    "receipts",
    "resync_required",
    "page_viewed",
    "ping",
    "pong",
    "error",
)
_CONTRACT_FEED_MESSAGES: Final = (
    "message_added",
    "chat_updated",
    "operator_updated",
    "typing_updated",
    "global_updated",
)
_FEED_MESSAGES: Final = (
    *_CONTRACT_FEED_MESSAGES,
    "note_added",
    "message_updated_on_feed",
    "chat_summary",
    "feed_ready",
    "ping",
    "pong",
    "error",
)


def asyncapi_document() -> dict[str, object]:
    """Return a new copy of the document, ready for JSON.

    Operations list the contract's messages. Messages for extended sockets only are marked
    ``x-profile: extended``; they are listed on their channel, or as the reply to a command.
    """
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Chat API",
            "version": "1.0.0",
            "description": "This Chat API allows your clients and operators to communicate in real time.",
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": _messages(),
            "schemas": component_schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _servers() -> Schema:
    return {
        "chat": {
            "host": "127.0.0.1:8000",
            "protocol": "ws",
            "description": "Default chat server",
            "security": [{"$ref": "#/components/securitySchemes/token"}],
        },
        "redis": {
            "host": "127.0.0.1:6379",
            "protocol": "redis",
            "description": "Message broker: a stream for each channel",
        },
        "rabbitmq": {
            "host": "127.0.0.1:5672",
            "protocol": "amqp",
            "description": "Message broker: a topic exchange for each channel; the routing key is the widget source",
        },
        "nats": {
            "host": "127.0.0.1:4222",
            "protocol": "nats",
            "description": (
                "Message broker: a JetStream stream for each channel; the subject is the channel's address, a dot and "
                "the widget source"
            ),
        },
    }


def _channels() -> Schema:
    subprotocols = {
        "type": "object",
        "properties": {
            "Sec-WebSocket-Protocol": {
                "type": "string",
                "description": "The profile asked for; strict if absent.",
                "enum": [profile.value for profile in Profile],
            }
        },
    }
    channels: Schema = {
        "chat": {
            "address": "/ws/chats/{uuid}",
            "title": "The room of one chat",
            "servers": [{"$ref": "#/servers/chat"}],
            "parameters": {"uuid": {"description": "The chat's uuid"}},
            "messages": _message_references(_ROOM_MESSAGES),
            "bindings": {
                "ws": {
                    "method": "GET",
                    "headers": subprotocols,
                    "query": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "after": {
                                "type": "integer",
                                "minimum": -1,
                                "description": "Resume behind this message_index; -1 = everything.",
                                **_EXTENDED,
                            },
                            "quiet": {
                                "type": "integer",
                                "const": 1,
                                "description": "For operators: read without being announced.",
                                **_EXTENDED,
                            },
                        },
                    },
                }
            },
        },
        "operators": {
            "address": "/ws/operators",
            "title": "The operators' feed",
            "servers": [{"$ref": "#/servers/chat"}],
            "messages": _message_references(_FEED_MESSAGES),
            "bindings": {
                "ws": {
                    "method": "GET",
                    "headers": subprotocols,
                    "query": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "source": {
                                "type": "array",
                                "items": {"type": "string"},
                                "description": "Widget sources; all of the operator's if absent.",
                            }
                        },
                    },
                }
            },
        },
    }
    for channel in BrokerChannel:
        channels[_broker_key(channel)] = {
            "address": channel.value,
            "servers": [{"$ref": "#/servers/redis"}, {"$ref": "#/servers/rabbitmq"}, {"$ref": "#/servers/nats"}],
            "messages": _message_references([_broker_key(channel)]),
            "bindings": {
                "redis": {},
                "nats": {},
                "amqp": {
                    "is": "routingKey",
                    "exchange": {
                        "name": channel.value,
                        "type": "topic",
                        "durable": True,
                        "autoDelete": False,
                        "vhost": "/",
                    },
                    "bindingVersion": "0.3.0",
                },
            },
        }
    return channels


def _operations() -> Schema:
    return {
        "sendMessage": {
            **_operation(
                "receive",
                "chat",
                ["send_message"],
                "Used to send new messages from clients/operators",
            ),
            "reply": _reply("message_not_added"),
        },
        "markMessage": {
            **_operation(
                "receive",
                "chat",
                ["mark_message_delivered", "mark_message_read"],
                "Used to notify server that user has successfully received/read message",
            ),
            "reply": _reply("error"),
        },
        "updateTyping": {
            **_operation(
                "receive",
                "chat",
                ["update_typing"],
                "Used to notify room about typing updates",
            ),
            "reply": _reply("error"),
        },
        "messageAdded": _operation(
            "send",
            "chat",
            ["message_added"],
            "Used to notify users that a new message was added to the room",
        ),
        "messageUpdated": _operation(
            "send",
            "chat",
            ["message_updated"],
            "Used to notify users that some message in the current room was updated",
        ),
        "presence": _operation(
            "send",
            "chat",
            ["user_connected", "user_disconnected"],
            "Used to notify users that somebody just joined/left the room",
        ),
        "feed": _operation(
            "send",
            "operators",
            _CONTRACT_FEED_MESSAGES,
            "Used to notify operators about new messages in every room and global updates",
        ),
        "brokerChat": _operation(
            "send",
            "brokerChat",
            ["brokerChat"],
            "Used to notify operators about updates in chat",
        ),
        "brokerOperators": _operation(
            "send",
            "brokerOperators",
            ["brokerOperators"],
            "Used to notify broadcast listener about updates related to operators",
        ),
        "brokerMessage": {
            **_operation(
                "send",
                "brokerMessage",
                ["brokerMessage"],
                "Used to notify users about new messages",
            ),
            "description": (
                "Messages with type=standard are added to both chat and broadcast channels, messages with "
                "type=system are added only to the chat channel, and only users with role=type_role "
                "receive notifications."
            ),
        },
        "brokerGlobal": _operation(
            "send",
            "brokerGlobal",
            ["brokerGlobal"],
            "Used to notify broadcast listener about updates to global data",
        ),
    }


def _operation(action: str, channel: str, messages: Iterable[str], summary: str) -> Schema:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
        **(
            {"bindings": {"amqp": {"deliveryMode": 2, "bindingVersion": "0.3.0"}}}
            if channel.startswith("broker")
            else {}
        ),
    }


def _reply(message: str) -> Schema:
    return {
        "channel": {"$ref": "#/channels/chat"},
        "messages": [{"$ref": f"#/channels/chat/messages/{message}"}],
    }


def _messages() -> Schema:
    messages: Schema = {}
    for command in COMMAND_EXAMPLES:
        messages[command.type] = _socket_message(type(command), encode_command(command))
        if type(command) in EXTENDED_COMMANDS:
            messages[command.type] |= _EXTENDED
    for event in EVENT_EXAMPLES:
        messages[event.type] = _socket_message(type(event), encode_event(event, Profile.EXTENDED))
        if type(event) in EXTENDED_EVENTS:
            messages[event.type] |= _EXTENDED
    for name in ("chat_updated", "typing_updated"):
        messages[f"{name}_in_room"] = messages[name] | _EXTENDED
    messages["message_updated_on_feed"] = messages["message_updated"] | _EXTENDED
    for channel, body in BROKER_EXAMPLES.items():
        messages[_broker_key(channel)] = _broker_message(channel, encode_entity(body))
    return messages


def _socket_message(cls: type[Any], example: bytes) -> Schema:
    name = cls.type
    return {
        "name": name,
        "summary": _MESSAGE_SUMMARIES[name],
        "payload": {
            "type": "object",
            "required": ["type", "data"],
            "properties": {"type": {"type": "string", "const": name}, "data": reference(cls)},
        },
        "examples": [{"payload": json.loads(example)}],
    }


def _broker_message(channel: BrokerChannel, example: bytes) -> Schema:
    message: Schema = {
        "name": channel.value,
        "summary": _BROKER_SUMMARIES[channel],
        "payload": _BROKER_PAYLOADS[channel],
        "examples": [{"payload": json.loads(example)}],
    }
    # In AMQP and NATS they are headers, in Redis fields beside the body.
    message["headers"] = {
        "type": "object",
        "required": [WIDGET_SOURCE_HEADER, ACTORCHAT_ID_HEADER],
        "properties": {
            WIDGET_SOURCE_HEADER: {"type": "string", "description": "The widget source."},
            ACTORCHAT_ID_HEADER: {
                "type": "string",
                "description": "Unique in the channel; the same if the message is published again.",
            },
        },
    }
    message["examples"][0]["headers"] = {
        WIDGET_SOURCE_HEADER: EXAMPLE_SOURCE,
        ACTORCHAT_ID_HEADER: _EXAMPLE_IDS[channel],
    }
    message["bindings"] = {"amqp": {"messageType": channel.value, "bindingVersion": "0.3.0"}}
    return message


def _message_references(names: Sequence[str]) -> Schema:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _broker_key(channel: BrokerChannel) -> str:
    return f"broker{channel.value.capitalize()}"
