"""Events joined from fragments are byte for byte the same as encoded ones."""

from hypothesis import given
from hypothesis import strategies as st

from actorchat.protocol import (
    Message,
    MessageAdded,
    MessageNotAdded,
    MessageUpdated,
    Profile,
    attachments_fragment,
    chat_fragment,
    encode_event,
    message_added_payload,
    message_not_added_payload,
    message_updated_payload,
    user_fragment,
    with_edit,
)
from tests.protocol import strategies


@given(strategies.messages, st.none() | strategies.client_ids)
def test_message_added_from_fragments_equals_the_event(message: Message, client_id: str | None) -> None:
    joined = message_added_payload(
        id=message.id,
        type=message.type,
        type_role=message.type_role,
        status=message.status,
        text=message.text,
        send_time=message.send_time,
        message_index=message.message_index,
        chat_fragment=chat_fragment(message.chat),
        user_fragment=user_fragment(message.user),
        attachments_fragment=attachments_fragment(message.attachments),
        client_id=client_id,
    )
    assert joined == encode_event(MessageAdded(message, client_id), Profile.EXTENDED)


@given(strategies.messages)
def test_message_updated_from_fragments_equals_the_event(message: Message) -> None:
    joined = message_updated_payload(
        id=message.id,
        type=message.type,
        type_role=message.type_role,
        status=message.status,
        text=message.text,
        send_time=message.send_time,
        message_index=message.message_index,
        chat_fragment=chat_fragment(message.chat),
        user_fragment=user_fragment(message.user),
        attachments_fragment=attachments_fragment(message.attachments),
    )
    assert joined == encode_event(MessageUpdated(message), Profile.STRICT)


@given(strategies.messages, st.none() | strategies.client_ids, st.booleans())
def test_edits_added_to_fragments_equal_the_event(message: Message, client_id: str | None, redacted: bool) -> None:
    at = message.send_time
    added = encode_event(MessageAdded(message, client_id), Profile.EXTENDED)
    assert with_edit(added, at, redacted) == encode_event(
        MessageAdded(message, client_id, at, redacted), Profile.EXTENDED
    )
    updated = encode_event(MessageUpdated(message), Profile.STRICT)
    assert with_edit(updated, at, redacted) == encode_event(MessageUpdated(message, at, redacted), Profile.EXTENDED)
    assert updated == encode_event(MessageUpdated(message, at, redacted), Profile.STRICT)


@given(strategies.refusals)
def test_message_not_added_from_fragments_equals_the_event(refusal: MessageNotAdded) -> None:
    joined = message_not_added_payload(
        code=refusal.code,
        detail=refusal.detail,
        retryable=refusal.retryable,
        retry_after=refusal.retry_after,
        text=refusal.text,
        client_id=refusal.client_id,
        chat_id=refusal.chat_id,
        attachments=refusal.attachments,
    )
    assert joined == encode_event(refusal, Profile.STRICT)


def test_no_attachments_are_an_empty_array() -> None:
    assert attachments_fragment(()) == b"[]"
