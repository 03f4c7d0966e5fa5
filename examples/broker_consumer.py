"""Mails operators' notes to a CRM, from a Redis stream and in Trio: `python -m examples.broker_consumer`.

Start a server that publishes first: `actorchat serve --broker redis://127.0.0.1`. Another broker is named by the
environment: `BROKER=rediss://user:password@broker.example`.
"""

import os

import trio

from actorchat.client import open_broker_consumer
from actorchat.protocol import Message, MessageType, Role

BROKER = os.environ.get("BROKER", "redis://127.0.0.1")


async def main() -> None:
    # The group is this program's name. It goes on where it was, and gets every message once.
    async with open_broker_consumer(BROKER, "message", group="crm") as messages:
        async for item in messages:
            message = item.decode()
            if isinstance(message, Message):
                handle(item.source, message)


def handle(source: str, message: Message) -> None:
    """What it does with one message. If it raises, the message comes again with the next start."""
    author = "the server" if message.user is None else message.user.firstname or message.user.role
    if message.type is MessageType.SYSTEM and message.type_role is Role.OPERATOR:
        # An internal note, or what only operators may see: it must never reach the visitor.
        print(f"[{source}] note for operators by {author}: {message.text}", flush=True)
    else:
        print(f"[{source}] {author}: {message.text}", flush=True)


if __name__ == "__main__":
    trio.run(main)
