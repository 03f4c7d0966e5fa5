"""Rules about the websocket itself: the handshake, closing codes and malformed frames."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from uuid import uuid4

from actorchat.testing.conformance.deployment import EXTENDED, STRICT, Deployment, Room, expect

__all__ = ["CHECKS"]


async def refused_upgrades_have_a_status(deployment: Deployment) -> None:
    """Upgrades without a right are refused with 401, 403 or 404."""
    owner, stranger = await deployment.visitor(), await deployment.visitor()
    for status, path, token in (
        (401, f"/ws/chats/{owner.chat}", None),
        (401, f"/ws/chats/{owner.chat}", "no-token"),
        (403, f"/ws/chats/{owner.chat}", stranger.token),
        (404, f"/ws/chats/{uuid4()}", owner.token),
        (403, "/ws/operators", owner.token),
    ):
        async with deployment.connection() as peer:
            head = await deployment.upgrade(peer, path, (STRICT,), token)
        line = head.partition(b"\r\n")[0].decode("latin-1")
        expect(f" {status} " in f"{line} ", f"{path}: expected {status}, got {line!r}")


async def browsers_get_closing_codes(deployment: Deployment) -> None:
    """A client that offers bearer.<token> gets its refusal as a closing code: 4401, 4403 or 4404."""
    owner, stranger = await deployment.visitor(), await deployment.visitor()
    for code, chat, token in (
        (4401, owner.chat, "no-token"),
        (4403, owner.chat, stranger.token),
        (4404, str(uuid4()), owner.token),
    ):
        async with deployment.connection() as peer:
            head = await deployment.upgrade(peer, f"/ws/chats/{chat}", (STRICT, f"bearer.{token}"))
            expect(b" 101 " in head, f"expected an upgrade and then {code}, got {head[:40]!r}")
            found = await Room(peer).close_code()
        expect(found == code, f"expected the closing code {code}, got {found}")


async def three_malformed_frames_close_the_socket(deployment: Deployment) -> None:
    """Three malformed frames in a row close the socket with 1008; a valid frame in between resets the count."""
    visitor = await deployment.visitor()
    async with deployment.room(visitor.chat, visitor.token, STRICT) as room:
        for _ in range(2):
            await room.peer.send_text("[]")
        await room.send("send_message", text="still here", attachments=[])
        await room.message("still here")
        for raw in ('{"type": "mark_message_read", "data": {}}', "no JSON", "[]"):
            await room.peer.send_text(raw)
        found = await room.close_code()
        expect(found == 1008, f"expected the closing code 1008 after three malformed frames, got {found}")


async def large_and_undecodable_frames_close_the_socket(deployment: Deployment) -> None:
    """A frame of more than 64 KiB closes the socket with 1009, one that is not UTF-8 with 1007."""
    visitor = await deployment.visitor()
    for code, payload in ((1009, b'"' + b"x" * 70_000 + b'"'), (1007, b'{"type": "\xff"}')):
        async with deployment.room(visitor.chat, visitor.token, STRICT) as room:
            await room.peer.send_text(payload)
            found = await room.close_code()
        expect(found == code, f"expected the closing code {code}, got {found}")


async def unknown_events_are_ignored_or_answered(deployment: Deployment) -> None:
    """Unknown types are ignored on strict sockets, and answered with error on extended ones."""
    visitor = await deployment.visitor()
    async with deployment.room(visitor.chat, visitor.token, STRICT) as room:
        for _ in range(5):
            await room.send("no_such_event", anything=1)
        await room.send("send_message", text="after it", attachments=[], unknown_field=1)
        await room.message("after it")
        types = {event["type"] for event in room.seen}
        expect("error" not in types, "a strict socket got the event error")
    async with deployment.room(visitor.chat, visitor.token, EXTENDED) as room:
        await room.send("no_such_event", anything=1)
        error = await room.event("error")
        expect(error.keys() >= {"code", "detail", "path"}, f"error has the fields {list(error)}")


async def a_malformed_message_is_answered_in_both_profiles(deployment: Deployment) -> None:
    """A malformed or empty send_message gets message_not_added, and is not stored."""
    visitor = await deployment.visitor()
    fields = ["code", "detail", "retryable", "retry_after", "text", "client_id", "chat_id", "attachments"]
    for profile in (STRICT, EXTENDED):
        async with deployment.room(visitor.chat, visitor.token, profile) as room:
            await room.send("send_message", text=1)
            refusal = await room.event("message_not_added")
            expect(refusal["code"] == "malformed", f"expected malformed, got {refusal['code']}")
            expect(sorted(refusal) == sorted(fields), f"message_not_added has the fields {list(refusal)}")
            await room.send("send_message", text="", attachments=[])
            refusal = await room.event("message_not_added")
            expect(refusal["code"] == "empty", f"expected empty, got {refusal['code']}")
            expect(refusal["chat_id"] == visitor.chat, "message_not_added has another chat_id")
    expect(not await deployment.history(visitor.chat, visitor.token), "a refused message is stored")


CHECKS: Final[Mapping[int, Sequence[Callable[[Deployment], Awaitable[None]]]]] = {
    0: (
        refused_upgrades_have_a_status,
        browsers_get_closing_codes,
        three_malformed_frames_close_the_socket,
        large_and_undecodable_frames_close_the_socket,
        unknown_events_are_ignored_or_answered,
        a_malformed_message_is_answered_in_both_profiles,
    ),
}
"""The rules by the number of operators that they need."""
