"""The AsyncAPI document describes the wire format, and its examples obey its schemas."""

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from jsonschema import (  # type: ignore[import-untyped]  # it ships no types
    Draft7Validator,
    FormatChecker,
)

from actorchat.protocol import (
    COMMANDS,
    EVENTS,
    EXTENDED_COMMANDS,
    EXTENDED_EVENTS,
    BrokerChannel,
    Command,
    Event,
    Message,
    Profile,
    asyncapi_document,
    encode_command,
    encode_entity,
    encode_event,
)
from tests.protocol import contract, strategies

# Any: the document is JSON of every shape.
Document = Mapping[str, Any]


def validator(document: Document, message: str) -> Draft7Validator:
    """A validator for payloads of that message, with the document's references."""
    schema = {"$ref": f"#/components/messages/{message}/payload", "components": document["components"]}
    return Draft7Validator(schema, format_checker=FormatChecker())


@pytest.fixture(scope="module")
def document() -> Document:
    return asyncapi_document()


MESSAGES: Final = [
    *COMMANDS,
    *EVENTS,
    "chat_updated_in_room",
    "typing_updated_in_room",
    "message_updated_on_feed",
    *(f"broker{channel.capitalize()}" for channel in BrokerChannel),
]


def test_every_message_is_in_the_document(document: Document) -> None:
    assert set(document["components"]["messages"]) == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_documents_examples_obey_their_schemas(document: Document, name: str) -> None:
    for example in document["components"]["messages"][name]["examples"]:
        validator(document, name).validate(example["payload"])


@pytest.mark.parametrize("name", [*contract.COMMANDS, *contract.EVENTS])
def test_an_example_of_the_contract_is_the_documents(document: Document, name: str) -> None:
    example = json.loads(contract.example(name))
    described = document["components"]["messages"][example["type"]]["examples"][0]["payload"]
    assert json.dumps(described) == json.dumps(example)


@pytest.mark.parametrize("name", contract.BODIES)
def test_a_broker_example_of_the_contract_is_the_documents(document: Document, name: str) -> None:
    channel = name.split("_")[1]
    example = document["components"]["messages"][f"broker{channel.capitalize()}"]["examples"][0]
    assert json.dumps(example["payload"]) == json.dumps(json.loads(contract.example(name)))
    assert example["headers"].keys() == {"Widget-Source", "Actorchat-Id"}
    assert example["headers"]["Widget-Source"] == "lk"


DOCUMENT: Final = asyncapi_document()
VALIDATORS: Final = {name: validator(DOCUMENT, name) for name in MESSAGES}


@given(strategies.commands)
def test_every_encoded_command_obeys_its_schema(command: Command) -> None:
    VALIDATORS[command.type].validate(json.loads(encode_command(command)))


@given(strategies.events)
def test_every_encoded_event_obeys_its_schema(event: Event) -> None:
    VALIDATORS[event.type].validate(json.loads(encode_event(event, Profile.EXTENDED)))


@given(strategies.messages)
def test_every_encoded_broker_message_obeys_its_schema(message: Message) -> None:
    VALIDATORS["brokerMessage"].validate(json.loads(encode_entity(message)))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("mark_message_read", {}),
        ("mark_message_read", {"message_id": 2**53 + 1}),
        ("mark_message_read", {"message_id": True}),
        ("update_typing", {"text": "a", "stopped": 1}),
        ("send_message", {"text": None}),
        ("send_message", {"text": "a", "attachments": ["b"]}),
        ("send_message", {"text": "a", "client_id": "x" * 65}),
        ("user_connected", {"user": {"id": 1, "role": "user"}}),
        ("user_connected", {"user": None}),
        ("global_updated", {"unread_chats": 1.5}),
    ],
)
def test_a_wrong_payload_breaks_its_schema(document: Document, name: str, data: object) -> None:
    judge = validator(document, name)
    assert not judge.is_valid({"type": name, "data": data})


def test_enums_are_in_the_contracts_order(document: Document) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["ChatStatus"]["enum"] == ["new", "open", "closed"]
    assert schemas["MessageStatus"]["enum"] == ["new", "delivered", "read"]
    assert schemas["AttachmentType"]["enum"] == ["image", "video", "audio", "file"]
    assert schemas["Role"]["type"] == "string"


def test_only_nullable_fields_of_the_contract_are_nullable(document: Document) -> None:
    nullable = {
        (name, field)
        for name, schema in document["components"]["schemas"].items()
        for field, described in schema.get("properties", {}).items()
        if {"type": "null"} in described.get("anyOf", [])
    }
    assert nullable == {
        ("Chat", "operator_user"),
        ("Message", "user"),
        ("SendMessage", "client_id"),
        ("ChatSummary", "last"),
        ("ChatSummary", "closed"),
        ("Closing", "user"),
        ("ChatSummary", "waiting_since"),
        ("LastMessage", "role"),
        ("MessageNotAdded", "client_id"),
        ("MessageNotAdded", "retry_after"),
    }


def test_every_integer_is_bounded_and_only_a_command_has_defaults(document: Document) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field in schema.get("properties", {}).values():
            assert name in ("SendMessage", "PageViewed") or "default" not in field
            if field.get("type") == "integer":
                assert (field["minimum"], field["maximum"]) == (-(2**53), 2**53)


def test_parts_for_extended_sockets_only_are_marked(document: Document) -> None:
    messages = document["components"]["messages"]
    marked = {name for name, message in messages.items() if message.get("x-profile") == "extended"}
    extended = {cls.type for cls in (*EXTENDED_COMMANDS, *EXTENDED_EVENTS)}
    assert marked == extended | {"chat_updated_in_room", "typing_updated_in_room", "message_updated_on_feed"}
    for name in ("SendMessage", "MessageAdded"):
        client_id = document["components"]["schemas"][name]["properties"]["client_id"]
        assert client_id["x-profile"] == "extended"


def test_the_eleven_operations_carry_the_contracts_messages(document: Document) -> None:
    carried = {
        name: (operation["action"], [reference["$ref"].split("/")[-1] for reference in operation["messages"]])
        for name, operation in document["operations"].items()
    }
    assert carried == {
        "sendMessage": ("receive", ["send_message"]),
        "markMessage": ("receive", ["mark_message_delivered", "mark_message_read"]),
        "updateTyping": ("receive", ["update_typing"]),
        "messageAdded": ("send", ["message_added"]),
        "messageUpdated": ("send", ["message_updated"]),
        "presence": ("send", ["user_connected", "user_disconnected"]),
        "feed": (
            "send",
            ["message_added", "chat_updated", "operator_updated", "typing_updated", "global_updated"],
        ),
        "brokerChat": ("send", ["brokerChat"]),
        "brokerOperators": ("send", ["brokerOperators"]),
        "brokerMessage": ("send", ["brokerMessage"]),
        "brokerGlobal": ("send", ["brokerGlobal"]),
    }


def test_channels_have_the_addresses_of_the_interface(document: Document) -> None:
    addresses = {name: channel["address"] for name, channel in document["channels"].items()}
    assert addresses == {
        "chat": "/ws/chats/{uuid}",
        "operators": "/ws/operators",
        "brokerChat": "chat",
        "brokerOperators": "operators",
        "brokerMessage": "message",
        "brokerGlobal": "global",
    }
