"""Rules about the operators' feed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from actorchat.testing.conformance.deployment import EXTENDED, STRICT, Deployment, expect
from actorchat.testing.conformance.http_rules import is_chat, is_message

__all__ = ["CHECKS"]


async def the_feed_begins_with_a_snapshot(deployment: Deployment) -> None:
    """A feed socket first gets the operators, the global value, and every chat that is not closed."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    await deployment.write(visitor, "hello")
    async with deployment.feed(operator, STRICT) as feed:
        chat = (await feed.event("chat_updated", lambda data: data["chat"]["uuid"] == visitor.chat))["chat"]
        is_chat(chat, "chat")
        kinds = [event["type"] for event in feed.seen]
        expect("global_updated" in kinds, "the snapshot has no global_updated before the chats")
        expect("operator_updated" in kinds, "the snapshot has no operator_updated before the chats")
        found = next(event["data"] for event in feed.seen if event["type"] == "operator_updated")
        fields = ["user", "is_online", "new_chats", "open_chats"]
        expect(list(found) == fields, f"operator_updated has the fields {list(found)}")


async def a_new_chat_is_announced_before_its_message(deployment: Deployment) -> None:
    """On the feed, chat_updated comes before the message_added of the same chat."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    async with deployment.feed(operator, STRICT) as feed:
        await feed.until_quiet()
        begun = len(feed.seen)
        await deployment.write(visitor, "hello")
        added = await feed.event("message_added", lambda data: data["message"]["chat"]["uuid"] == visitor.chat)
        is_message(added["message"], "message")
        before = [
            event["type"] for event in feed.seen[begun:-1] if event["data"].get("chat", {}).get("uuid") == visitor.chat
        ]
        expect(before == ["chat_updated"], f"before the message came {before or 'nothing'}")


async def the_feed_counts_unread_chats(deployment: Deployment) -> None:
    """unread_chats grows with a visitor's message, and shrinks when an operator reads it."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    async with deployment.feed(operator, STRICT) as feed:
        before = (await feed.event("global_updated"))["unread_chats"]
        await feed.until_quiet()
        message = await deployment.write(visitor, "hello")
        await feed.event("global_updated", lambda data: data["unread_chats"] == before + 1)
        async with deployment.room(visitor.chat, operator, STRICT) as room:
            await room.send("mark_message_read", message_id=message["id"])
            await feed.event("global_updated", lambda data: data["unread_chats"] == before)


async def the_feed_counts_the_chats_of_operators(deployment: Deployment) -> None:
    """open_chats grows when an operator accepts a chat, and shrinks when it is closed."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    await deployment.write(visitor, "hello")
    async with deployment.feed(operator, STRICT) as feed:
        await feed.until_quiet()
        user = (await deployment.ok("POST", f"/api/chats/{visitor.chat}/accept", operator))["operator_user"]["id"]
        after = await feed.event("operator_updated", lambda data: data["user"]["id"] == user)
        await deployment.ok("POST", f"/api/chats/{visitor.chat}/close", operator)
        closed = await feed.event("operator_updated", lambda data: data["user"]["id"] == user)
        expect(
            closed["open_chats"] == after["open_chats"] - 1,
            f"open_chats was {after['open_chats']}, and {closed['open_chats']} after closing",
        )


async def the_feed_has_no_system_messages(deployment: Deployment) -> None:
    """System messages are never on the feed of a strict socket, and not in the visitor's room."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    await deployment.write(visitor, "hello")
    async with (
        deployment.feed(operator, STRICT) as feed,
        deployment.room(visitor.chat, visitor.token, STRICT) as room,
        deployment.room(visitor.chat, operator, STRICT) as operators_room,
    ):
        await feed.until_quiet()
        note = {"text": "a note", "type": "system", "type_role": "operator"}
        await deployment.ok("POST", f"/api/chats/{visitor.chat}/messages", operator, note)
        await operators_room.message("a note")
        await deployment.write(visitor, "bye")
        await room.message("bye")
        await feed.message("bye")
        for where, socket in (("the feed", feed), ("the visitor's room", room)):
            shown = [event["data"]["message"]["text"] for event in socket.seen if event["type"] == "message_added"]
            expect("a note" not in shown, f"a note for operators is shown in {where}")


async def the_feed_shows_what_is_typed(deployment: Deployment) -> None:
    """The feed gets typing_updated with the text that a visitor types."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    await deployment.write(visitor, "hello")
    async with deployment.feed(operator, STRICT) as feed, deployment.room(visitor.chat, visitor.token) as room:
        await feed.until_quiet()
        await room.send("update_typing", text="a draft", stopped=False)
        typing = await feed.event("typing_updated", lambda data: data["chat_id"] == visitor.chat)
        expect(typing["text"] == "a draft", f"typing_updated says {typing['text']!r}")
        expect(list(typing) == ["text", "stopped", "chat_id", "user"], f"it has the fields {list(typing)}")


async def a_closed_chat_is_announced(deployment: Deployment) -> None:
    """Closing a chat is chat_updated on the feed, and a system message in the visitor's room."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    await deployment.write(visitor, "hello")
    async with (
        deployment.feed(operator, STRICT) as feed,
        deployment.room(visitor.chat, visitor.token, STRICT) as room,
        deployment.room(visitor.chat, visitor.token, EXTENDED) as extended,
    ):
        await feed.until_quiet()
        await deployment.ok("POST", f"/api/chats/{visitor.chat}/close", visitor.token)
        chat = (await feed.event("chat_updated", lambda data: data["chat"]["uuid"] == visitor.chat))["chat"]
        expect(chat["status"] == "closed", f"the feed shows the chat as {chat['status']}")
        message = (await room.event("message_added", lambda data: data["message"]["type"] == "system"))["message"]
        found = (message["type_role"], message["chat"]["status"])
        expect(found == ("user", "closed"), f"the system message says {found}")
        await extended.event("chat_updated", lambda data: data["chat"]["status"] == "closed")


CHECKS: Final[Mapping[int, Sequence[Callable[[Deployment], Awaitable[None]]]]] = {
    1: (
        the_feed_begins_with_a_snapshot,
        a_new_chat_is_announced_before_its_message,
        the_feed_counts_unread_chats,
        the_feed_counts_the_chats_of_operators,
        the_feed_has_no_system_messages,
        the_feed_shows_what_is_typed,
        a_closed_chat_is_announced,
    ),
}
"""The rules by the number of operators that they need."""
