"""Encodes and decodes commands, events and entities as JSON.

msgspec decodes a known command in one pass. A command that it refuses is decoded again by cattrs, which is slower but
names all faults. If the two disagree, cattrs decides.
"""

from typing import Any, Final, TypeVar, Union, cast
from uuid import UUID

import attrs
import msgspec

from actorchat.protocol.commands import COMMANDS, EXTENDED_COMMANDS, Command, SendMessage, UpdateTyping
from actorchat.protocol.entities import User
from actorchat.protocol.events import EVENTS, EXTENDED_EVENTS, Event, MessageAdded, MessageUpdated, OperatorUpdated
from actorchat.protocol.profiles import Profile
from actorchat.protocol.validation import Fault, Malformed, parse_json, structure

T = TypeVar("T")


@attrs.frozen
class UnknownType:
    """A well-formed envelope with a type that the contract does not have."""

    type: str


@attrs.frozen(slots=False)
class _StrictSendMessage:
    """``send_message`` in the strict profile, where ``client_id`` is an unknown field and ignored."""

    text: str
    attachments: tuple[UUID, ...] = ()


@attrs.frozen(slots=False)
class _StrictOperatorUpdated:
    """``operator_updated`` without the fields of the extended profile."""

    user: User
    is_online: bool
    new_chats: int
    open_chats: int


@attrs.frozen
class _TypeOnly:
    type: str


class _Envelope(msgspec.Struct):
    # A Struct, not attrs: decoded for every frame and never seen outside this module.
    type: str
    data: msgspec.Raw = msgspec.Raw()


# Decodes a known command in one pass: its type is the tag that selects the class of its data. Any: type checkers can't
# read a union made from a table.
_known_commands: Final[Any] = Union[  # noqa: UP007
    tuple(
        msgspec.defstruct(f"_{cls.__name__}", [("data", cls)], tag_field="type", tag=name)
        for name, cls in COMMANDS.items()
    )
]
_decode_known: Final = msgspec.json.Decoder(_known_commands).decode
_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_encode: Final = msgspec.json.Encoder().encode

# Any: each decoder returns its own class, which the type of a dict can't express.
_events: Final[dict[str, Any]] = {name: msgspec.json.Decoder(cls).decode for name, cls in EVENTS.items()}
_event_heads: Final[dict[type[Event], bytes]] = {
    cls: b'{"type":"%s","data":' % name.encode() for name, cls in EVENTS.items()
}


def decode_command(payload: bytes | str, profile: Profile = Profile.EXTENDED) -> Command | UnknownType:
    """Decode a frame of a client. Types and fields of the extended profile only are unknown in the strict profile.

    A lone surrogate in the text of ``update_typing`` becomes U+FFFD, because clients produce it while a user types.
    Raises NotUtf8 for invalid UTF-8, Malformed with all faults for everything else that is not allowed, and nothing
    else.
    """
    try:
        # Validates the UTF-8 of unknown fields, which msgspec skips.
        text = payload.decode() if isinstance(payload, bytes) else payload
        if "\\u0000" in text:
            return _decode_command_slowly(payload, profile)
        command: Command = _decode_known(payload).data
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _decode_command_slowly(payload, profile)
    if profile is Profile.STRICT:
        if command.__class__ is SendMessage:
            if command.client_id is not None:
                return SendMessage(command.text, command.attachments)
        elif command.__class__ in EXTENDED_COMMANDS:
            return UnknownType(command.type)
    return command


