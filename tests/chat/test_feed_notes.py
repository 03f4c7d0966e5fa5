"""Extended consoles get notes, edits and redactions in the order of the chat; strict consoles get none of them."""

from __future__ import annotations

from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    CloseChat,
    EditMessage,
    RedactMessage,
    TransferChat,
)
from actorchat.chat.submitter import ChatRefused
from actorchat.protocol import Event, MessageAdded, MessageType, MessageUpdated, NoteAdded, Profile, Role, User
from tests.chat.harness import ChatHarness, open_chat
from tests.chat.people import ANNA, OLGA, PETR


async def add(harness: ChatHarness, chat: UUID, author: User, text: str, role: Role | None = None) -> int:
    """Add a standard message, or a system message for `role`. Returns its id."""
    type_ = MessageType.STANDARD if role is None else MessageType.SYSTEM
    decision = await harness.chats.perform(AddMessage(chat, author, text, type=type_, type_role=role or author.role))
    assert isinstance(decision, Changed)
    return decision.messages[0].id


def told(events: list[Event]) -> list[str]:
    lines = []
    for event in events:
        if isinstance(event, MessageAdded):
            assert event.message.type is MessageType.STANDARD
            lines.append(f"standard {event.message.text}")
        elif isinstance(event, NoteAdded):
            lines.append(f"system {event.message.text}")
        elif isinstance(event, MessageUpdated):
            lines.append("redacted" if event.redacted else f"edited {event.message.text}")
    return lines


async def test_extended_consoles_get_notes_edits_and_redactions(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        extended, strict = await harness.console(PETR), await harness.console(PETR, profile=Profile.STRICT)
        first = await add(harness, chat, ANNA, "hi")
        await harness.chats.perform(AcceptChat(chat, OLGA))
        await add(harness, chat, OLGA, "a note", Role.OPERATOR)
        await add(harness, chat, OLGA, "for Anna", Role.USER)
        await harness.chats.perform(EditMessage(chat, ANNA, first, "hello"))
        await harness.chats.perform(RedactMessage(chat, ANNA, first))
        await add(harness, chat, OLGA, "bye")
        await harness.chats.perform(CloseChat(chat, OLGA))
        await trio.sleep(1)
        assert told(strict.recorder.events) == ["standard hi", "standard bye"]
        assert told(extended.recorder.events) == [
            "standard hi",
            "system a note",
            "edited hello",
            "redacted",
            "standard bye",
        ]
        # Everything else is the same, and in the same order.
        common = ("chat_updated", "message_added")
        types = [[name for name in socket.recorder.types() if name in common] for socket in (extended, strict)]
        assert types[0] == types[1]


async def test_a_burst_that_is_published_at_once_keeps_its_order_on_both_kinds_of_consoles(
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        await add(harness, chat, ANNA, "hi")
        extended, strict = await harness.console(OLGA), await harness.console(PETR, profile=Profile.STRICT)
        async with trio.open_nursery() as nursery:
            for n in range(9):
                role = Role.OPERATOR if n % 3 == 1 else None
                nursery.start_soon(add, harness, chat, OLGA, f"{n}", role)
        await trio.sleep(1)
        page = await harness.chats.chat_reader.after(chat, Role.OPERATOR, after=0, limit=99)
        assert page is not None
        expected = [f"{message.type} {message.text}" for message in page.messages]
        assert told(extended.recorder.events) == expected
        assert told(strict.recorder.events) == [line for line in expected if line.startswith("standard")]


async def test_a_console_that_reads_its_snapshot_gets_each_note_once(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        await add(harness, chat, ANNA, "hi")
        harness.nursery.start_soon(harness.console, OLGA)
        for n in range(20):
            await add(harness, chat, OLGA, f"{n}", Role.OPERATOR if n % 2 else None)
        await trio.sleep(1)
        [view] = harness.chats.consoles.views
        lines = told(view.session.events)  # type: ignore[attr-defined]
        numbers = [int(line.split()[1]) for line in lines if not line.endswith("hi")]
        assert numbers == list(range(numbers[0], 20))


async def test_the_operator_that_loses_a_race_reads_who_won_and_when(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        await add(harness, chat, ANNA, "hi")
        await trio.sleep(9)
        await harness.chats.perform(AcceptChat(chat, OLGA))
        with pytest.raises(ChatRefused, match=r"belongs to Olga \(id 1\) since 1970-01-01T00:00:09\+00:00"):
            await harness.chats.perform(AcceptChat(chat, PETR))
        await harness.chats.perform(TransferChat(chat, PETR, PETR.id))
