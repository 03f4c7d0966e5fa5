"""Generates the JSON Schemas of the protocol from its classes."""

from typing import Any, Final

import msgspec

from actorchat.protocol import entities, events
from actorchat.protocol.commands import COMMANDS, PageViewed, SendMessage
from actorchat.protocol.events import EVENTS, MessageAdded, MessageUpdated, OperatorUpdated

# Any: a JSON Schema is JSON of every shape.
Schema = dict[str, Any]

_REF_TEMPLATE: Final = "#/components/schemas/{name}"
_ENTITIES: Final = (
    entities.User,
    entities.Widget,
    entities.Chat,
    entities.Attachment,
    entities.Message,
    entities.LastMessage,
    entities.Closing,
    entities.Operator,
    entities.GlobalData,
)
_ENUMS: Final = (
    entities.Role,
    entities.ChatStatus,
    entities.MessageType,
    entities.MessageStatus,
    entities.AttachmentType,
    events.RefusalCode,
)
_EXTENDED_FIELDS: Final[dict[type[Any], tuple[str, ...]]] = {
    SendMessage: ("client_id",),
    MessageAdded: ("client_id", "edited_at", "redacted"),
    MessageUpdated: ("edited_at", "redacted"),
    OperatorUpdated: ("away",),
}
_CONTRACT_DESCRIPTIONS: Final = {
    "User": "User related information",
    "Chat": "Additional chat information",
    "Message": "Message related information",
    "Operator": "Operator related information",
    "GlobalData": "Event specific payload data",
}


def component_schemas() -> dict[str, Schema]:
    """Return the schemas of all entities and enums, and of the data of commands and events, by class name.

    A server writes every field, including ``""`` and null, so all are required, with two exceptions: ``send_message``
    may omit fields that have a default, and the fields of events that only extended sockets get are absent instead of
    null or false.
    """
    classes = (*_ENTITIES, *COMMANDS.values(), *EVENTS.values())
    _, schemas = msgspec.json.schema_components(classes, ref_template=_REF_TEMPLATE)
    for name, schema in schemas.items():
        description = _CONTRACT_DESCRIPTIONS.get(name, schema["description"])
        schema["description"] = " ".join(description.replace("``", "`").split())
        if "properties" in schema and name not in (SendMessage.__name__, PageViewed.__name__):
            schema["required"] = list(schema["properties"])
            for field in schema["properties"].values():
                field.pop("default", None)
    for enum in _ENUMS:
        # Restores the contract's order, because msgspec sorts the values.
        schemas[enum.__name__] |= {"type": "string", "enum": [member.value for member in enum]}
    for cls, names in _EXTENDED_FIELDS.items():
        schema = schemas[cls.__name__]
        for name in names:
            field = schema["properties"][name]
            if cls is not SendMessage:
                schema["required"].remove(name)
                field = schema["properties"][name] = field["anyOf"][0] if "anyOf" in field else field
            field["x-profile"] = "extended"
    return schemas


def reference(cls: type[Any]) -> Schema:
    """Return a reference to the schema of a class."""
    return {"$ref": _REF_TEMPLATE.format(name=cls.__name__)}