def decode_event(payload: bytes | str) -> Event | UnknownType:
    """Decode a frame of a server, for clients. Raises NotUtf8 and Malformed like ``decode_command``.

    Encoding the result again keeps the order of the keys.
    """
    try:
        if isinstance(payload, bytes):
            payload.decode()
        envelope = _decode_envelope(payload)
        decode = _events.get(envelope.type)
        if decode is None:
            return UnknownType(envelope.type)
        event: Event = decode(envelope.data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _decode_event_slowly(payload)
    return event


def decode_entity(payload: bytes | str, cls: type[T]) -> T:
    """Decode an entity without an envelope, or a list of them: ``decode_entity(body, list[Operator])``.

    Raises NotUtf8, and Malformed with all faults.
    """
    return structure(parse_json(payload), cls)


def encode_command(command: Command) -> bytes:
    """Encode a command as a client sends it. A ``client_id`` of None is left out."""
    data = {field.name: getattr(command, field.name) for field in attrs.fields(type(command))}
    if data.get("client_id", "") is None:
        del data["client_id"]
    return _encode({"type": command.type, "data": data})


def encode_event(event: Event, profile: Profile) -> bytes:
    """Encode an event for sockets of that profile, with the keys in the contract's order.

    Fields of the extended profile are left out in the strict one. Raises ValueError for an event that the strict
    profile does not have.
    """
    cls = type(event)
    if profile is Profile.STRICT and cls in EXTENDED_EVENTS:
        raise ValueError(f"the strict profile has no event {event.type}")
    if isinstance(event, MessageAdded | MessageUpdated):
        data = b'{"message":%s' % _encode(event.message)
        if profile is Profile.EXTENDED:
            data += _extended_fields(event)
        return b"%s%s}}" % (_event_heads[cls], data)
    if isinstance(event, OperatorUpdated):
        data = _encode(_StrictOperatorUpdated(event.user, event.is_online, event.new_chats, event.open_chats))
        if event.away and profile is Profile.EXTENDED:
            data = b'%s,"away":true}' % data[:-1]
        return b"%s%s}" % (_event_heads[cls], data)
    return b"%s%s}" % (_event_heads[cls], _encode(event))


def _extended_fields(event: MessageAdded | MessageUpdated) -> bytes:
    """Encode the fields after ``message``. Fields that have their default value are left out."""
    fields = b""
    if isinstance(event, MessageAdded) and event.client_id is not None:
        fields += b',"client_id":%s' % _encode(event.client_id)
    if event.edited_at is not None:
        fields += b',"edited_at":%s' % _encode(event.edited_at)
    return fields + b',"redacted":true' if event.redacted else fields


def encode_entity(value: object) -> bytes:
    """Encode an entity or a sequence of them without an envelope, with the keys in the contract's order."""
    return _encode(value)


def _open_envelope(payload: bytes | str) -> tuple[str, object, bool]:
    """Decode an envelope on the slow path: its type, its data, and whether it has data."""
    value = parse_json(payload)
    name = structure(value, _TypeOnly).type
    # ``structure`` accepts only objects.
    fields = cast("dict[str, object]", value)
    return name, fields.get("data"), "data" in fields


def _decode_event_slowly(payload: bytes | str) -> Event | UnknownType:
    name, data, has_data = _open_envelope(payload)
    cls = EVENTS.get(name)
    if cls is None:
        return UnknownType(name)
    if not has_data:
        raise Malformed((Fault("data", "missing"),), type=name)
    try:
        return structure(data, cls, path="data")
    except Malformed as error:
        raise Malformed(error.faults, type=name) from None


def _decode_command_slowly(payload: bytes | str, profile: Profile) -> Command | UnknownType:
    name, data, has_data = _open_envelope(payload)
    cls = COMMANDS.get(name)
    if cls is None or (profile is Profile.STRICT and cls in EXTENDED_COMMANDS):
        return UnknownType(name)
    if not has_data:
        raise Malformed((Fault("data", "missing"),), type=name)
    if cls is UpdateTyping and isinstance(data, dict) and isinstance(text := data.get("text"), str):
        data = data | {"text": _replace_lone_surrogates(text)}
    try:
        if cls is SendMessage and profile is Profile.STRICT:
            strict = structure(data, _StrictSendMessage, path="data")
            return SendMessage(strict.text, strict.attachments)
        return structure(data, cls, path="data")
    except Malformed as error:
        if cls is not SendMessage or not isinstance(data, dict):
            raise Malformed(error.faults, type=name) from None
        raise Malformed(
            error.faults,
            type=name,
            text=_text_or_none(data.get("text")),
            client_id=_text_or_none(data.get("client_id")) if profile is Profile.EXTENDED else None,
        ) from None


def _replace_lone_surrogates(text: str) -> str:
    """Replace each lone surrogate by U+FFFD. Clients produce them by cutting text in the middle of an emoji."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text_or_none(value: object) -> str | None:
    """Return the value if it is text that can be sent back, possibly with NUL; else None."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value
