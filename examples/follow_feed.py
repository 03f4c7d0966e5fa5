"""Follow all chats of a source over the network: `python -m examples.follow_feed`.

A backend would run `follow` for ever, with the URL of its server: it reconnects by itself. This program starts a server
for it, and a visitor who writes two messages.
"""

from __future__ import annotations

import trio

import actorchat
from actorchat.client import SnapshotBegins, open_api, open_feed
from actorchat.protocol import ChatUpdated, MessageAdded, Role, User

BACKEND = User(1, Role.OPERATOR, firstname="Backend")


async def follow(url: str, token: str, messages: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Print events of the chats of the token's sources until `messages` messages have arrived."""
    async with open_feed(url, token=token) as feed:
        await feed.wait_live()
        task_status.started()
        async for item in feed:
            match item:
                case SnapshotBegins():
                    print("connected: all chats that are not closed:")
                case ChatUpdated(chat=chat):
                    print(f"chat of {chat.owner_user.firstname}: {chat.status}")
                case MessageAdded(message=message):
                    print(f"{message.user.firstname if message.user else 'system'}: {message.text}")
                    messages -= 1
                    if not messages:
                        return


async def main() -> None:
    settings = actorchat.Settings(storage="memory://", port=0)
    async with actorchat.open_server(settings) as server, trio.open_nursery() as nursery:
        token = server.issue_token(BACKEND, sources=["shop"])
        await nursery.start(follow, server.url, token, 2)
        ann = server.issue_token(User(42, Role.USER, firstname="Ann"))
        async with open_api(server.url, token=ann) as api:
            visit = await api.visit("shop")
            await api.add_message(visit.chat.uuid, "do you ship abroad?")
            await api.add_message(visit.chat.uuid, "to Norway, that is")


if __name__ == "__main__":
    trio.run(main)
