"""Edits and redactions reach every socket: live, after a resume, after falling behind, and after a room has failed."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
import trio

from actorchat.chat.commands import OperationRequest
from actorchat.chat.limits import InFlightLimiter
from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage, Changed, CloseChat, EditMessage, RedactMessage
from actorchat.chat.submitter import ChatRefused
from actorchat.protocol import MarkMessageRead, MessageAdded, MessageType, MessageUpdated, Profile, Role, User
from tests.chat.harness import ChatHarness, Socket, open_chat
from tests.chat.people import ANNA, OLGA
from tests.chat.test_attachments import FILE, upload


async def write(harness: ChatHarness, chat: UUID, text: str, by: User = ANNA, **fields: Any) -> int:
    decision = await harness.chats.perform(AddMessage(chat, by, text, **fields))
    assert isinstance(decision, Changed)
    return decision.messages[0].id


async def edit(harness: ChatHarness, chat: UUID, message_id: int, text: str, by: User = ANNA) -> None:
    await harness.chats.perform(EditMessage(chat, by, message_id, text))
    await harness.settle()


def updates(socket: Socket) -> list[tuple[int, str, bool]]:
    return [
        (event.message.message_index, event.message.text, event.redacted)
        for event in socket.recorder.got(MessageUpdated)
    ]


async def test_an_edit_is_published_to_both_roles_and_marked_for_extended_sockets_only() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, strict = await harness.join(chat, ANNA), await harness.join(chat, ANNA, Profile.STRICT)
        olga, feed = await harness.join(chat, OLGA), await harness.console(OLGA)
        message_id = await write(harness, chat, "helo")
        await harness.settle()
        for socket in (anna, strict, olga, feed):
            socket.recorder.take()
        await edit(harness, chat, message_id, "hello")
        for socket in (anna, olga):
            assert socket.recorder.types() == ["message_updated"]
            assert updates(socket) == [(0, "hello", False)]
            assert socket.recorder.got(MessageUpdated)[0].edited_at is not None
        assert [list(json.loads(payload)["data"]) for payload in strict.recorder.payloads] == [["message"]]
        assert updates(feed) == [(0, "hello", False)]
        assert set(feed.recorder.types()) <= {"global_updated", "message_updated"}


async def test_a_note_is_edited_for_operators_only() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        await write(harness, chat, "hello")
        note = await write(harness, chat, "note", OLGA, type=MessageType.SYSTEM, type_role=Role.OPERATOR)
        await edit(harness, chat, note, "better note", OLGA)
        assert updates(olga) == [(1, "better note", False)]
        assert updates(anna) == []
        with pytest.raises(ChatRefused, match="not_found"):
            await edit(harness, chat, note, "mine")


async def test_a_message_of_the_server_can_not_be_edited_by_the_user_it_names() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        await write(harness, chat, "hello")
        closed = await harness.chats.perform(CloseChat(chat, ANNA))
        assert isinstance(closed, Changed)
        with pytest.raises(ChatRefused, match="not_allowed"):
            await edit(harness, chat, closed.messages[0].id, "open")


async def test_a_resumed_socket_gets_the_edits_of_what_it_has_and_the_new_text_of_the_rest() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        ids = [await write(harness, chat, str(number)) for number in range(6)]
        await edit(harness, chat, ids[1], "one")
        await harness.chats.perform(RedactMessage(chat, ANNA, ids[4]))
        for _ in range(2):
            back = await harness.join(chat, ANNA, after=2)
            await harness.settle()
            added = [(each.message.text, each.redacted) for each in back.recorder.got(MessageAdded)]
            assert added == [("3", False), ("", True), ("5", False)]
            assert updates(back) == [(1, "one", False)]
            types = [each for each in back.recorder.types() if each != "user_connected"]
            assert types[-4:] == ["message_updated", "receipts", "receipts", "chat_updated"]
            # The second time, the edit is sent from the room's memory.
            await harness.leave(back)
            await edit(harness, chat, ids[1], "one")


@pytest.mark.parametrize("store", ["memory://", "sqlite"])
async def test_many_edits_are_replayed_in_pages(store: str, tmp_path: object) -> None:
    url = store if store == "memory://" else f"sqlite:///{tmp_path}/chat.db"
    async with open_chat(Policy(edit_within=1e9), store=url) as harness:
        chat = await harness.reserve()
        ids = [await write(harness, chat, str(number)) for number in range(300)]
        for number in range(0, 300, 2):
            await harness.chats.perform(EditMessage(chat, ANNA, ids[number], f"edited {number}"))
        back = await harness.join(chat, ANNA, after=249)
        with trio.fail_after(30):
            while "chat_updated" not in back.recorder.types():  # noqa: ASYNC110 - reading in threads has no event
                await trio.sleep(0.01)
        texts = {index: text for index, text, _ in updates(back)}
        assert texts == {number: f"edited {number}" for number in range(0, 250, 2)}
        assert back.recorder.indexes() == list(range(250, 300))
        assert back.recorder.texts()[0] == "edited 250"


async def test_a_receipt_in_the_same_batch_as_an_edit_shows_the_new_text() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        strict, olga = await harness.join(chat, ANNA, Profile.STRICT), await harness.join(chat, OLGA)
        message_id = await write(harness, chat, "helo")
        edited = EditMessage(chat, ANNA, message_id, "hello")
        # Both are submitted in one step, so they are committed in one batch.
        harness.chats._rooms[chat].tell(OperationRequest(edited, InFlightLimiter(9)))
        olga.receiver.receive(MarkMessageRead(message_id))
        await harness.settle()
        assert [text for _, text, _ in updates(strict)] == ["hello", "hello"]


async def test_an_edit_that_a_crashed_room_did_not_publish_is_published_from_storage() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        message_id = await write(harness, chat, "helo")
        publisher = harness.chats._rooms.anchor(chat)
        publisher._misses_changes, publisher.complete = True, False
        await edit(harness, chat, message_id, "hello")
        assert updates(anna) == [(0, "hello", False)]


async def test_files_of_a_redacted_message_are_reported_even_if_nobody_waits() -> None:
    async with open_chat() as harness:
        removed: list[UUID] = []
        harness.chats.on_removed = removed.extend
        chat = await harness.reserve()
        await upload(harness, FILE)
        message_id = await write(harness, chat, "look", attachments=(FILE,))
        with trio.move_on_after(0):
            await harness.chats.perform(RedactMessage(chat, ANNA, message_id))
        await harness.settle()
        assert removed == [FILE]
