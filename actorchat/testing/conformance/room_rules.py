"""Rules about the events of rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from actorchat.testing.conformance.deployment import EXTENDED, STRICT, Deployment, expect
from actorchat.testing.conformance.http_rules import is_message

__all__ = ["CHECKS"]


async def the_present_are_shown_first(deployment: Deployment) -> None:
    """A room socket first gets user_connected for each present user, itself included."""
    visitor = await deployment.visitor()
    async with deployment.room(visitor.chat, visitor.token, STRICT) as room:
        first = await room.next()
        expect(first["type"] == "user_connected", f"the first event is {first['type']}")
        expect(first["data"]["user"]["id"] == visitor.id, "the first user_connected is not the user itself")


async def every_socket_gets_each_message_once_in_order(deployment: Deployment) -> None:
    """All sockets of a room, the sender's too, get each message once, in the order of message_index."""
    visitor = await deployment.visitor()
    texts = [f"message {number}" for number in range(8)]
    async with (
        deployment.room(visitor.chat, visitor.token, STRICT) as one,
        deployment.room(visitor.chat, visitor.token, EXTENDED) as two,
    ):
        for number, text in enumerate(texts):
            await (one if number % 2 else two).send("send_message", text=text, attachments=[])
        for room in (one, two):
            await _all(room.event, len(texts))
            await room.until_quiet()
            added = [each["data"]["message"] for each in room.seen if each["type"] == "message_added"]
            indexes = [message["message_index"] for message in added]
            expect(indexes == list(range(len(texts))), f"a socket got the indexes {indexes}")
            expect(sorted(message["text"] for message in added) == texts, "a socket got other texts")
            for message in added:
                is_message(message, "message")


async def _all(event: Callable[[str], Awaitable[object]], count: int) -> None:
    for _ in range(count):
        await event("message_added")


async def announced_messages_are_stored(deployment: Deployment) -> None:
    """A message is stored before any socket gets it."""
    visitor = await deployment.visitor()
    async with deployment.room(visitor.chat, visitor.token, STRICT) as room:
        for number in range(3):
            await room.send("send_message", text=f"stored {number}", attachments=[])
            message = (await room.message(f"stored {number}"))["message"]
            stored = [each["id"] for each in await deployment.history(visitor.chat, visitor.token)]
            expect(message["id"] in stored, "a message that was announced is not in the history")


async def strict_sockets_get_only_the_contracts_fields(deployment: Deployment) -> None:
    """Strict sockets get only the contract's events and fields."""
    visitor = await deployment.visitor()
    known = {"message_added", "message_updated", "message_not_added", "user_connected", "user_disconnected"}
    async with (
        deployment.room(visitor.chat, visitor.token, STRICT) as strict,
        deployment.room(visitor.chat, visitor.token, EXTENDED) as extended,
    ):
        await extended.send("send_message", text="hello", attachments=[], client_id="a key")
        added = await strict.message("hello")
        expect(list(added) == ["message"], f"message_added has the fields {list(added)} on a strict socket")
        await strict.until_quiet()
        types = {event["type"] for event in strict.seen}
        expect(types <= known, f"a strict socket got {', '.join(sorted(types - known))}")


async def the_sender_recognizes_its_message_by_client_id(deployment: Deployment) -> None:
    """The sender's extended sockets get the client_id back; a repeated one is answered with the stored message."""
    visitor = await deployment.visitor()
    async with deployment.room(visitor.chat, visitor.token) as room:
        await room.send("send_message", text="hello", attachments=[], client_id="a key")
        first = await room.message("hello")
        expect(first.get("client_id") == "a key", f"client_id is {first.get('client_id')!r}")
        await room.send("send_message", text="hello", attachments=[], client_id="a key")
        again = await room.message("hello")
        expect(again["message"]["id"] == first["message"]["id"], "a repeated client_id made another message")
        await room.send("send_message", text="another", attachments=[], client_id="a key")
        refusal = await room.event("message_not_added")
        expect(refusal["code"] == "conflict", f"another text with the same client_id got {refusal['code']}")


async def nobody_marks_their_own_messages(deployment: Deployment) -> None:
    """A user's mark of its own message changes nothing."""
    visitor = await deployment.visitor()
    async with deployment.room(visitor.chat, visitor.token, STRICT) as room:
        await room.send("send_message", text="mine", attachments=[])
        message = (await room.message("mine"))["message"]
        await room.send("mark_message_read", message_id=message["id"])
        await room.until_quiet()
        expect(all(event["type"] != "message_updated" for event in room.seen), "the own message was updated")
    [stored] = await deployment.history(visitor.chat, visitor.token)
    expect(stored["status"] == "new", f"the own message is {stored['status']}")


