"""Commands and events are encoded and decoded without loss, as each profile demands."""

import json
from typing import Any
from uuid import UUID

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorchat.protocol import (
    COMMANDS,
    EVENTS,
    EXTENDED_EVENTS,
    Command,
    ErrorEvent,
    Event,
    Malformed,
    MarkMessageRead,
    MessageAdded,
    MessageNotAdded,
    NotUtf8,
    Ping,
    Profile,
    RefusalCode,
    SendMessage,
    UnknownType,
    UpdateTyping,
    codec,
    decode_command,
    decode_event,
    encode_command,
    encode_event,
)
from tests.protocol import strategies
from tests.protocol.contract import example


@given(strategies.commands)
def test_every_command_is_decoded_as_it_was_encoded(command: Command) -> None:
    assert decode_command(encode_command(command)) == command


@given(strategies.events)
def test_every_event_is_decoded_as_it_was_encoded(event: Event) -> None:
    assert decode_event(encode_event(event, Profile.EXTENDED)) == event


@given(strategies.events)
def test_the_slow_decoding_of_an_event_equals_the_fast_one(event: Event) -> None:
    assert codec._decode_event_slowly(encode_event(event, Profile.EXTENDED)) == event


@given(strategies.events)
def test_keys_are_written_in_the_order_of_the_fields(event: Event) -> None:
    data = json.loads(encode_event(event, Profile.EXTENDED))["data"]
    fields = [name for name in vars(event) if name in data]
    assert list(data) == fields


