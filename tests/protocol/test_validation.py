"""All faults of a value are reported, and nothing is coerced."""

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from msgspec import Meta

from actorchat.protocol import (
    Chat,
    Fault,
    Malformed,
    Message,
    NotUtf8,
    Operator,
    Role,
    User,
    decode_entity,
    encode_entity,
    parse_json,
    structure,
)
from actorchat.protocol.limits import MAX_FAULTS
from tests.protocol import strategies


@attrs.frozen
class Body:
    """An example of an HTTP body."""

    source: Annotated[str, Meta(min_length=1, max_length=3, pattern="^[a-z]+$")]
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    wait: float | None = None
    tags: list[str] = attrs.field(factory=list)


def faults_of(value: object) -> list[tuple[str, str]]:
    with pytest.raises(Malformed) as caught:
        structure(value, Body)
    return [(fault.path, fault.detail) for fault in caught.value.faults]


def test_all_faults_of_a_body_are_found_at_once() -> None:
    assert faults_of({"limit": 201, "wait": "soon", "tags": ["a", 5]}) == [
        ("source", "missing"),
        ("limit", "larger than 200"),
        ("wait", 'expected a number, got "soon"'),
        ("tags[1]", "expected a string, got 5"),
    ]


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("", "shorter than 1"),
        ("abcd", "longer than 3"),
        ("A", 'expected a string like ^[a-z]+$, got "A"'),
        ({}, "expected a string, got an object"),
        (False, "expected a string, got false"),
    ],
)
def test_bounds_of_an_annotation_are_checked(value: object, detail: str) -> None:
    assert faults_of({"source": value}) == [("source", detail)]


@pytest.mark.parametrize("value", [None, [], "x", 5, True])
def test_a_value_that_is_not_an_object_is_one_fault(value: object) -> None:
    (fault,) = faults_of(value)
    assert fault[0] == ""
    assert fault[1].startswith("expected an object, got ")


def test_integers_are_accepted_as_numbers_but_booleans_are_not() -> None:
    assert structure({"source": "a", "wait": 2}, Body) == Body("a", wait=2.0)
    assert faults_of({"source": "a", "wait": True}) == [("wait", "expected a number, got true")]
    assert faults_of({"source": "a", "limit": True}) == [("limit", "expected an integer, got true")]
    assert faults_of({"source": "a", "limit": 0}) == [("limit", "smaller than 1")]


def test_a_long_wrong_value_is_quoted_in_part() -> None:
    (fault,) = faults_of({"source": "a", "limit": "x" * 10_000})
    assert len(fault[1]) < 100


class Counted(list[object]):
    """A list that counts how many items were read."""

    read = 0

    def __iter__(self) -> Iterator[object]:
        for item in super().__iter__():
            self.read += 1
            yield item


def test_a_list_of_nothing_but_faults_is_not_read_to_its_end() -> None:
    tags = Counted([0] * 10_000)
    assert len(faults_of({"source": "a", "tags": tags})) == MAX_FAULTS
    assert tags.read == MAX_FAULTS


def test_a_path_is_put_before_every_fault() -> None:
    with pytest.raises(Malformed) as caught:
        structure({}, Body, path="body")
    assert caught.value.faults == (Fault("body.source", "missing"),)
    assert str(caught.value) == "body.source: missing"


def test_a_role_comes_out_as_a_role() -> None:
    user = decode_entity(b'{"id":1,"role":"operator"}', User)
    assert type(user.role) is Role
    assert user == User(1, Role.OPERATOR)


@pytest.mark.parametrize("end", ["x", "\n", "}"])
def test_a_uuid_with_trailing_characters_is_invalid(end: str) -> None:
    text = "3f439f10-9c19-4bd4-81a8-d6e048b97ba4" + end
    with pytest.raises(Malformed, match="expected a UUID"):
        structure(text, UUID)


def test_an_entity_deep_inside_is_named_by_its_path() -> None:
    payload = b'[{"user":{"id":1,"role":"boss"},"is_online":1,"new_chats":0,"open_chats":0}]'
    with pytest.raises(Malformed) as caught:
        decode_entity(payload, list[Operator])
    assert [fault.path for fault in caught.value.faults] == ["[0].user.role", "[0].is_online"]


@pytest.mark.parametrize(
    "send_time",
    [
        "2025-01-20T16:31:04Z",
        "2025-01-20 16:31:04+03:00",
        "2025-01-20T16:31:04.5+03:00",
        "2025-01-20T16:31:04+03:00\n",
        "",
    ],
)
@given(message=strategies.messages)
def test_a_send_time_of_another_shape_is_refused(send_time: str, message: Message) -> None:
    payload = encode_entity(attrs.evolve(message, send_time=send_time))
    with pytest.raises(Malformed) as caught:
        decode_entity(payload, Message)
    assert caught.value.path == "send_time"


@given(strategies.chats)
def test_an_entity_is_decoded_as_it_was_encoded(chat: Chat) -> None:
    assert decode_entity(encode_entity(chat), Chat) == chat


def test_a_value_of_a_wrong_type_is_named_by_its_json_type() -> None:
    with pytest.raises(NotUtf8, match="not UTF-8 at byte 1"):
        parse_json(b'"\xff"')
    with pytest.raises(Malformed, match="not JSON: Expecting value at character 0"):
        parse_json("")
    with pytest.raises(Malformed, match="nested too deeply"):
        parse_json("[" * 100_000)