async def a_socket_resumes_without_gaps_and_repeats(deployment: Deployment) -> None:
    """With ?after= a socket gets every later message once, in order, and then live ones."""
    visitor = await deployment.visitor()
    for number in range(6):
        await deployment.write(visitor, str(number))
    for after in (-1, 2, 5):
        async with deployment.room(visitor.chat, visitor.token, after=after) as room:
            live = f"live after {after}"
            await deployment.write(visitor, live)
            await room.message(live)
            indexes = [
                event["data"]["message"]["message_index"] for event in room.seen if event["type"] == "message_added"
            ]
            expect(indexes == list(range(after + 1, indexes[-1] + 1)), f"after={after} got the indexes {indexes}")
            expect(all(event["type"] != "resync_required" for event in room.seen), "a known position needs a resync")


async def a_position_of_another_history_is_resynchronized(deployment: Deployment) -> None:
    """A position beyond the newest message gets resync_required, and then everything."""
    visitor = await deployment.visitor()
    await deployment.write(visitor, "only one")
    async with deployment.room(visitor.chat, visitor.token, after=1_000) as room:
        resync = await room.event("resync_required")
        expect(resync["last_index"] == 0, f"last_index is {resync['last_index']}")
        await room.message("only one")


async def a_mark_covers_earlier_messages_and_never_goes_back(deployment: Deployment) -> None:
    """A mark covers all earlier messages of the other side, in index order; marks never go back or repeat."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    messages = [await deployment.write(visitor, str(number)) for number in range(3)]
    async with (
        deployment.room(visitor.chat, visitor.token, STRICT) as own,
        deployment.room(visitor.chat, operator, STRICT) as other,
    ):
        await other.send("mark_message_read", message_id=messages[2]["id"])
        for expected in range(3):
            updated = (await own.event("message_updated"))["message"]
            found = (updated["message_index"], updated["status"])
            expect(found == (expected, "read"), f"expected ({expected}, read), got {found}")
        await other.send("mark_message_delivered", message_id=messages[0]["id"])
        await other.send("mark_message_read", message_id=messages[2]["id"])
        later = [event["type"] for event in await own.until_quiet()]
        expect("message_updated" not in later, "an older or repeated mark caused message_updated")


async def receipts_arrive_as_one_event(deployment: Deployment) -> None:
    """On extended sockets a mark is one receipts event with the watermarks of that role."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    messages = [await deployment.write(visitor, str(number)) for number in range(2)]
    async with deployment.room(visitor.chat, visitor.token) as own, deployment.room(visitor.chat, operator) as other:
        await own.until_quiet()
        await other.send("mark_message_delivered", message_id=messages[1]["id"])
        data = await own.event("receipts")
        found = (data["chat_id"], data["role"], data["delivered"], data["read"])
        expect(found == (visitor.chat, "operator", 1, -1), f"receipts says {found}")


async def typing_is_shown_without_its_text_in_the_room(deployment: Deployment) -> None:
    """The other role in the room learns that somebody types, but not what; a stop follows a sent message."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    async with deployment.room(visitor.chat, visitor.token) as own, deployment.room(visitor.chat, operator) as other:
        await own.send("update_typing", text="a draft", stopped=False)
        typing = await other.event("typing_updated")
        expect((typing["text"], typing["stopped"]) == ("", False), f"typing_updated in the room says {typing}")
        expect(typing["user"]["id"] == visitor.id, "typing_updated names another user")
        await own.send("send_message", text="done", attachments=[])
        stop = await other.event("typing_updated", lambda data: data["stopped"])
        expect(stop["user"]["id"] == visitor.id, "the stop names another user")


CHECKS: Final[Mapping[int, Sequence[Callable[[Deployment], Awaitable[None]]]]] = {
    0: (
        the_present_are_shown_first,
        every_socket_gets_each_message_once_in_order,
        announced_messages_are_stored,
        strict_sockets_get_only_the_contracts_fields,
        the_sender_recognizes_its_message_by_client_id,
        nobody_marks_their_own_messages,
        a_socket_resumes_without_gaps_and_repeats,
        a_position_of_another_history_is_resynchronized,
    ),
    1: (
        a_mark_covers_earlier_messages_and_never_goes_back,
        receipts_arrive_as_one_event,
        typing_is_shown_without_its_text_in_the_room,
    ),
}
"""The rules by the number of operators that they need."""