def near(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly the valid value, sometimes any other JSON."""
    wrong = st.none() | st.booleans() | st.integers() | st.floats() | strategies.texts | st.lists(st.integers())
    return st.one_of(valid, valid, valid, wrong)


near_commands = st.fixed_dictionaries(
    {},
    optional={
        "type": near(st.sampled_from(sorted(COMMANDS))),
        "data": near(
            st.fixed_dictionaries(
                {
                    "text": near(strategies.texts),
                    "message_id": near(strategies.integers),
                    "n": near(strategies.integers),
                },
                optional={
                    "stopped": near(st.booleans()),
                    "attachments": near(st.lists(near(st.uuids().map(str)), max_size=3)),
                    "client_id": near(strategies.client_ids),
                    "unknown": st.lists(strategies.texts),
                },
            )
        ),
    },
)


@given(near_commands, st.sampled_from(Profile))
def test_the_fast_decoder_accepts_nothing_that_the_slow_one_refuses(value: object, profile: Profile) -> None:
    payload = json.dumps(value).encode()
    try:
        command = decode_command(payload, profile)
    except Malformed:
        return
    assert codec._decode_command_slowly(payload, profile) == command


@given(st.binary() | strategies.texts)
@hypothesis.example('{"type":"","":{}}')
@hypothesis.example(b'{"data":{},"type":"send"}')
def test_random_input_raises_malformed_and_nothing_else(payload: bytes | str) -> None:
    for decode in (decode_command, decode_event):
        try:
            told = decode(payload)
        except Malformed:
            continue
        # Some random values are valid envelopes.
        assert told == UnknownType(json.loads(payload)["type"])


def test_text_and_bytes_decode_alike() -> None:
    text = example("01_send_message")
    assert decode_command(text) == decode_command(text.encode())


def test_a_send_without_attachments_has_none() -> None:
    assert decode_command(b'{"type":"send_message","data":{"text":"hi"}}') == SendMessage("hi")


def test_unknown_fields_are_ignored_at_every_level() -> None:
    payload = b'{"type":"mark_message_read","x":[1],"data":{"message_id":7,"y":{"z":"\\ud800"}}}'
    assert decode_command(payload) == MarkMessageRead(7)


@pytest.mark.parametrize("data", [b"", b',"data":5', b',"data":{"text":5}', b',"data":"\\ud800"'])
def test_an_unknown_type_is_returned_whatever_its_data(data: bytes) -> None:
    payload = b'{"type":"dance"%s}' % data
    assert decode_command(payload) == UnknownType("dance")
    assert decode_event(payload) == UnknownType("dance")


def test_an_escaped_backslash_before_u0000_is_not_a_nul() -> None:
    payload = rb'{"type":"update_typing","data":{"text":"\\u0000","stopped":false}}'
    assert decode_command(payload) == UpdateTyping(r"\u0000", False)


def test_surrogate_pairs_and_the_whole_of_unicode_are_text() -> None:
    payload = rb'{"type":"send_message","data":{"text":"\ud83d\ude00 \uFFFF"}}'
    assert decode_command(payload) == SendMessage("\U0001f600 \uffff")


def test_the_bound_of_integers_is_part_of_the_range() -> None:
    for bound in (2**53, -(2**53)):
        assert decode_command(encode_command(MarkMessageRead(bound))) == MarkMessageRead(bound)


@pytest.mark.parametrize("client_id", ['"mine"', "5", f'"{"x" * 65}"', '"\\u0000"', "null"])
def test_client_id_is_an_unknown_field_in_the_strict_profile(client_id: str) -> None:
    payload = f'{{"type":"send_message","data":{{"text":"hi","client_id":{client_id}}}}}'
    assert decode_command(payload, Profile.STRICT) == SendMessage("hi")


def test_a_malformed_send_keeps_its_readable_fields() -> None:
    uuid = "3f439f10-9c19-4bd4-81a8-d6e048b97ba4"
    payload = f'{{"type":"send_message","data":{{"text":"hi","client_id":"mine","attachments":[5,"{uuid}"]}}}}'
    with pytest.raises(Malformed) as caught:
        decode_command(payload)
    kept = caught.value
    assert (kept.type, kept.text, kept.client_id) == (
        "send_message",
        "hi",
        "mine",
    )


def test_the_readable_fields_of_a_malformed_send_can_be_encoded() -> None:
    payload = rb'{"type":"send_message","data":{"text":"\ud800","client_id":"a\u0000b"}}'
    with pytest.raises(Malformed) as caught:
        decode_command(payload)
    assert (caught.value.text, caught.value.client_id) == (None, "a\0b")


def test_a_strict_client_gets_no_client_id_back() -> None:
    payload = rb'{"type":"send_message","data":{"text":5,"client_id":"mine"}}'
    with pytest.raises(Malformed) as caught:
        decode_command(payload, Profile.STRICT)
    assert caught.value.client_id is None


def test_every_fault_is_named() -> None:
    payload = b'{"type":"send_message","data":{"text":5,"attachments":["a",true],"client_id":[]}}'
    with pytest.raises(Malformed) as caught:
        decode_command(payload)
    assert caught.value.detail == (
        "data.text: expected a string, got 5; "
        'data.attachments[0]: expected a UUID, got "a"; '
        "data.attachments[1]: expected a UUID, got true; "
        "data.client_id: expected a string, got an array"
    )


def test_invalid_utf8_is_distinguished_from_other_faults() -> None:
    with pytest.raises(NotUtf8):
        decode_command(b'{"type":"dance","x":"\xff"}')
    with pytest.raises(NotUtf8):
        decode_event(b'{"type":"dance","x":"\xff"}')


def test_client_id_is_written_in_the_extended_profile_only() -> None:
    event = decode_event(example("04_message_added"))
    assert isinstance(event, MessageAdded)
    named = MessageAdded(event.message, "mine")
    assert encode_event(named, Profile.STRICT) == encode_event(event, Profile.EXTENDED)
    assert json.loads(encode_event(named, Profile.EXTENDED))["data"]["client_id"] == "mine"


def test_nulls_of_a_refusal_are_written() -> None:
    event = MessageNotAdded(RefusalCode.EMPTY, "", False, None, "", None, UUID(int=0), ())
    assert encode_event(event, Profile.STRICT) == (
        b'{"type":"message_not_added","data":{"code":"empty","detail":"","retryable":false,"retry_after":null,'
        b'"text":"","client_id":null,"chat_id":"00000000-0000-0000-0000-000000000000","attachments":[]}}'
    )


def test_events_of_the_extended_profile_cannot_be_written_for_strict_sockets() -> None:
    assert {cls.type for cls in EXTENDED_EVENTS} == {
        "error",
        "receipts",
        "resync_required",
        "pong",
        "feed_ready",
        "note_added",
        "chat_summary",
    }
    with pytest.raises(ValueError, match="strict"):
        encode_event(ErrorEvent("malformed", "", ""), Profile.STRICT)


def test_a_command_of_the_extended_profile_is_an_unknown_type_on_strict_sockets() -> None:
    for payload in (b'{"type":"ping","data":{"n":1}}', b'{"type":"ping","data":{}}', b'{"type":"ping"}'):
        assert decode_command(payload, Profile.STRICT) == UnknownType("ping")
    assert decode_command(b'{"type":"ping","data":{"n":1}}') == Ping(1)
    with pytest.raises(Malformed, match=r"data\.n: missing"):
        decode_command(b'{"type":"ping","data":{}}')


def test_the_wire_types_are_the_contracts() -> None:
    assert list(COMMANDS) == [
        "send_message",
        "mark_message_delivered",
        "mark_message_read",
        "update_typing",
        "ping",
        "page_viewed",
    ]
    assert list(EVENTS) == [
        "message_added",
        "message_updated",
        "user_connected",
        "user_disconnected",
        "chat_updated",
        "operator_updated",
        "typing_updated",
        "global_updated",
        "message_not_added",
        "error",
        "receipts",
        "resync_required",
        "pong",
        "feed_ready",
        "chat_summary",
        "note_added",
    ]


def test_a_malformed_event_is_explained_too() -> None:
    with pytest.raises(Malformed, match=r"data\.user\.role: expected one of user, operator, got 1"):
        decode_event(b'{"type":"user_connected","data":{"user":{"id":1,"role":1}}}')
    with pytest.raises(Malformed, match="data: missing"):
        decode_event(b'{"type":"user_connected"}')


@pytest.mark.parametrize("payload", [rb'"a\ud83d"', rb'"\udc0ca"', rb'"\ud83d\ud83d\udc0c\udc0c"'])
@pytest.mark.parametrize("profile", Profile)
def test_a_lone_surrogate_in_typing_becomes_a_replacement_character(payload: bytes, profile: Profile) -> None:
    command = decode_command(b'{"type":"update_typing","data":{"text":%s,"stopped":false}}' % payload, profile)
    assert isinstance(command, UpdateTyping)
    assert command.text == json.loads(payload).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert "\ufffd" in command.text
    assert encode_command(command)
