"""A whole chat server inside another Trio program: `python -m examples.embedded_chat`.

A visitor asks questions, and an operator, a few lines of this program, answers them. It needs no port, no file and no
token: the program itself says who connects. With a port in `Settings`, browsers can join the same chats.
"""

from __future__ import annotations

import trio

import actorchat
from actorchat.protocol import MessageAdded, Role, User

VISITOR = User(7, Role.USER, firstname="Anna")
OPERATOR = User(1, Role.OPERATOR, firstname="Olga")
ANSWERS = {"when do you open?": "At nine.", "and on sundays?": "We sleep on Sundays."}


async def serve_visitors(server: actorchat.Server, feed: actorchat.LocalSocket) -> None:
    """Answer the messages of visitors in their rooms until the feed ends."""
    async for event in feed:
        if not isinstance(event, MessageAdded) or event.message.user is None:
            continue
        if event.message.user.role is Role.USER:
            room = await server.connect_operator(OPERATOR, sources=["shop"], chat=event.message.chat.uuid)
            async with room:
                await room.mark_read(event.message.id)
                await room.send_message(ANSWERS.get(event.message.text.lower(), "I will ask."))


async def ask(visitor: actorchat.LocalSocket, question: str) -> str:
    """Send `question` and return the next message of an operator."""
    await visitor.send_message(question)
    async for event in visitor:
        if isinstance(event, MessageAdded) and event.message.user is not None:
            print(f"{event.message.user.firstname}: {event.message.text}")
            if event.message.user.role is Role.OPERATOR:
                return event.message.text
    raise ConnectionError(f"the chat ended with {visitor.close_code}")


async def main() -> None:
    settings = actorchat.Settings(storage="memory://", port=None)
    async with actorchat.open_server(settings) as server, trio.open_nursery() as nursery:
        feed = await server.connect_feed(OPERATOR, sources=["shop"])
        nursery.start_soon(serve_visitors, server, feed)
        visitor = await server.connect_visitor(source="shop", user=VISITOR)
        for question in (*ANSWERS, "And at night?"):
            await ask(visitor, question)
        # Closing the feed ends the task that reads it.
        await feed.aclose()


if __name__ == "__main__":
    trio.run(main)
