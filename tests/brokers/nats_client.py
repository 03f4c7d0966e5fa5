"""Prints messages of a JetStream stream, an array in JSON per line: `python -m tests.brokers.nats_client URL CHANNEL`.

It makes the stream if nobody has published yet, and prints what comes from then on. With a third argument, `all`, it
prints what is there, and ends.
"""

import asyncio
import json
import sys

import nats
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy


def show(message: Msg) -> None:
    line = json.dumps([message.subject, message.headers, message.data.decode()])
    print(line, flush=True)  # noqa: T201 - the test reads it


async def main(url: str, channel: str, which: str = "new") -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    if which == "all":
        there = (await stream.stream_info(channel)).state.messages
        policy = DeliverPolicy.ALL
    else:
        await stream.add_stream(
            name=channel, subjects=[f"{channel}.*"], max_msgs=100_000, description="Published by actorchat"
        )
        there = -1
        policy = DeliverPolicy.NEW
    config = ConsumerConfig(deliver_policy=policy)
    messages = await stream.subscribe(f"{channel}.*", ordered_consumer=True, config=config)
    if which == "new":
        print("listening", flush=True)  # noqa: T201 - the test reads it
    while there:
        show(await messages.next_msg(timeout=None))
        there -= 1


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
