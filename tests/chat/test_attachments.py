"""Files of messages are stored with the message, and each reader gets its own signed links."""

from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import msgspec
import pytest
import trio

from actorchat.chat.model import StoredAttachment, Upload, identity_of
from actorchat.chat.operations import AddMessage, Changed, Unchanged
from actorchat.chat.submitter import ChatRefused
from actorchat.protocol import (
    Attachment,
    AttachmentType,
    MarkMessageRead,
    MessageAdded,
    MessageNotAdded,
    MessageUpdated,
    Profile,
    SendMessage,
    User,
)
from tests.chat.harness import LINKS, ChatHarness, Socket, open_chat
from tests.chat.people import ANNA, OLGA

FILE = UUID(int=1)
OTHER = UUID(int=2)


async def upload(harness: ChatHarness, *files: UUID, by: User = ANNA) -> None:
    for file in files:
        attachment = StoredAttachment(file, AttachmentType.IMAGE, "я.png", "png", 5, 3)
        await harness.chats.record_upload(
            Upload(attachment, identity_of(by), "lk", "image/png", int(trio.current_time()))
        )


def send(socket: Socket, text: str, *files: UUID, client_id: str | None = None) -> None:
    socket.receiver.receive(SendMessage(text, files, client_id))


def attachments(socket: Socket, kind: type[MessageAdded] | type[MessageUpdated] = MessageAdded) -> list[Attachment]:
    return [each for event in socket.recorder.got(kind) for each in event.message.attachments]


def check_links(shown: list[Attachment], reader: User, *files: UUID) -> None:
    """The attachments are these files, and their links are for `reader`."""
    assert [attachment.uuid for attachment in shown] == list(files)
    for attachment in shown:
        for url in (attachment.url, attachment.url_preview):
            [ticket] = parse_qs(urlsplit(url).query)["ticket"]
            assert LINKS.check(attachment.uuid, ticket)[0] == identity_of(reader)


def unsigned(payload: bytes) -> Any:
    value = msgspec.json.decode(payload)
    for attachment in value["data"]["message"]["attachments"]:
        attachment["url"] = attachment["url_preview"] = ""
    value["data"].pop("client_id", None)
    return value


@pytest.mark.parametrize("client_id", [None, "k"])
async def test_every_reader_gets_links_of_their_own_and_else_the_same(client_id: str | None) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        console = await harness.console(OLGA)
        sockets = [(await harness.join(chat, user, profile), user) for user in (ANNA, OLGA) for profile in Profile]
        await upload(harness, FILE, OTHER)
        send(sockets[0][0], "look", FILE, OTHER, client_id=client_id)
        send(sockets[0][0], "plain")
        await harness.settle()
        for socket, reader in [*sockets, (console, OLGA)]:
            check_links(attachments(socket), reader, FILE, OTHER)
            assert socket.recorder.texts() == ["look", "plain"]
        added = [
            unsigned(payload)
            for socket, _ in [*sockets, (console, OLGA)]
            for payload in socket.recorder.payloads
            if b'"look"' in payload
        ]
        assert len(added) == 5
        assert all(each == added[0] for each in added)


async def test_replay_and_status_changes_have_links_for_their_reader() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA, Profile.STRICT)
        await upload(harness, FILE)
        send(anna, "", FILE)
        await harness.settle()
        late = await harness.join(chat, OLGA, after=-1)
        await harness.settle()
        check_links(attachments(late), OLGA, FILE)
        late.receiver.receive(MarkMessageRead(late.recorder.got(MessageAdded)[0].message.id))
        await harness.settle()
        check_links(attachments(anna, MessageUpdated), ANNA, FILE)


async def test_a_long_replay_from_storage_has_links_for_its_reader() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        await upload(harness, FILE)
        send(anna, "first", FILE)
        for number in range(150):
            send(anna, str(number))
            await harness.settle()
        late = await harness.join(chat, OLGA, after=-1)
        await harness.settle()
        assert len(late.recorder.texts()) == 151
        check_links(attachments(late), OLGA, FILE)


async def test_a_console_that_connects_late_gets_links_of_its_own() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        await upload(harness, FILE)
        send(anna, "first")
        await harness.settle()
        console = await harness.console(OLGA)
        send(anna, "second", FILE)
        await harness.settle()
        check_links(attachments(console), OLGA, FILE)


async def test_a_repeat_with_other_files_is_a_conflict() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        await upload(harness, FILE, OTHER)
        for _ in range(2):
            send(anna, "x", FILE, client_id="k")
            await harness.settle()
        first, second = anna.recorder.got(MessageAdded)
        assert first == second
        check_links(list(second.message.attachments), ANNA, FILE)
        for files in ((), (OTHER,), (FILE, OTHER)):
            send(anna, "x", *files, client_id="k")
        await harness.settle()
        assert [each.code for each in anna.recorder.got(MessageNotAdded)] == ["conflict"] * 3
        [free] = await harness.chats.chat_reader.uploads((OTHER,))
        assert not free.bound


async def test_a_refusal_names_the_files_that_it_is_about() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        await upload(harness, FILE)
        await upload(harness, OTHER, by=OLGA)
        send(anna, "x", FILE, OTHER)
        send(anna, "x", *[FILE] * 11)
        await harness.settle()
        # The refusal that needs no storage comes first.
        many, unknown = anna.recorder.got(MessageNotAdded)
        assert (many.code, many.attachments) == ("too_many_attachments", (FILE,) * 11)
        assert (unknown.code, unknown.attachments) == ("attachment_unknown", (OTHER,))


async def test_of_two_chats_that_race_for_one_file_one_gets_it() -> None:
    async with open_chat() as harness:
        first = await harness.reserve()
        second, _ = await harness.chats.reserve_chat("mall", ANNA)
        sockets = [await harness.join(first, ANNA), await harness.join(second.uuid, ANNA)]
        await upload(harness, FILE)
        for socket in sockets:
            send(socket, "mine", FILE)
        await harness.settle()
        assert [len(socket.recorder.got(MessageAdded)) for socket in sockets] == [1, 0]
        assert [each.code for each in sockets[1].recorder.got(MessageNotAdded)] == ["attachment_unknown"]


async def test_uploads_that_nobody_took_are_forgotten() -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        await upload(harness, FILE, OTHER)
        taken = await harness.chats.perform(AddMessage(chat, ANNA, "", (FILE,)))
        assert isinstance(taken, Changed | Unchanged)
        assert await harness.chats.chat_reader.unbound_uploads(trio.current_time(), 9) == (OTHER,)
        assert await harness.chats.expire_uploads((FILE, OTHER), trio.current_time()) == (OTHER,)
        with pytest.raises(ChatRefused, match="attachment_unknown"):
            await harness.chats.perform(AddMessage(chat, ANNA, "", (OTHER,)))
