"""The contract's own examples pass through the codec unchanged."""

import json
from typing import get_args

import pytest

from actorchat.protocol import (
    BrokerChannel,
    Command,
    Event,
    Profile,
    decode_broker_body,
    decode_command,
    decode_event,
    encode_broker_body,
    encode_command,
    encode_event,
)
from tests.protocol import contract


def compact(text: str) -> bytes:
    """The same JSON without white space, keys in the order they came."""
    return json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", contract.COMMANDS)
def test_a_command_of_the_contract_decodes_and_encodes_to_the_same_text(name: str) -> None:
    text = contract.example(name)
    command = decode_command(text)
    assert isinstance(command, get_args(Command))
    assert encode_command(command) == compact(text)


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("name", contract.EVENTS)
def test_an_event_of_the_contract_decodes_and_encodes_to_the_same_text(name: str, profile: Profile) -> None:
    text = contract.example(name)
    event = decode_event(text)
    assert isinstance(event, get_args(Event))
    assert encode_event(event, profile) == compact(text)


@pytest.mark.parametrize("name", contract.BODIES)
def test_a_broker_body_of_the_contract_decodes_and_encodes_to_the_same_text(name: str) -> None:
    text = contract.example(name)
    body = decode_broker_body(BrokerChannel(name.split("_")[1]), text)
    assert encode_broker_body(body) == compact(text)


@pytest.mark.parametrize("name", contract.BODIES)
def test_a_broker_body_with_shuffled_keys_encodes_in_the_contracts_order(name: str) -> None:
    text = contract.example(name)
    shuffled = json.dumps(json.loads(text), sort_keys=True)
    body = decode_broker_body(BrokerChannel(name.split("_")[1]), shuffled)
    assert encode_broker_body(body) == compact(text)
